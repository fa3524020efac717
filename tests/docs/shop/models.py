"""Models of events, with keys of every kind."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel


class User(CachedModel):
    """The organizer of events."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, unique=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Tag(CachedModel):
    """A tag of events."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Event(CachedModel):
    """An event."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    title = fields.CharField(max_length=40, default="")
    public = fields.BooleanField(default=True)
    organizer: Any = fields.ForeignKeyField("shop.User", related_name="events")
    tags: Any = fields.ManyToManyField("shop.Tag", related_name="events")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer",), ("public",)]
        cached_foreignkeys = ["organizer"]
        cached_manytomany = ["tags"]


class Fee(CachedModel):
    """A fee, which another program may change."""

    id = fields.IntField(primary_key=True)
    amount = fields.IntField(default=0)

    class CacheMeta:
        relay = True


class Order(Model):
    """An order, which another cache holds."""

    id = fields.IntField(primary_key=True)
    total = fields.IntField(default=0)
    updated = fields.DatetimeField(auto_now=True)
