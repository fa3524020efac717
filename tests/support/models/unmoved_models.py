"""Models with keys of several types, whose rows are saved without being moved."""

from enum import IntEnum

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, ModelCacheManager


class Kind(IntEnum):
    CHORE = 1
    ERRAND = 2


class Task(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    owner = fields.IntField(default=1)
    room = fields.IntField(null=True)
    place = fields.IntField(default=0)
    title = fields.CharField(max_length=40, default="")
    changed = fields.DatetimeField(auto_now=True)

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("owner",), ("room",), ("owner", "room")]


class Chore(CachedModel):
    """Keys of every type, in the order of a moment."""

    id = fields.IntField(primary_key=True)
    done = fields.BooleanField(default=False)
    code = fields.UUIDField()
    day = fields.DateField()
    kind = fields.IntEnumField(Kind)
    due = fields.DatetimeField()
    price = fields.DecimalField(max_digits=6, decimal_places=2)
    effort = fields.FloatField()
    title = fields.CharField(max_length=40, default="")

    class Meta:
        ordering = ["-due", "id"]

    class CacheMeta:
        filter_key_fields_list = [("done",), ("code",), ("day",), ("kind",), ("due",), ("price",), ("effort",)]


class Errand(Model):
    """A plain model with a separate manager."""

    id = fields.IntField(primary_key=True)
    owner = fields.IntField(default=1)
    title = fields.CharField(max_length=40, default="")


class ErrandCaches(ModelCacheManager[Errand]):
    model = Errand
    filter_key_fields_list = [("owner",)]
