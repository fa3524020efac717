"""Models whose writes are counted: see ``docs/writes.md``."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, QuerysetCountCache


class User(CachedModel):
    """Deleting one deletes its events."""

    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)


class Event(CachedModel):
    """Nothing refers to it."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=64, default="")
    day = fields.IntField(default=0)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="events")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer", "day")]


class Mark(CachedModel):
    """No key but the primary key, which the database makes."""

    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=64, default="")


class Guest(CachedModel):
    """Counted by the table that they sit at."""

    id = fields.IntField(primary_key=True)
    table_number = fields.IntField(default=0)
    name = fields.CharField(max_length=64, default="")


class GuestCount(QuerysetCountCache):
    model = Guest
    key_fields = ("table_number",)


class Badge(CachedModel):
    """Worn by many, and many are worn."""

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
    """No cache, and nothing cached depends on it."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)


class Part(Model):
    """Deleted along with a scrap."""

    id = fields.IntField(primary_key=True)
    scrap: fields.ForeignKeyRelation[Scrap] = fields.ForeignKeyField("app.Scrap", related_name="parts")
