"""The layout of entries, and golden bytes of everything that is stored, so that no change goes unnoticed."""

import datetime as dt
import struct
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding import keys, layout
from aiomodelcache.encoding.layout import (
    ABSENT,
    FINGERPRINT,
    FORMAT_VERSION,
    GUARD,
    INTENT,
    LEASE,
    PREFIX_SIZE,
    STALE,
    VALUE,
    VERSION,
    DamagedEntry,
    created_ms,
    is_intent,
    is_lease,
    new_token,
    new_version,
    pack_entry,
    stale_copy,
    unpack_entry,
)
from aiomodelcache.encoding.rows import Column, KeysCodec, RowCodec
from aiomodelcache.encoding.values import to_msgpack
from aiomodelcache.entries import base
from aiomodelcache.orm.fields import column_of
from aiomodelcache.orm.meta import meta_of
from tests.support.models.field_models import Colour, Everything, Level, Point, Tag

TOKEN, FINGERPRINT_BYTES, EPOCH = b"t" * 16, b"f" * 8, b"e" * 16
GUARD_BYTES = FINGERPRINT_BYTES + EPOCH
CREATED = 1_700_000_000_000

steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_the_layout_is_the_documented_one() -> None:
    entry = pack_entry(VALUE, TOKEN, GUARD_BYTES, CREATED, b"payload")
    state, token, fingerprint, epoch, checksum, created = struct.unpack_from(">c16s8s16sIQ", entry)
    assert (state, token, fingerprint, epoch, created) == (VALUE, TOKEN, FINGERPRINT_BYTES, EPOCH, CREATED)
    assert entry[struct.calcsize(">c16s8s16sIQ") :] == b"payload"
    assert checksum == crc32(entry[45:], ord("V"))
    assert entry[:PREFIX_SIZE] == VALUE + TOKEN
    assert entry[FINGERPRINT] == FINGERPRINT_BYTES
    assert entry[GUARD] == GUARD_BYTES
    assert created_ms(entry) == CREATED
    assert {VALUE, ABSENT, STALE, LEASE, INTENT, VERSION} == {b"V", b"N", b"S", b"L", b"W", b"E"}


def test_every_token_is_new() -> None:
    tokens = {new_token() for _ in range(100)} | {new_version()[1:] for _ in range(100)}
    assert len(tokens) == 200
    assert set(map(len, tokens)) == {16}
    assert new_version()[:1] == VERSION


@steady
@given(st.sampled_from([VALUE, ABSENT]), st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_unpack_returns_the_packed_payload(state: bytes, created: int, payload: bytes) -> None:
    entry = pack_entry(state, TOKEN, GUARD_BYTES, created, payload)
    assert unpack_entry(entry) == payload
    assert created_ms(entry) == created


def test_a_stale_copy_holds_the_state_and_the_payload_of_its_original() -> None:
    for state, payload in ((VALUE, b"payload"), (ABSENT, b"")):
        entry = pack_entry(state, TOKEN, GUARD_BYTES, CREATED, payload)
        copy = stale_copy(entry)
        copy_of_copy = stale_copy(copy)
        for stale in (copy, copy_of_copy):
            assert stale[:1] == STALE
            assert stale[GUARD] == GUARD_BYTES
            assert unpack_entry(stale) == state + payload
            assert created_ms(stale) == 0, "so that the copy is due for a refresh at once"
        assert len({entry[1:PREFIX_SIZE], copy[1:PREFIX_SIZE], copy_of_copy[1:PREFIX_SIZE]}) == 3
        with pytest.raises(DamagedEntry):
            stale_copy(entry[:-1] + bytes([entry[-1] ^ 1]))


def test_damage_to_the_state_or_after_the_guard_is_detected() -> None:
    for entry in (
        pack_entry(VALUE, TOKEN, GUARD_BYTES, CREATED, b"payload"),
        pack_entry(ABSENT, TOKEN, GUARD_BYTES, CREATED),
    ):
        damaged = [entry[:length] for length in range(1, len(entry))]
        damaged += [entry + b"\0", entry + entry]
        for at in [0, *range(GUARD.stop, len(entry))]:
            damaged += [entry[:at] + bytes([entry[at] ^ flip]) + entry[at + 1 :] for flip in range(1, 256)]
        for data in damaged:
            with pytest.raises(DamagedEntry):
                unpack_entry(data)


@pytest.mark.parametrize(
    ("value", "lease", "intent"),
    [
        (None, False, False),
        (b"", False, False),
        (LEASE + TOKEN, True, False),
        (LEASE + TOKEN + b"x", False, False),
        (LEASE, False, False),
        (INTENT + TOKEN + b"1700000000000", False, True),
        (INTENT + 2 * (TOKEN + b"1700000000000"), False, True),
        (INTENT + TOKEN + b"170000000000x", False, False),
        (INTENT + TOKEN + b"1700000000000" + TOKEN + b"17000000000-1", False, False),
        (INTENT + TOKEN + b"170000000000", False, False),
        (INTENT, False, False),
        (VALUE + TOKEN, False, False),
        (pack_entry(ABSENT, TOKEN, GUARD_BYTES, CREATED), False, False),
    ],
)
def test_leases_and_intents_are_recognised_by_their_shape(value: bytes | None, lease: bool, intent: bool) -> None:
    assert (is_lease(value), is_intent(value)) == (lease, intent)


# Golden bytes --------------------------------------------------------------------------------------
#
# The next release reads the bytes that this one has stored. If a test below fails because the bytes were changed on
# purpose, raise `layout.FORMAT_VERSION` and add the new bytes under the new version.
# The encoding of keys can never change: during a deployment old and new processes invalidate each other's entries.

CHANGED = "The stored bytes have changed. If this is intended, raise layout.FORMAT_VERSION and add them under it."

COLUMNS = [
    Column("int", int),
    Column("float", float),
    Column("str", str),
    Column("bytes", bytes),
    Column("bool", bool),
    Column("decimal", Decimal),
    Column("uuid", uuid.UUID),
    Column("datetime", dt.datetime),
    Column("date", dt.date),
    Column("time", dt.time),
    Column("timedelta", dt.timedelta),
    Column("null", int),
    Column("any", Any, to_msgpack),
]
ROW: dict[str, Any] = {
    "int": -7,
    "float": 0.5,
    "str": "ä",
    "bytes": b"\0\xff",
    "bool": True,
    "decimal": Decimal("1.50"),
    "uuid": uuid.UUID(int=1),
    "datetime": dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(1, 2, 3, 4),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "null": None,
    "any": {
        "big": 2**64,
        "decimal": Decimal("1.50"),
        "uuid": uuid.UUID(int=1),
        "datetime": dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC),
        "date": dt.date(2024, 2, 29),
        "time": dt.time(1, 2, 3, 4),
        "timedelta": dt.timedelta(microseconds=-1),
        "tuple": (1, "a"),
        "set": {1},
        "frozenset": frozenset({1}),
        "mapping": {1: "a", (1, 2): None},
    },
}
FIELDS: dict[str, Any] = {
    "integer": 7,
    "text": "ä",
    "flag": True,
    "price": Decimal("1.5000"),
    "number": 1.5,
    "moment": dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC),
    "day": dt.date(2024, 2, 29),
    "clock_null": dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
    "span": dt.timedelta(microseconds=-1),
    "key": uuid.UUID(int=1),
    "data": b"\0",
    "document": {"a": [1, None]},
    "sorted_null": {"b": 1, "a": 2},
    "level": Level.HIGH,
    "colour": Colour.RED,
    "point": Point(1, 2),
    "tag_null": Tag("a"),
}
KEYS: list[Any] = [
    7,
    "Köln: 5%",
    None,
    True,
    uuid.UUID(int=1),
    Decimal("-1.50"),
    -0.0,
    0.1,
    b"\0\xff",
    dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 29, 1, 2, 3, 4),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
    dt.timedelta(microseconds=-1),
    (1, ["a,b"], {"k": frozenset({1, 2})}),
    "x" * 200,
]
GOLDEN: dict[int, dict[str, str]] = {
    1: {
        "value": (
            "56747474747474747474747474747474746666666666666666656565656565656565656565656565656c12a918000001"
            "8bcfe568007061796c6f6164"
        ),
        "absent": (
            "4e74747474747474747474747474747474666666666666666665656565656565656565656565656565787c50240000018bcfe56800"
        ),
        "row": (
            "9df9cb3fe0000000000000a2c3a4c40200ffc3a4312e3530c41000000000000000000000000000000001c70cff3b9ac6"
            "18ffffffffffffffffaa323032342d30322d3239af30313a30323a30332e303030303034b02d505438363339392e3939"
            "3939393953c08ba3626967c714013138343436373434303733373039353531363136a7646563696d616cd602312e3530"
            "a475756964d80300000000000000000000000000000001a86461746574696d65c72004323032342d30322d3239543031"
            "3a30323a30332e3030303030342b30303a3030a464617465c70a05323032342d30322d3239a474696d65c70f0630313a"
            "30323a30332e303030303034a974696d6564656c7461d5072d31a57475706c65d6089201a161a3736574d5099101a966"
            "726f7a656e736574d50a9101a76d617070696e67c70d0b929201a16192c70308920102c0"
        ),
        "integers": "9201cf0000010000000000",
        "uuids": "91c41000000000000000000000000000000001",
        "fingerprint": "93e05298204b432e",
    },
}
GOLDEN_FIELDS: dict[int, dict[str, str]] = {
    1: {
        "integer": "9107",
        "text": "91a2c3a4",
        "flag": "91c3",
        "price": "91a6312e35303030",
        "number": "91cb3ff8000000000000",
        "moment": "91d7ff00003e8065dfd78b",
        "day": "91aa323032342d30322d3239",
        "clock_null": "91b530313a30323a30332e3030303030342b30303a3030",
        "span": "91ac2d5054302e30303030303153",
        "key": "91c41000000000000000000000000000000001",
        "data": "91c40100",
        "document": "9181a1619201c0",
        "sorted_null": "91ad7b2261223a322c2262223a317d",
        "level": "91cd7fff",
        "colour": "91a3726564",
        "point": "91a3313b32",
        "tag_null": "91a161",
    },
}
GOLDEN_KEYS = [
    b"i7",
    b"sK\xc3\xb6ln%3A 5%25",
    b"n",
    b"b1",
    b"u00000000000000000000000000000001",
    b"d-15e-1",
    b"f0.0",
    b"f0.1",
    b"x00ff",
    b"T1709168523000004",
    b"t2024-02-29T01%3A02%3A03.000004",
    b"D2024-02-29",
    b"h01%3A02%3A03.000004+00%3A00",
    b"p-1",
    b"(i1,[sa%252Cb,mS(sk%252CSi1%25252Ci2",
    b"#8b7c765c3f34b88ccf3a0b1c8d9146c38a118351",
]


def test_the_bytes_of_entries_change_only_with_the_format_version() -> None:
    stored = {
        "value": pack_entry(VALUE, TOKEN, GUARD_BYTES, CREATED, b"payload"),
        "absent": pack_entry(ABSENT, TOKEN, GUARD_BYTES, CREATED),
        "row": RowCodec(COLUMNS).encode(ROW),
        "integers": KeysCodec(Column("id", int)).encode([1, 2**40]),
        "uuids": KeysCodec(Column("id", uuid.UUID)).encode([uuid.UUID(int=1)]),
        "fingerprint": base.fingerprint("row", b"columns", None),
    }
    assert {name: value.hex() for name, value in stored.items()} == GOLDEN.get(FORMAT_VERSION), CHANGED


@pytest.mark.models("tests.support.models.field_models")
@pytest.mark.only_on("no store", because="it is about bytes alone")
async def test_the_bytes_of_fields_change_only_with_the_format_version(database: BaseDBAsyncClient) -> None:
    stored = {}
    for name, value in FIELDS.items():
        column = column_of(name, meta_of(Everything).fields_map[name], Everything, database)
        assert column is not None
        stored[name] = RowCodec([column]).encode({name: value}).hex()
    assert stored == GOLDEN_FIELDS.get(FORMAT_VERSION), CHANGED


def test_the_format_version_is_part_of_every_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.fingerprint("row", b"columns", 1)
    monkeypatch.setattr(base, "FORMAT_VERSION", layout.FORMAT_VERSION + 1)
    assert base.fingerprint("row", b"columns", 1) != before


def test_the_bytes_of_keys_never_change() -> None:
    assert [keys.encode_values([value]) for value in KEYS] == GOLDEN_KEYS


# Tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_begin_with_the_mark_of_their_process_and_are_all_different() -> None:
    tokens = {layout.new_token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert {(len(token), token[:4]) for token in tokens} == {(16, layout.process_mark())}


def test_a_forked_process_has_a_mark_of_its_own() -> None:
    program = """
import os
from aiomodelcache.encoding.layout import process_mark
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, process_mark())
    os._exit(0)
os.wait()
theirs = os.read(read, 16)
print(len(theirs), theirs != process_mark())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["4", "True"]
