"""Models of tests of derived entries: events with organizers, venues and tags, and a table that nothing notices."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, InvalidationType


class Organizer(CachedModel):
    """A row that others refer to by a cascading key."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    seen = fields.IntField(default=0)

    class CacheMeta:
        queries_ignore = ["seen"]


class Happening(CachedModel):
    """A row found by keys and by queries."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    level = fields.IntField(default=0)
    organizer: Any = fields.ForeignKeyField("app.Organizer", related_name="happenings")
    labels: Any = fields.ManyToManyField("app.Label", related_name="happenings")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer",)]
        cached_foreignkeys = ["organizer"]


class Label(CachedModel):
    """A row at the other end of many-to-many links whose lists are not cached."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Shelf(CachedModel):
    """A row whose table nothing is derived from."""

    id = fields.IntField(primary_key=True)
    level = fields.IntField(default=0)

    class CacheMeta:
        queries = False


class Frozen(CachedModel):
    """A row that writes do not invalidate."""

    id = fields.IntField(primary_key=True)
    level = fields.IntField(default=0)

    class CacheMeta:
        invalidation = InvalidationType.OFF


class Plain(Model):
    """A row of a model without a cache."""

    id = fields.IntField(primary_key=True)
    level = fields.IntField(default=0)


class Seat(CachedModel):
    """A row whose queries depend on its row of seats alone, if they ask for one."""

    id = fields.IntField(primary_key=True)
    line = fields.IntField(default=0)
    price = fields.IntField(default=0)
    looked_at = fields.IntField(default=0)

    class CacheMeta:
        queries_by = ["line"]
        queries_ignore = ["looked_at"]


class Tag(CachedModel):
    """A row whose links to organizers are rows of a model."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    links: Any = fields.ManyToManyField(
        "app.Organizer", related_name="tags", through="tagging", forward_key="organizer_id", backward_key="tag_id"
    )


class Tagging(CachedModel):
    """A link, whose table nothing is derived from."""

    id = fields.IntField(primary_key=True)
    tag: Any = fields.ForeignKeyField("app.Tag", related_name="taggings")
    organizer: Any = fields.ForeignKeyField("app.Organizer", related_name="taggings")

    class Meta:
        table = "tagging"

    class CacheMeta:
        queries = False
