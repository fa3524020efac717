"""Models with lists of all rows, and with lists that are read in parts."""

from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, InstanceCache, QuerysetCache, QuerysetCountCache


class Country(CachedModel):
    """A small table that is read whole, in no declared order."""

    id = fields.IntField(primary_key=True)
    code = fields.CharField(max_length=2, unique=True)
    name = fields.CharField(max_length=40, default="")

    class CacheMeta:
        get_key_fields_list = [("code",)]
        filter_key_fields_list = [()]


class Site(CachedModel):
    """A table of a single row."""

    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=40, default="")

    class CacheMeta:
        get_key_fields_list = [()]


class Room(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)
    site: fields.ForeignKeyRelation[Site] = fields.ForeignKeyField("app.Site", related_name="rooms")


class Track(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Talk(CachedModel):
    id = fields.IntField(primary_key=True)
    track: fields.ForeignKeyRelation[Track] = fields.ForeignKeyField("app.Track", related_name="talks")
    place = fields.IntField(default=0)
    title = fields.CharField(max_length=40, default="")
    room = fields.CharField(max_length=10, null=True)

    class Meta:
        ordering = ["-place"]

    class CacheMeta:
        filter_key_fields_list = [(), ("track",), ("track", "place")]


class Thread(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, default="")


class Post(CachedModel):
    """A model of lists that are read page by page."""

    id = fields.IntField(primary_key=True)
    thread: fields.ForeignKeyRelation[Thread] = fields.ForeignKeyField("app.Thread", related_name="posts")
    place = fields.IntField(default=0)
    title = fields.CharField(max_length=40, default="")

    class CacheMeta:
        filter_key_fields_list = [("thread",)]
        order_by = ["-place"]
        paged = True


class Label(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    talks: fields.ManyToManyRelation[Talk] = fields.ManyToManyField("app.Talk", related_name="labels")

    class CacheMeta:
        cached_manytomany = ["talks"]


class SiteCache(InstanceCache[Site]):
    model = Site
    key_fields = ()


class LastTalks(QuerysetCache[Talk]):
    model = Talk
    key_fields = ()
    order_by: ClassVar = ["-id"]
    limit = 3


class TopTalks(QuerysetCache[Talk]):
    model = Talk
    key_fields = ("track",)
    limit = 6


class TopPosts(QuerysetCache[Post]):
    model = Post
    key_fields = ("thread",)
    order_by: ClassVar = ["place"]
    limit = 6
    paged = True


class TalkCount(QuerysetCountCache):
    model = Talk
    key_fields = ()
