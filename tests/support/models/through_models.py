"""Models whose writers store the rows that they save."""

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel, InvalidationType


class Status(enum.IntEnum):
    OPEN = 1
    DONE = 2


class Colour(str, enum.Enum):  # noqa: UP042 - a StrEnum's str() would be the value
    RED = "red"
    BLUE = "blue"


class Account(CachedModel):
    """A row that a full save knows, with a key that the program chooses."""

    id = fields.IntField(primary_key=True, generated=False)
    email = fields.CharField(max_length=64, unique=True)
    balance = fields.IntField(default=0)
    visits = fields.IntField(default=0)
    saved_at = fields.DatetimeField(auto_now=True)

    class CacheMeta:
        get_key_fields_list = [("email",)]
        filter_key_fields_list = [("balance",)]
        write_through = True


class Ticket(CachedModel):
    """A row whose key the database makes, and with a document, which a save does not know."""

    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=64, default="")
    notes: Any = fields.JSONField(null=True)

    class CacheMeta:
        write_through = True


class Plain(CachedModel):
    """A row that its writers do not store."""

    id = fields.IntField(primary_key=True, generated=False)
    text = fields.CharField(max_length=64, default="")


class Refilled(CachedModel):
    """A row that is looked up after each write."""

    id = fields.IntField(primary_key=True, generated=False)
    text = fields.CharField(max_length=64, default="")

    class CacheMeta:
        write_through = True
        invalidation = InvalidationType.RESET


class Typed(CachedModel):
    """A row with all types of columns that a save may know."""

    id = fields.BigIntField(primary_key=True, generated=False)
    small = fields.SmallIntField(null=True)
    integer = fields.IntField(null=True)
    big = fields.BigIntField(null=True)
    flag = fields.BooleanField(null=True)
    char = fields.CharField(max_length=40, null=True)
    text = fields.TextField(null=True)
    binary = fields.BinaryField(null=True)
    number = fields.FloatField(null=True)
    price = fields.DecimalField(max_digits=12, decimal_places=3, null=True)
    ref = fields.UUIDField(null=True)
    day = fields.DateField(null=True)
    moment = fields.DatetimeField(null=True)
    length = fields.TimeDeltaField(null=True)
    status = fields.IntEnumField(Status, null=True)
    colour = fields.CharEnumField(Colour, null=True)
    document: Any = fields.JSONField(null=True)

    class CacheMeta:
        write_through = True


PARIS = dt.timezone(dt.timedelta(hours=2))
VALUES: dict[str, list[Any]] = {
    "small": [0, -1, 2**15 - 1, -(2**15), True, Status.DONE],
    "integer": [0, -1, 2**31 - 1, -(2**31), False],
    "big": [2**53 + 1, 2**63 - 1, -(2**63)],
    "flag": [True, False, 1, 0],
    "char": ["", "a", " padded ", "a" * 40, "Grün", "line\nbreak", "😀", "'\"\\%", Colour.RED, "ﬁ", "e\u0301"],
    "text": ["", "long " * 1_000, "Ünïcödé", "\t \r\n", "\\n"],
    "binary": [b"", b"\0\xff", bytes(range(256))],
    "number": [0.0, -0.0, 0.1, 1e308, 5e-324, -1.5, 1 / 3, 7, 123456789.123456789, 2.0**53],
    "price": [
        *(Decimal("0"), Decimal("-0.000"), Decimal("1.5"), Decimal("1.500"), Decimal("0.0005"), Decimal("1E+3")),
        *(Decimal("999999999.999"), Decimal("-999999999.999"), 5, 1.25, "2.5", Decimal("1.23456")),
    ],
    "ref": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), "6a1fb1a4-9c2f-4b0f-b6a9-0f6f5d8d7e11"],
    "day": [dt.date(2024, 2, 29), dt.date(1000, 1, 1), dt.date(9999, 12, 31), dt.date(1, 1, 2), "2024-05-06"],
    "moment": [
        dt.datetime(2024, 2, 29, 12, 30, 45, 123456, tzinfo=dt.UTC),
        dt.datetime(2024, 2, 29, 12, 30, 45, 999999, tzinfo=PARIS),
        dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
        dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(minutes=53, seconds=28))),
        dt.datetime(1000, 1, 2, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=dt.UTC),
        dt.datetime(2, 1, 2, tzinfo=dt.UTC),
    ],
    "length": [dt.timedelta(0), dt.timedelta(days=-1, microseconds=1), dt.timedelta(days=10_000, microseconds=999_999)],
    "status": [Status.OPEN, 2],
    "colour": [Colour.BLUE, "red"],
    "document": [{"a": 1}, [1, 2], 1.5],
}
"""Values to write to the columns of ``Typed``, some of which the databases change."""
