"""Models whose writes by other programs are captured."""

import enum
from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel
from tests.support.models.field_models import Level, Mood, PointField


class Estate(Model):
    """A parent without a cache, whose venues are deleted with it."""

    id = fields.IntField(primary_key=True, generated=False)


class Venue(CachedModel):
    """A parent whose seats are deleted with it."""

    id = fields.IntField(primary_key=True, generated=False)
    name = fields.CharField(max_length=40, default="")
    estate: fields.ForeignKeyNullableRelation[Estate] = fields.ForeignKeyField(
        "app.Estate", related_name="venues", null=True
    )

    class CacheMeta:
        relay = True


class Label(CachedModel):
    """The other end of a many-to-many relation."""

    id = fields.IntField(primary_key=True, generated=False)
    text = fields.CharField(max_length=40, default="")


class Seat(CachedModel):
    """A row with a unique key, a list by its venue, and a column that is no part of a key."""

    id = fields.IntField(primary_key=True, generated=False)
    code = fields.CharField(max_length=40, unique=True)
    venue: fields.ForeignKeyNullableRelation[Venue] = fields.ForeignKeyField(
        "app.Venue", related_name="seats", null=True
    )
    patron: fields.ForeignKeyNullableRelation["Patron"] = fields.ForeignKeyField(
        "app.Patron", related_name="seats", null=True, on_delete=fields.SET_NULL
    )
    price = fields.IntField(default=0)
    labels: fields.ManyToManyRelation[Label] = fields.ManyToManyField(
        "app.Label", related_name="seats", through="seat_label"
    )

    class CacheMeta:
        get_key_fields_list = [("code",)]
        filter_key_fields_list = [("venue",), ("patron",)]
        cached_manytomany = ["labels"]
        relay = True


class Patron(Model):
    """A parent without a cache, whose delete sets NULL in seats."""

    id = fields.IntField(primary_key=True, generated=False)


class Branch(CachedModel):
    """A tree, whose rows are deleted with their parents."""

    id = fields.IntField(primary_key=True, generated=False)
    parent: fields.ForeignKeyNullableRelation["Branch"] = fields.ForeignKeyField(
        "app.Branch", related_name="branches", null=True
    )

    class CacheMeta:
        relay = True


class Reading(CachedModel):
    """A row whose table a test makes a partitioned one."""

    id = fields.IntField(primary_key=True, generated=False)
    region = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("region",)]
        relay = True


class Unrelayed(CachedModel):
    """A row whose writes by other programs are not captured."""

    id = fields.IntField(primary_key=True, generated=False)


class Hue(enum.Enum):
    RED = "red"
    GREEN = "Grün"


class Typed(CachedModel):
    """A row with a key of every type that a key can have."""

    id = fields.BigIntField(primary_key=True, generated=False)
    small = fields.SmallIntField(null=True)
    medium = fields.IntField(null=True)
    big = fields.BigIntField(null=True)
    flag = fields.BooleanField(null=True)
    char = fields.CharField(max_length=80, null=True, source_field="character_column")
    text = fields.TextField(null=True)
    number = fields.FloatField(null=True)
    price = fields.DecimalField(max_digits=18, decimal_places=4, null=True)
    ref = fields.UUIDField(null=True)
    day = fields.DateField(null=True)
    moment = fields.DatetimeField(null=True)
    clock = fields.TimeField(null=True)
    span = fields.TimeDeltaField(null=True)
    level = fields.IntEnumField(Level, null=True)
    hue = fields.CharEnumField(Hue, null=True)
    mood = fields.CharEnumField(Mood, null=True)
    point: Any = PointField(null=True)

    class CacheMeta:
        filter_key_fields_list = [
            ("small",), ("medium",), ("big",), ("flag",), ("char",), ("text",), ("number",), ("price",), ("ref",),
            ("day",), ("moment",), ("clock",), ("span",), ("level",), ("hue",), ("mood",), ("point",),
        ]  # fmt: skip
        relay = True


class Spelling(CachedModel):
    """A row whose primary key is a text."""

    word = fields.CharField(max_length=40, primary_key=True)
    size = fields.IntField(default=0)

    class CacheMeta:
        relay = True
