"""The messages of ``pgoutput``: bytes that a server has sent, and bytes that no server sends."""

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomodelcache.relay.stream.messages import (
    UNSENT,
    Begin,
    Commit,
    Emitted,
    MalformedMessage,
    Relation,
    RelationColumn,
    RowChange,
    Truncated,
    parse_message,
)

unhurried = settings(deadline=None)

RELATION = (
    b"R\0\0@\x01public\0t\0d\0\x03\x01id\0\0\0\0\x17\xff\xff\xff\xff\0code\0\0\0\0\x19\xff\xff\xff\xff"
    b"\0big\0\0\0\0\x19\xff\xff\xff\xff"
)
ROW = b"\0\x03t\0\0\0\x011t\0\0\0\x01bt\0\0\0\x03xxx"
KEY = b"\0\x03t\0\0\0\x011nn"
RECORDED = {
    b"B\0\0\0\0\x01\x94\x940\0\x03\x04\x80_\xb3\x99\xb2\0\0\x02\xd8": Begin(
        0x1949430, 946_684_800 + 0x0003_0480_5FB3_99B2 / 1e6
    ),
    b"C\0\0\0\0\0\x01\x94\x95\xc8\0\0\0\0\x01\x94\x95\xf8\0\x03\x04\x80_\xbbS\x94": Commit(0x19495C8),
    b"M\x01\0\0\0\0\x01\x94\x940aiomodelcache\0\0\0\0\x03one": Emitted(True, "aiomodelcache", b"one"),
    RELATION: Relation(
        16385, "public", "t", (RelationColumn("id", True), RelationColumn("code", False), RelationColumn("big", False))
    ),
    b"I\0\0@\x01N" + ROW: RowChange(16385, "I", None, [b"1", b"b", b"xxx"]),
    b"I\0\0@\x01N\0\x03t\0\0\0\x012nu": RowChange(16385, "I", None, [b"2", None, UNSENT]),
    b"U\0\0@\x01N" + ROW: RowChange(16385, "U", None, [b"1", b"b", b"xxx"]),
    b"U\0\0@\x01K" + KEY + b"N" + ROW: RowChange(16385, "U", [b"1", None, None], [b"1", b"b", b"xxx"]),
    b"D\0\0@\x01O" + ROW: RowChange(16385, "D", [b"1", b"b", b"xxx"], None),
    b"T\0\0\0\x02\0\0\0@\x01\0\0@\x08": Truncated((16385, 16392)),
    b"O\0\0\0\0\x01\x94\x940origin\0": None,
    b"Y\0\0@\x01public\0mood\0": None,
}
"""Messages that PostgreSQL 15 has sent, but for the last two, which are of other servers."""


@pytest.mark.parametrize("data", RECORDED, ids=[chr(data[0]) for data in RECORDED])
def test_messages_of_a_server(data: bytes) -> None:
    assert parse_message(data) == RECORDED[data]


@pytest.mark.parametrize("data", RECORDED, ids=[chr(data[0]) for data in RECORDED])
def test_a_part_of_a_message_and_more_than_one_are_refused(data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(MalformedMessage):
            parse_message(data[:end])
    with pytest.raises(MalformedMessage, match="1 bytes behind"):
        parse_message(data + b"\0")


MALFORMED = {
    "unknown kind": b"S\0\0\0\x01",  # of a transaction that may be rolled back
    "unknown row": b"I\0\0@\x01O" + ROW,
    "two new rows": b"U\0\0@\x01N" + ROW + b"N" + ROW,
    "no new row": b"U\0\0@\x01K" + KEY,
    "unknown value": b"I\0\0@\x01N\0\x01b\0\0\0\x011",
    "negative number": b"I\0\0@\x01N\xff\xff",
    "negative length": b"I\0\0@\x01N\0\x01t\xff\xff\xff\xff",
    "endless name": b"Y\0\0@\x01public",
    "fewer tables than it says": b"T\0\0\0\x02\0\0\0@\x01",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_no_server_sends_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_message(data)


@unhurried
@given(st.one_of(st.binary(max_size=60), st.builds(bytes.__add__, st.sampled_from([*RECORDED]), st.binary(max_size=9))))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(MalformedMessage):
        parse_message(data)


@unhurried
@given(st.sampled_from([*RECORDED]), st.data())
def test_a_changed_byte_is_a_message_or_refused(message: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(message) - 1))
    changed = message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :]
    try:
        found = parse_message(changed)
    except MalformedMessage:
        return
    if changed != message and found == RECORDED[message]:
        assert chr(message[0]) in "BCRMTYO", "it was in a part that is left out"


@unhurried
@given(st.lists(st.none() | st.just(UNSENT) | st.binary(max_size=20), max_size=20))
def test_every_row_is_read_as_it_was_written(values: list[Any]) -> None:
    found = b"".join(
        b"n" if value is None else b"u" if value is UNSENT else b"t" + struct.pack("!i", len(value)) + value
        for value in values
    )
    assert parse_message(b"I\0\0@\x01N" + struct.pack("!h", len(values)) + found) == RowChange(16385, "I", None, values)
