"""Values that callers pass by mistake or with ill intent, by kind."""

import datetime as dt
import enum
import math
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from tortoise.expressions import F, Q, RawSQL


class Text(str):
    """A string of a class of its own."""


class Number(int):
    """An integer of a class of its own."""


class OtherLevel(enum.IntEnum):
    LOW = 1
    ZERO = 0


class OtherColour(enum.StrEnum):
    RED = "red"


class Plain(enum.Enum):
    ONE = 1
    RED = "red"


class Hostile(Exception):
    """Raised by the methods of hostile values. It is none of the errors of wrong values."""


def hostile(*methods: str) -> Any:
    """Returns an object whose methods of these names raise."""

    def refuse(*_: Any) -> Any:
        raise Hostile

    return type("HostileValue", (), dict.fromkeys(methods, refuse))()


def hostile_subclass(base: type, value: Any, *methods: str) -> Any:
    """Returns ``value`` as a subclass of ``base`` whose methods of these names raise."""

    def refuse(*_: Any) -> Any:
        raise Hostile

    return type(f"Hostile{base.__name__}", (base,), dict.fromkeys(methods, refuse))(value)


class EqualsAll:
    """Equals everything and has the hash of 1."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Unhashable:
    __hash__: Any = None


class Endless(type):
    """The class of classes that are iterated over without an end, as Tortoise's models are."""

    def __getitem__(cls, key: object) -> object:
        return key


class Model(metaclass=Endless):
    """A class whose instances can be iterated over, and which itself has no end."""

    def __iter__(self) -> Any:
        return iter(())


class Liar:
    """Says that it is a string."""

    @property
    def __class__(self) -> type:
        return str

    @__class__.setter
    def __class__(self, value: type) -> None: ...


class Words(list[Any]):
    """A list whose text is another type's."""

    def __str__(self) -> str:
        return "1"


def _nested(depth: int) -> list[Any]:
    document: list[Any] = []
    for _ in range(depth):
        document = [document]
    return document


VALUES: Final[dict[str, list[Any]]] = {
    "nothing and truth": [None, True, False, Ellipsis, NotImplemented],
    "numbers": [
        0, 1, -1, -0.0, 0.5, 1.0, 1e308, 5e-324, math.nan, math.inf, -math.inf, 1j, Fraction(1, 3), Number(1),
        2**15, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**5_000,
    ],
    "decimals": [
        Decimal(text)
        for text in ("0", "-0", "1", "1.005", "0.1", "NaN", "sNaN", "-sNaN", "Infinity", "1E+40000", "1E-40000")
    ],
    "texts": [
        "", " ", "0", "1", " 1 ", "1_0", "1e0", "\u0661", "one", "None", "null", "nan", "inf", "True", "f", "red",
        "RED", "a", "A", "a ", "a\0", "\0", "\ud800", "a\udfff", "\U0010ffff", "x" * 21, "x" * 100_000, "'; --", "%",
        "[]", Text("1"), Text("a"),
    ],
    "texts of moments and keys": [
        "1970-01-01", "2024-01-01T00:00:00Z", "2024-01-01 00:00:00", "2024-13-45", "0000-00-00", "24:00:00", "00:00:00",
        "00000000-0000-0000-0000-000000000000", "{00000000000000000000000000000001}", "urn:uuid:" + "f" * 32, "f" * 31,
    ],
    "bytes": [b"", b"1", b"a", b"\xff", bytearray(b"a"), memoryview(b"a"), bytes(16)],
    "moments": [
        dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime.max, dt.datetime.min,
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-14))),
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime(2024, 1, 1, 0, 0, tzinfo=dt.timezone(dt.timedelta(seconds=1))),
        dt.datetime(2024, 1, 1, 12, 30), dt.date(2024, 1, 1), dt.date.min, dt.date.max,
        dt.time(1, 2, 3), dt.time(1, 2, 3, tzinfo=dt.UTC),
        dt.timedelta(1), dt.timedelta.max, dt.timedelta.min, dt.timedelta(microseconds=1),
    ],
    "UUIDs and enums": [
        uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), OtherLevel.LOW, OtherLevel.ZERO, OtherColour.RED, Plain.ONE,
        Plain.RED,
    ],
    "containers": [
        [], [1], ["a"], [None], [[]], (), (1,), ("a", "b"), {}, {"a": 1}, set(), {1}, frozenset(), range(2), Words(),
        _nested(5_000),
    ],
    "objects": [object(), object, int, len, lambda: 1, (number for number in ()), Hostile(), math],
    "expressions": [F("integer"), Q(integer=1), RawSQL("1")],
    "hostile objects": [
        hostile("__eq__"),
        hostile("__hash__"),
        hostile("__eq__", "__hash__", "__repr__", "__str__", "__bool__", "__len__", "__iter__", "__getattr__"),
        hostile("__str__"), hostile("__repr__", "__str__"), hostile("__int__", "__float__", "__index__"),
        hostile_subclass(str, "a", "__str__"), hostile_subclass(str, "a", "__eq__", "__hash__"),
        hostile_subclass(str, "a", "encode", "__iter__"), hostile_subclass(int, 1, "__int__", "__index__"),
        hostile_subclass(int, 1, "__eq__", "__hash__"), hostile_subclass(float, 1, "__float__"),
        hostile_subclass(Decimal, 1, "__eq__", "__hash__", "quantize", "is_finite"),
        EqualsAll(), Unhashable(), Liar(), Model,
    ],
}  # fmt: skip
"""Values by kind. Most are wrong for most columns, and some are right for some."""

ALL: Final[list[Any]] = [value for values in VALUES.values() for value in values]
"""The values of all kinds."""

NAMES: Final[list[str]] = [
    "titel", "nmae", "", "name__icontains", "name__in", "pk__in", "owner__id", "owner_id__x", "id_", "_meta",
    "__class__", "name ", "NAME", "n\u00e4me", "\0", "\ud800", "x" * 10_000, "cache", "rows", "query", "model",
    "instance", "values", "None", "1", "name;",
]  # fmt: skip
"""Names that are no fields with a cache."""

URLS: Final[list[str]] = [
    "", " ", "memory", "memory:", "memory:/", "memory://host", "memory://?x=1",
    "memory:///", "redis", "redis:", "redis:/", "http://localhost", "postgres://localhost/0",
    "redis+memory://", "redis+cluster+sentinel://h", "+redis://h", "REDIS//h", "://", "://h", "redis://h:port",
    "redis://h:-1", "redis://h:0x50", "redis://h:65536", "redis://h:99999999999999999999", "redis://h/zero",
    "redis://h/-1", "redis://h/0/1", "redis://h/1e3", "redis://[::1", "redis://h?socket_timeout=soon",
    "redis://h?max_connections=many", "redis://h?nonsense=1", "redis://h?db=zero", "unix://", "unix://h",
    "unix://h/socket", "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h:x/name",
    "redis+cluster://h:x", "redis+cluster://a,b:x", "redis+cluster://h/1", "rediss://h?ssl_cert_reqs=maybe",
    "redis://\ud800", "redis://h\0", "redis://" + "h" * 300, "redis://user:pass\nword@h:x",
]  # fmt: skip
"""Texts that are no URL of a store."""
