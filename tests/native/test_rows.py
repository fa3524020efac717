"""The extension decodes exactly the rows that Python decodes, to the same values, and leaves all else to Python."""

import gc
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiomodelcache.encoding.layout import ABSENT, HEADER, STALE, pack_entry
from aiomodelcache.encoding.native import DecodeRows, rows_decoder
from aiomodelcache.encoding.values import encoder
from tests.native.cases import (
    ADDED,
    CODEC,
    COLUMNS,
    CREATED_MS,
    DUE,
    EPOCH,
    FINGERPRINT,
    ROWS,
    TOKEN,
    assert_decoded_alike,
    entry_of,
    mutated,
)
from tests.support.effort import FULL

GUARD = FINGERPRINT + EPOCH
given_rows = settings(
    max_examples=1_000 if FULL else 100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROW: dict[str, Any] = {column.name: None for column in COLUMNS} | {"id": 1, "text": "text", "json": {"a": [1]}}


@pytest.fixture
def decode(extension: Any) -> DecodeRows:
    found = rows_decoder(list(COLUMNS), ADDED)
    assert found is not None
    return found


@given_rows
@given(rows=st.lists(ROWS, max_size=5))
def test_rows_of_every_type_are_decoded_alike(decode: DecodeRows, rows: list[dict[str, Any]]) -> None:
    assert assert_decoded_alike(decode, [entry_of(CODEC.encode(row)) for row in rows])


@given_rows
@given(row=ROWS, data=st.data())
def test_changed_payloads_are_decoded_alike(decode: DecodeRows, row: dict[str, Any], data: st.DataObject) -> None:
    entry = entry_of(CODEC.encode(row))

    def change(payload: bytearray) -> None:
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))

    assert_decoded_alike(decode, [mutated(entry, change)])


@given_rows
@given(payload=st.binary())
def test_random_payloads_are_decoded_alike(decode: DecodeRows, payload: bytes) -> None:
    assert_decoded_alike(decode, [entry_of(payload)])


@pytest.mark.parametrize("moment", ["2024-01-01T07:00:00+07:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00"])
def test_moments_in_other_zones_are_decoded_alike(decode: DecodeRows, moment: str) -> None:
    values = [moment if column.name == "zoned" else None for column in COLUMNS]
    assert assert_decoded_alike(decode, [entry_of(encoder.encode(values))])


@given_rows
@given(at=st.integers(0, 2**16), bit=st.integers(0, 7))
def test_a_changed_bit_is_found(decode: DecodeRows, at: int, bit: int) -> None:
    entry = bytearray(entry_of(CODEC.encode(ROW)))
    at %= len(entry)
    entry[at] ^= 1 << bit
    is_token = 1 <= at <= 16
    assert (decode([bytes(entry)], GUARD, DUE) is not None) is is_token


def test_an_entry_that_is_no_current_row_is_left_to_python(decode: DecodeRows) -> None:
    payload = CODEC.encode(ROW)
    good = entry_of(payload)
    assert decode([good, good], GUARD, DUE) is not None
    others: list[Any] = [
        None,
        bytearray(good),
        b"",
        good[: HEADER.stop - 1],
        good[:-1],
        good + b"\0",
        pack_entry(ABSENT, TOKEN, GUARD, CREATED_MS),
        pack_entry(STALE, TOKEN, GUARD, CREATED_MS, payload),
        pack_entry(b"V", TOKEN, b"g" * 8 + EPOCH, CREATED_MS, payload),
        pack_entry(b"V", TOKEN, FINGERPRINT + b"g" * 16, CREATED_MS, payload),
        pack_entry(b"V", TOKEN, GUARD, CREATED_MS - 1, payload),
        entry_of(payload + payload),
    ]
    for other in others:
        assert decode([good, other], GUARD, DUE) is None
    assert decode([], GUARD, DUE) == []


def test_wrong_arguments_raise(extension: Any, decode: Any) -> None:
    for arguments in ([], ([], GUARD), ((), GUARD, DUE), ([], GUARD[1:], DUE), ([], GUARD, DUE + b"0"), ([], "", DUE)):
        with pytest.raises((TypeError, ValueError)):
            decode(*arguments)
    for arguments in ([], (len, ("a",), (), (None,), {}), (len, ("a",), (None,), (), {}), (len, [], (), (), {})):
        with pytest.raises((TypeError, ValueError)):
            extension.RowDecoder(*arguments)


@pytest.mark.parametrize("result", [None, [], (1, 2, 3)])
def test_a_decoder_that_returns_no_row_is_left_to_python(extension: Any, result: Any) -> None:
    decoder = extension.RowDecoder(lambda data: result, ("a",), (None,), (None,), {})
    assert decoder.rows([entry_of(b"")], GUARD, DUE) is None


def test_only_exceptions_are_left_to_python(extension: Any) -> None:
    def interrupted(data: bytes) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extension.RowDecoder(interrupted, (), (), (), {}).rows([entry_of(b"")], GUARD, DUE)


def test_a_load_may_change_the_list_of_entries(extension: Any) -> None:
    entries = [entry_of(bytes([number])) for number in range(50)]

    def load(value: Any) -> Any:
        entries.clear()
        gc.collect()
        return value

    decoder = extension.RowDecoder(lambda data: (data,), ("a",), (load,), (None,), {"a": None})
    assert decoder.rows(entries, GUARD, DUE) == [{"a": b"\0"}]


def _leaks(work: Callable[[], object]) -> int:
    """Returns the blocks of memory that remain after each of 1,000 calls, rounded."""
    for _ in range(100):
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(1_000):
        work()
    gc.collect()
    return round((sys.getallocatedblocks() - before) / 1_000)


def test_no_reference_is_lost_and_none_is_dropped(extension: Any, decode: DecodeRows) -> None:
    example = random.Random(1)
    good = entry_of(CODEC.encode(ROW))
    damaged = mutated(good, lambda payload: payload.__setitem__(example.randrange(len(payload)), 0xC1))
    columns = list(COLUMNS)
    for entries in ([good] * 3, [good, damaged], [good, good[:-1]], [good, None]):
        counts = [sys.getrefcount(each) for each in (good, columns[0].name, GUARD, None)]
        assert _leaks(lambda entries=entries: decode(list(entries), GUARD, DUE)) == 0
        assert [sys.getrefcount(each) for each in (good, columns[0].name, GUARD)] == counts[:3]
    assert _leaks(lambda: rows_decoder(columns, ADDED)) == 0


def test_a_decoder_in_a_cycle_is_collected(extension: Any) -> None:
    class Reader:
        def __call__(self, data: bytes) -> Any:
            return ()

    def make() -> None:
        reader: Any = Reader()
        reader.decoder = extension.RowDecoder(reader, (), (), (), {})

    assert _leaks(make) == 0


def test_it_can_be_turned_off(extension: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_decoder(list(COLUMNS), {}) is not None
    monkeypatch.setenv("AIOMODELCACHE_NATIVE", "0")
    assert rows_decoder(list(COLUMNS), {}) is None


def test_another_interface_is_not_used(extension: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "INTERFACE", extension.INTERFACE + 1)
    assert rows_decoder(list(COLUMNS), {}) is None
