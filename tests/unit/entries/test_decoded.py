"""Entries kept decoded: when, how many, and that they answer as decoding them again would."""

import random
import tracemalloc
from typing import Any

import pytest
from tortoise.context import TortoiseContext

from aiomodelcache import CacheConfig
from aiomodelcache.binding.binder import bind
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import new_token, new_version, unpack_entry
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.decoded import Decoded
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import DecodedCounters, Stats
from benchmarks import data
from benchmarks.models import Product
from tests.support.row_hits import hits_of

EPOCH = new_version()
GUARD = b"guard"
TOKEN = new_token()
"""The token of all entries, as of rows that are filled together."""


def entry(number: int, length: int = 300) -> bytes:
    return b"V%016d" % number + b"x" * length


def decoded(limit: int = 100_000) -> Decoded:
    return Decoded(limit, DecodedCounters())


class TestDecoded:
    def read(self, kept: Decoded, number: int, size: int = 600) -> bool:
        """Reads an entry as rows do. Returns True if it was kept."""
        data = entry(number)
        found = kept.find(data)
        if found is not None:
            found.used = True
        elif kept.to_keep(data):
            kept.keep(data, data, self, GUARD, number, size)
        return found is not None

    def test_an_entry_is_kept_at_the_second_sight(self) -> None:
        kept = decoded()
        assert [self.read(kept, 1) for _ in range(4)] == [False, False, True, True]
        assert kept.find(entry(1)) is not None
        assert kept.find(entry(1)[:-1] + b"y") is None
        assert kept.find(entry(1)[:-1]) is None
        assert kept.find(None) is None

    def test_what_was_read_with_an_entry_is_kept_if_there_is_room(self) -> None:
        kept = decoded()
        for _ in range(2):
            self.read(kept, 1)
        found, before = kept.find(entry(1)), kept.counters.bytes
        assert found is not None
        kept.keep_read(found, [b"key"], [bytes(20_000)])
        kept.keep_read(found, [b"key"], [bytes(30_000)])
        assert before + 30_000 < kept.counters.bytes < before + 30_100
        kept.keep_read(found, [b"key"], [bytes(100_000)])
        assert found.read == ([b"key"], [bytes(30_000)])
        for number in range(2, 300):
            self.read(kept, number)
            self.read(kept, number)
        assert kept.find(entry(1)) is None
        assert 0 < kept.counters.bytes <= 100_000

    def test_the_limit_is_never_exceeded_and_used_entries_stay(self) -> None:
        kept, chance = decoded(), random.Random(1)
        for turn in range(2_000):
            for number in range(10):
                assert self.read(kept, number) or turn < 2
            for _ in range(2):
                self.read(kept, 100 + turn)
            self.read(kept, chance.randrange(100, 100 + turn + 1))
            assert kept.counters.bytes <= 100_000
        assert kept.counters.bytes > 90_000
        assert kept.counters.evicted > 1_500
        assert kept.counters.kept - kept.counters.evicted == sum(
            kept.find(entry(number)) is not None for number in range(2_100)
        )

    def test_entries_read_once_evict_nothing(self) -> None:
        kept = decoded()
        for _ in range(3):
            self.read(kept, 1)
        for number in range(2, 10_000):
            assert not self.read(kept, number)
        assert self.read(kept, 1)
        assert kept.counters.kept == 1

    def test_entries_that_are_read_in_turn_are_all_kept(self) -> None:
        """Also those that are remembered in one place."""
        kept, numbers = decoded(1 << 30), range(2_000)
        for _ in range(50):
            for number in numbers:
                self.read(kept, number)
        assert kept.counters.kept == len(numbers)

    def test_a_large_entry_is_not_kept(self) -> None:
        kept = decoded(64 * 1_000)
        for length, fits in ((1_000, True), (1_001, False)):
            data = b"x" * length
            assert [kept.to_keep(data), kept.to_keep(data)] == [False, fits]
            assert kept.fits(data) == fits

    def test_a_limit_of_zero_keeps_nothing(self) -> None:
        kept = decoded(0)
        assert [self.read(kept, 1) for _ in range(4)] == [False] * 4
        assert not kept.fits(b"x")
        assert kept.counters == DecodedCounters()

    def test_the_first_owner_of_an_entry_keeps_it_and_may_replace_it(self) -> None:
        kept, data = decoded(), entry(1)
        kept.keep(b"key", data, self, GUARD, "old", 10)
        kept.keep(b"key", data, kept, GUARD, "of another", 1_000)
        found = kept.find(b"key")
        assert found is not None
        assert found.content == "old"
        size = kept.counters.bytes
        kept.keep(b"key", data, self, GUARD, "new", 11)
        found = kept.find(b"key")
        assert found is not None
        assert (found.content, kept.counters.bytes) == ("new", size + 1)


@pytest.fixture
async def rows() -> RowEntries:
    """The rows of the benchmarks' products, kept decoded."""
    async with TortoiseContext() as context:
        await context.init(db_url="sqlite://:memory:", modules={"app": ["benchmarks.models"]})
        found = bind(CacheConfig(), KeySpace(), Stats()).models[Product].rows
    found.decoded = decoded(16 << 20)
    return found


def product(rows: RowEntries, pk: int, *, epoch: bytes = EPOCH, **changed: Any) -> bytes:
    columns = {**data.product(pk), **changed}
    columns["created"] = columns["created"].replace(
        tzinfo=rows.schema.codec.decode(rows.schema.codec.encode(columns))["created"].tzinfo
    )
    return rows.entry(TOKEN, epoch, rows.schema.codec.encode(columns))


def columns_of(row: Any) -> Any:
    return None if row is None else {name: row[name] for name in data.product(1)}


class TestRows:
    def test_a_kept_row_answers_as_a_decoded_one(self, rows: RowEntries) -> None:
        one, two = product(rows, 1), product(rows, 2)
        expected = rows.schema.codec.decode(unpack_entry(one))
        for turn in range(6):
            hits = rows.decoded.counters.hits
            assert rows.read(one, EPOCH) == expected
            for found in (
                rows.hit(one, EPOCH, 1),
                *(hits_of(rows, [one], EPOCH, [1]) or [None]),
                rows.read(one, EPOCH),
            ):
                assert isinstance(found, dict)
                assert columns_of(found) == expected
                found["details"]["sizes"].clear()
                found["title"] = found["created"] = None
            assert rows.hit(one, EPOCH, 2) is None
            assert hits_of(rows, [one, two], EPOCH, [1, 2]) is not None
            assert hits_of(rows, [one, two], EPOCH, [1, 1]) is None
            assert rows.hit(one, None, 1) is None
            assert hits_of(rows, [one], None, [1]) is None
            assert rows.read(one, None) is NoValue.MISS
            assert rows.hit(one[:-1] + b"?", EPOCH, 1) is None
            assert hits_of(rows, [one[:-1]], EPOCH, [1]) is None
            assert hits_of(rows, [one[:-1] + b"?", two], EPOCH, [1, 2]) is None
            assert hits_of(rows, [b""], EPOCH, [1]) is None
            assert rows.read(one[:-1] + b"?", EPOCH) is NoValue.MISS
            assert hits_of(rows, [one, None], EPOCH, [1, 2]) is None
            assert turn < 3 or rows.decoded.counters.hits >= hits + 6, "both rows are kept"

    def test_a_kept_row_that_is_due_is_no_hit(self, rows: RowEntries) -> None:
        one = product(rows, 1)
        for _ in range(3):
            assert rows.hit(one, EPOCH, 1)
        assert rows.decoded.counters.hits == 1
        rows.lifetimes.due = b"\xff" * 8
        assert rows.hit(one, EPOCH, 1) is None
        assert hits_of(rows, [one], EPOCH, [1]) is None

    def test_a_kept_row_of_another_epoch_is_no_hit(self, rows: RowEntries) -> None:
        one, other_epoch = product(rows, 1), new_version()
        for _ in range(3):
            for _ in range(3):
                assert rows.hit(one, EPOCH, 1)
            assert rows.hit(one, other_epoch, 1) is None
            assert hits_of(rows, [one], other_epoch, [1]) is None
            assert rows.read(one, other_epoch) is NoValue.MISS
        assert rows.decoded.counters.hits == 5

    def test_a_kept_row_of_an_earlier_epoch_is_replaced_once_that_is_current_again(self, rows: RowEntries) -> None:
        one, other_epoch = product(rows, 1), new_version()
        for _ in range(3):
            assert rows.hit(one, EPOCH, 1)
        assert rows.decoded.counters.hits == 1
        assert rows.hit(one, other_epoch, 1) is None
        for _ in range(2):
            assert rows.hit(one, EPOCH, 1)
        assert (rows.decoded.counters.hits, rows.decoded.counters.kept) == (2, 2)

    def test_the_size_is_close_to_the_allocated_one(self, rows: RowEntries) -> None:
        entries = [product(rows, pk) for pk in range(1, 501)]

        def copies() -> list[bytes]:
            return [bytes(bytearray(each)) for each in entries]

        hits_of(rows, copies(), EPOCH, range(1, 501))
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            while rows.decoded.counters.kept < 500:
                hits_of(rows, copies(), EPOCH, range(1, 501))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 0.7 < (after - before) / rows.decoded.counters.bytes < 1.3
