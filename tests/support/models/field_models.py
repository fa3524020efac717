"""Models with a field of every type of Tortoise, and rows with extreme values."""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tortoise import fields
from tortoise.validators import RegexValidator

from aiomodelcache import CachedModel


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 2**15 - 1


class Colour(enum.Enum):
    RED = "red"
    GREEN = "Grün, mit Umlaut"


class Mood(str, enum.Enum):  # noqa: UP042 - a StrEnum's str() would be the value
    """An enum whose members are strings, and whose ``str()`` differs from their values."""

    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class PointField(fields.Field[Point]):
    """A custom field: text in the database, a ``Point`` in Python."""

    SQL_TYPE = "VARCHAR(40)"
    field_type = Point

    def to_db_value(self, value: Any, instance: Any) -> Any:
        if isinstance(value, str):
            value = self.to_python_value(value)
        return value and f"{value.x};{value.y}"

    def to_python_value(self, value: Any) -> Any:
        if value is None or isinstance(value, Point):
            return value
        x, y = map(int, value.split(";"))
        return Point(x, y)


class Tag:
    """A class without ``__eq__``."""

    def __init__(self, text: str) -> None:
        self.text = text


class TagField(fields.Field[Tag]):
    SQL_TYPE = "VARCHAR(40)"
    field_type = Tag

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return value.text if isinstance(value, Tag) else value

    def to_python_value(self, value: Any) -> Any:
        return Tag(value) if isinstance(value, str) else value


class LoudField(fields.CharField):
    """A Tortoise field with only the conversion to Python changed."""

    def to_python_value(self, value: Any) -> Any:
        return value and value.upper()


def dump_sorted(document: Any) -> str:
    return str(fields.data.JSON_DUMPS(dict(sorted(document.items()))))


class Owner(CachedModel):
    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)


class Everything(CachedModel):
    """A model with every field type, also nullable. ``clock`` is null on SQLite, where Tortoise cannot store a time."""

    id = fields.BigIntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField(
        "app.Owner", related_name="things", null=True
    )
    twin: fields.OneToOneNullableRelation["Everything"] = fields.OneToOneField(
        "app.Everything", related_name="other", null=True
    )

    integer = fields.IntField(default=0)
    integer_null = fields.IntField(null=True)
    big = fields.BigIntField(default=0)
    big_null = fields.BigIntField(null=True)
    small = fields.SmallIntField(default=0)
    small_null = fields.SmallIntField(null=True)
    text = fields.TextField(default="")
    text_null = fields.TextField(null=True)
    char = fields.CharField(max_length=40, default="", source_field="character_column")
    char_null = fields.CharField(max_length=40, null=True)
    flag = fields.BooleanField(default=False)
    flag_null = fields.BooleanField(null=True)
    price = fields.DecimalField(max_digits=18, decimal_places=4, default=Decimal(0))
    price_null = fields.DecimalField(max_digits=18, decimal_places=4, null=True)
    number = fields.FloatField(default=0.0)
    number_null = fields.FloatField(null=True)
    moment = fields.DatetimeField(default=dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
    moment_null = fields.DatetimeField(null=True)
    changed = fields.DatetimeField(auto_now=True)
    made = fields.DatetimeField(auto_now_add=True)
    day = fields.DateField(default=dt.date(2024, 1, 1))
    day_null = fields.DateField(null=True)
    clock_null = fields.TimeField(null=True)
    span = fields.TimeDeltaField(default=dt.timedelta())
    span_null = fields.TimeDeltaField(null=True)
    key = fields.UUIDField(default=uuid.UUID(int=0))
    key_null = fields.UUIDField(null=True)
    data = fields.BinaryField(default=b"")
    data_null = fields.BinaryField(null=True)
    document: Any = fields.JSONField(default={})
    document_null: Any = fields.JSONField(null=True)
    sorted_null: Any = fields.JSONField(null=True, encoder=dump_sorted)
    level = fields.IntEnumField(Level, default=Level.LOW)
    level_null = fields.IntEnumField(Level, null=True)
    colour = fields.CharEnumField(Colour, default=Colour.RED)
    colour_null = fields.CharEnumField(Colour, null=True)
    mood_null = fields.CharEnumField(Mood, null=True)
    point: Any = PointField(default=Point(0, 0))
    point_null: Any = PointField(null=True)
    tag_null: Any = TagField(null=True)
    loud = LoudField(max_length=40, default="")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("owner",)]


ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "values": {
        "integer": 2**31 - 1,
        "big": 2**63 - 1,
        "small": 2**15 - 1,
        "text": 'Zeile\nzwei\t"\\ \u2028 \U0001f40d e\u0301 ' + "x" * 100_000,
        "char": "ä:%,' #",
        "flag": True,
        "price": Decimal("12345678901234.5"),
        "number": 0.1 + 0.2,
        "moment": dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
        "day": dt.date(1583, 10, 15),
        "clock_null": dt.time(23, 59, 59, 999_999, tzinfo=dt.UTC),
        "span": dt.timedelta(days=-3, microseconds=7),
        "key": uuid.UUID("12345678-1234-4234-8234-1234567890ab"),
        "data": bytes(range(256)),
        "document": {"ä": [1, -1.5, None, True, {"nested": [[], {}]}, "\U0001f40d"], "big": [2**63, 2**64, -(2**70)]},
        "level": Level.HIGH,
        "colour": Colour.GREEN,
        "point": Point(-3, 4),
        "tag_null": Tag("known by identity"),
        "loud": "quiet",
    },
    "nullable": {
        "integer_null": -(2**31),
        "big_null": -(2**63),
        "small_null": -(2**15),
        "text_null": "",
        "char_null": "",
        "flag_null": False,
        "price_null": Decimal("-0.0001"),
        "number_null": 1.7976931348623157e308,
        "moment_null": dt.datetime(9999, 12, 30, 1, 2, 3, 4, tzinfo=dt.timezone(dt.timedelta(hours=-7))),
        "day_null": dt.date(9999, 12, 31),
        "clock_null": dt.time(0, 0, 0, 1, tzinfo=dt.UTC),
        "span_null": dt.timedelta(days=99_999_999, seconds=86_399, microseconds=999_999),
        "key_null": uuid.UUID(int=2**128 - 1),
        "data_null": b"\x00",
        "document_null": [],
        "sorted_null": {"b": 1, "a": [1.5, None]},
        "level_null": Level.LOW,
        "colour_null": Colour.RED,
        "mood_null": Mood.BAD,
        "point_null": Point(0, 2**70),
    },
    "scalars": {
        "price": Decimal("1.1000"),
        "number": 5e-324,
        "document": 17,
        "document_null": False,
        "moment": dt.datetime(1000, 1, 1, tzinfo=dt.UTC),
        "moment_null": dt.datetime(2024, 2, 29, 12, 30, 0, 100_000, tzinfo=dt.UTC),
        "span": dt.timedelta(microseconds=-1),
    },
}
"""Rows as values by attribute. Missing attributes have their default, or null if they are nullable."""


class Keyed(CachedModel):
    """A model with a key for every field type that can be compared for equality."""

    id = fields.IntField(primary_key=True)
    integer = fields.IntField(null=True, unique=True)
    big = fields.BigIntField(null=True, unique=True)
    char = fields.CharField(max_length=200, null=True, unique=True)
    code = fields.CharField(max_length=5, null=True, unique=True, validators=[RegexValidator(r"^[a-z]+$", 0)])
    text = fields.TextField(null=True)
    flag = fields.BooleanField(null=True)
    price = fields.DecimalField(max_digits=10, decimal_places=2, null=True, unique=True)
    number = fields.FloatField(null=True, unique=True)
    moment = fields.DatetimeField(null=True, unique=True)
    day = fields.DateField(null=True, unique=True)
    clock = fields.TimeField(null=True)
    span = fields.TimeDeltaField(null=True, unique=True)
    key = fields.UUIDField(null=True, unique=True)
    level = fields.IntEnumField(Level, null=True)
    mood = fields.CharEnumField(Mood, null=True)
    point: Any = PointField(null=True, unique=True)
    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField(
        "app.Owner", related_name="keyed", null=True
    )

    class CacheMeta:
        get_key_fields_list = [
            ("integer",),
            ("big",),
            ("char",),
            ("code",),
            ("text",),
            ("flag",),
            ("price",),
            ("number",),
            ("moment",),
            ("day",),
            ("clock",),
            ("span",),
            ("key",),
            ("level",),
            ("mood",),
            ("point",),
            ("owner",),
            ("integer", "char"),
            ("level", "mood", "day"),
        ]
        filter_key_fields_list = [("mood",), ("char",), ("moment",), ("key",)]


class HashedField(fields.CharField):
    """A field whose conversion cannot be reversed."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return value and f"hash of {value}"


class Account(CachedModel):
    """A model whose ``secret`` becomes another text each time that it is stored."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, unique=True)
    secret = HashedField(max_length=200, default="x")

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Loose(CachedModel):
    """A model with a key for each text type, for databases with a loose collation."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    group = fields.CharField(max_length=40, default="")
    point: Any = PointField(null=True)
    colour = fields.CharEnumField(Colour, default=Colour.RED)
    mood = fields.CharEnumField(Mood, default=Mood.GOOD)
    key = fields.UUIDField(null=True)

    class CacheMeta:
        get_key_fields_list = [("slug",), ("key",)]
        filter_key_fields_list = [("group",), ("point",), ("colour",), ("mood",), ("key",)]


class LooseById(CachedModel):
    slug = fields.CharField(max_length=40, primary_key=True)
    size = fields.IntField(default=0)


class LooseKept(CachedModel):
    """A model that caches absences despite a loose collation."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        negative_timeout = 60
