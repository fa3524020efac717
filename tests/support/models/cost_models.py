"""Models for the costs of writes: see ``docs/writes.md``."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, QuerysetCountCache


class User(CachedModel):
    """A cached model whose rows are deleted along with their events."""

    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)


class Event(CachedModel):
    """A cached model with keys, to which no model refers."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=64, default="")
    day = fields.IntField(default=0)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="events")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer", "day")]


class Mark(CachedModel):
    """A cached model whose only key is the primary key, which the database generates."""

    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=64, default="")


class Guest(CachedModel):
    """A cached model with a computed result, which counts guests by their table."""

    id = fields.IntField(primary_key=True)
    table_number = fields.IntField(default=0)
    name = fields.CharField(max_length=64, default="")


class GuestCount(QuerysetCountCache):
    model = Guest
    key_fields = ("table_number",)


class Reply(CachedModel):
    """A cached model with a paged list."""

    id = fields.IntField(primary_key=True)
    thread = fields.IntField(default=0)
    text = fields.CharField(max_length=64, default="")

    class CacheMeta:
        filter_key_fields_list = [("thread",)]
        paged = True


class Badge(CachedModel):
    """A cached model with many-to-many relations."""

    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=64, default="")
    wearers: fields.ManyToManyRelation["Wearer"] = fields.ManyToManyField("app.Wearer", related_name="badges")
    scraps: fields.ManyToManyRelation["Scrap"] = fields.ManyToManyField("app.Scrap", related_name="badges")
    makers: fields.ManyToManyRelation["Wearer"] = fields.ManyToManyField(
        "app.Wearer", related_name="made", through="badge_maker"
    )

    class CacheMeta:
        cached_manytomany = ["wearers", "makers"]


class Wearer(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, default="")

    class CacheMeta:
        cached_manytomany = ["badges"]


class Scrap(Model):
    """A model without a cache and without cached dependents."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)


class Part(Model):
    """A model without a cache that is deleted along with its scrap."""

    id = fields.IntField(primary_key=True)
    scrap: fields.ForeignKeyRelation[Scrap] = fields.ForeignKeyField("app.Scrap", related_name="parts")
