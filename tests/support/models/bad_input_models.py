"""A model with a key by every type of column that can be part of a key, to be looked up by bad values."""

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

from tortoise import fields

from aiomodelcache import (
    CachedModel,
    InstanceCache,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Owner(CachedModel):
    id = fields.UUIDField(primary_key=True)


class Thing(CachedModel):
    """``clock`` is null on SQLite, where Tortoise cannot store a time."""

    id = fields.BigIntField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True, null=True)
    key = fields.UUIDField(unique=True)
    text = fields.TextField(null=True)
    integer = fields.IntField(null=True)
    small = fields.SmallIntField(null=True)
    flag = fields.BooleanField(null=True)
    price = fields.DecimalField(max_digits=10, decimal_places=2, null=True)
    ratio = fields.FloatField(null=True)
    moment = fields.DatetimeField(null=True)
    day = fields.DateField(null=True)
    clock = fields.TimeField(null=True)
    span = fields.TimeDeltaField(null=True)
    level = fields.IntEnumField(Level, null=True)
    colour = fields.CharEnumField(Colour, null=True)
    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField("app.Owner", null=True)

    class CacheMeta:
        get_key_fields_list = [("name",), ("key",)]
        filter_key_fields_list = [
            ("text",), ("integer",), ("small",), ("flag",), ("price",), ("ratio",), ("moment",), ("day",), ("clock",),
            ("span",), ("level",), ("colour",), ("owner",), ("integer", "text"),
        ]  # fmt: skip
        cached_foreignkeys = ["owner"]


class ThingByName(InstanceCache):
    model = Thing
    key_fields = ("name",)


class ThingsByText(QuerysetCache):
    model = Thing
    key_fields = ("text",)


class ThingsExist(QuerysetExistsCache):
    model = Thing
    key_fields = ("integer",)


class ThingCount(QuerysetCountCache):
    model = Thing
    key_fields = ("flag",)


class ThingTexts(ResultCache[list[str]]):
    model = Thing
    key_fields = ("small",)

    async def get_result(self, small: int) -> list[str]:
        raise NotImplementedError


FIELDS = (
    "id", "name", "key", "text", "integer", "small", "flag", "price", "ratio", "moment", "day", "clock", "span",
    "level", "colour", "owner",
)  # fmt: skip
UNIQUE = ("id", "name", "key")

ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": "", "key": uuid.UUID(int=0)},
    {
        "id": 2,
        "name": "0",
        "key": uuid.UUID(int=1),
        "text": "",
        "integer": 0,
        "small": 0,
        "flag": False,
        "price": Decimal(0),
        "ratio": 0.0,
        "moment": dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        "day": dt.date(1970, 1, 1),
        "clock": dt.time(0, 0),
        "span": dt.timedelta(0),
        "level": Level.LOW,
        "colour": Colour.RED,
    },
    {
        "id": 3,
        "name": "1",
        "key": uuid.UUID(int=2**128 - 1),
        "text": "1",
        "integer": 1,
        "small": 1,
        "flag": True,
        "price": Decimal(1),
        "ratio": 1.0,
        "moment": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "day": dt.date(2024, 1, 1),
        "clock": dt.time(1, 2, 3),
        "span": dt.timedelta(1),
        "level": Level.HIGH,
        "colour": Colour.BLUE,
    },
    {"id": 2**63 - 1, "name": "None", "key": uuid.uuid5(uuid.NAMESPACE_DNS, "x"), "text": "nan", "integer": -1},
    {"id": -1, "name": "a", "key": uuid.uuid5(uuid.NAMESPACE_DNS, "y"), "text": "[]", "ratio": 0.5, "small": 10},
]
"""Rows with values that bad values might be taken for: falsy ones, texts of other types, extremes."""
