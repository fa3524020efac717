"""Columns of every type, with strategies of their values, and the comparison of the two ways to decode a row."""

import datetime as dt
import enum
import math
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from aiomodelcache.encoding.layout import PAYLOAD, VALUE, pack_entry
from aiomodelcache.encoding.native import DecodeRows
from aiomodelcache.encoding.rows import Column, RowCodec
from aiomodelcache.encoding.values import to_msgpack
from aiomodelcache.orm.fields import _dump_time, _in_utc, _load_time

TOKEN, FINGERPRINT, EPOCH = b"t" * 16, b"f" * 8, b"e" * 16
CREATED_MS = 1_000_000
DUE = (CREATED_MS - 1).to_bytes(8)
ADDED = {"_partial": False, "_await_when_save": None}
"""The attributes that every row gets beside its columns."""


class Zone(dt.tzinfo):
    """UTC by another name, as Tortoise has it."""

    def utcoffset(self, moment: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta()

    dst = utcoffset

    def tzname(self, moment: dt.datetime | None) -> str:
        return "zone"

    def fromutc(self, moment: dt.datetime) -> dt.datetime:
        return moment


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


ZONE = Zone()


def _member(member: Colour) -> Any:
    return to_msgpack(member.value)


def _uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
COLUMNS: dict[Column, st.SearchStrategy[Any]] = {
    Column("id", int): st.integers(-(2**63), 2**63 - 1),
    Column("float", float): st.floats(allow_nan=False),
    Column("text", str): st.text(st.characters(exclude_categories=["Cs"])),
    Column("bytes", bytes): st.binary(),
    Column("bool", bool): st.booleans(),
    Column("decimal", Decimal): st.decimals(allow_nan=False, allow_infinity=False),
    Column("uuid", UUID): st.uuids(),
    Column("naive", dt.datetime): _moments,
    Column("zoned", dt.datetime, None, partial(_in_utc, ZONE), zone=ZONE): _moments.map(
        lambda moment: moment.replace(tzinfo=ZONE)
    ),
    Column("date", dt.date): st.dates(),
    Column("time", str | int, _dump_time, _load_time): st.times(),
    Column("delta", dt.timedelta): st.timedeltas(),
    Column("json", Any, to_msgpack): _json,
    Column("enum", Any, _member, Colour): st.sampled_from(Colour),
    Column("driver", bytes, lambda value: value.bytes, _uuid): st.uuids(),
}
CODEC = RowCodec(list(COLUMNS))
ROWS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {column.name: values | st.none() for column, values in COLUMNS.items()}
)


def entry_of(payload: bytes) -> bytes:
    """Returns a current entry."""
    return pack_entry(VALUE, TOKEN, FINGERPRINT + EPOCH, CREATED_MS, payload)


def by_python(entries: list[bytes]) -> list[dict[str, Any]] | None:
    """Returns what ``RowEntries`` makes of the payloads, or None if it raises."""
    try:
        return [{**CODEC.decode_unsafely(entry[PAYLOAD]), **ADDED} for entry in entries]
    except Exception:
        return None


def assert_equal(found: Any, expected: Any) -> None:
    """Asserts equality of values and types at every depth. NaN counts as equal to itself."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert repr(found) == repr(expected)
        if isinstance(expected, dt.datetime):
            assert (found.tzinfo, found.fold) == (expected.tzinfo, expected.fold)


def assert_decoded_alike(decode: DecodeRows, entries: list[bytes]) -> bool:
    """Asserts that the extension decodes current entries as Python does. Returns True if they can be decoded."""
    found, expected = decode(entries, FINGERPRINT + EPOCH, DUE), by_python(entries)
    assert_equal(found, expected)
    return found is not None


def mutated(entry: bytes, change: Callable[[bytearray], None]) -> bytes:
    """Returns a current entry with another payload."""
    payload = bytearray(entry[PAYLOAD])
    change(payload)
    return entry_of(bytes(payload))
