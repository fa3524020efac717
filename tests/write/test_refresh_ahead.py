"""Refresh-ahead: a hit near the end of an entry's lifetime refills it in the background, and stores nothing stale."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheConfigurationError, ModelCache, ModelCacheManager
from aiomodelcache.encoding.layout import created_ms
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.protocol.test_freshness import READS, assert_fresh, write
from tests.support.gates import Gate, GatedBackend, Moment, gated_sql
from tests.support.models.music import Artist
from tests.support.stored import entries
from tests.write.test_stale import until_idle

pytestmark = pytest.mark.models("tests.support.models.models", "tests.support.models.music")

HOUR = 3600


@pytest.fixture
async def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes the refresh threshold with each read instead of once a second."""
    monkeypatch.setattr("aiomodelcache.engine.background.THRESHOLD_REFRESH_INTERVAL", 0.0)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n) for n in range(1, 61)])
    async with ModelCache(store, timeout=HOUR, negative_timeout=HOUR / 2) as opened:
        yield opened


@contextmanager
def building_entries_in_the_past(seconds: float) -> Iterator[None]:
    """Gives entries that are stored inside the block a creation time ``seconds`` ago."""
    now = time.time
    with patch("aiomodelcache.entries.base.time.time", lambda: now() - seconds):
        yield


async def fill_old(*queries: Awaitable[Any]) -> None:
    with building_entries_in_the_past(HOUR * 0.9):
        for query in queries:
            await query


async def age(cache: ModelCache, query: LookupQuery[Any]) -> float:
    """Returns the age in seconds of the entry that the backend holds for a lookup."""
    [entry] = await entries(cache, query)
    assert entry is not None
    return time.time() - created_ms(entry) / 1000


class TestHits:
    @pytest.mark.parametrize("read", ["row", "list"])
    async def test_a_hit_near_the_end_of_a_lifetime_refills_the_entry_in_the_background(
        self, cache: ModelCache, store: GatedBackend, read: str
    ) -> None:
        query: Any = READS[read](1)
        await fill_old(query)
        async with assert_ops(store, sql=1 if read == "row" else 2) as ops:
            before = await query
            assert ops.operations == ["read"]
            assert ops.statements == []
            await until_idle(cache)
            assert ops.operations.count("lease") == (1 if read == "row" else 2), "the row of a list gets a late lease"
        assert await age(cache, query) < 60
        assert await age(cache, Artist.cache.get(id=1)) < 60
        async with assert_ops(store, sql=0, redis=["read"]):
            assert await query == before
        assert cache.stats.of("Artist").refreshed == 1
        assert cache.stats.of("Artist").stale == 0

    async def test_a_hit_by_a_unique_index_refills_the_index_and_the_row(
        self, cache: ModelCache, database: BaseDBAsyncClient
    ) -> None:
        query: Any = Artist.cache.get(name="artist1")
        await fill_old(query)
        await query
        await until_idle(cache)
        assert await age(cache, query) < 60
        assert await age(cache, Artist.cache.get(id=1)) < 60

    async def test_an_absence_is_refilled_by_its_own_lifetime(self, cache: ModelCache, store: GatedBackend) -> None:
        query: Any = Artist.cache.get_or_none(id=99)
        with building_entries_in_the_past(HOUR * 0.45):
            await query
            await Artist.cache.get(id=1)
        assert await query is None
        await Artist.cache.get(id=1)
        await until_idle(cache)
        assert await age(cache, query) < 60
        assert await age(cache, Artist.cache.get(id=1)) > 60

    async def test_many_refreshes_at_once_are_one_statement(self, cache: ModelCache, store: GatedBackend) -> None:
        pks = list(range(1, 41))
        await fill_old(Artist.cache.get_many(pks))
        await Artist.cache.get(id=50)
        async with assert_ops(store, sql=1, redis=["read", "lease", "fill"]):
            await Artist.cache.get_many([*pks, 50])
            await until_idle(cache)
        assert cache.stats.of("Artist").refreshed == 40

    async def test_young_entries_are_not_refilled(self, cache: ModelCache, store: GatedBackend) -> None:
        with building_entries_in_the_past(HOUR * 0.7):
            for read in READS.values():
                await read(1)
        for read in READS.values():
            async with assert_ops(store, sql=0, redis=["read"]):
                await read(1)
                await until_idle(cache)

    async def test_refresh_ahead_can_be_switched_off(self, cache: ModelCache, store: GatedBackend) -> None:
        await fill_old(Artist.cache.get(id=1))
        async with ModelCache(store, timeout=HOUR, refresh_ahead=0) as other, assert_ops(store, sql=0, redis=["read"]):
            await other.manager(Artist).get(id=1)
            await until_idle(other)

    @pytest.mark.parametrize("ahead", [-0.1, 1, True, "some"])
    async def test_refresh_ahead_must_be_a_fraction_below_one(self, ahead: Any) -> None:
        with pytest.raises(CacheConfigurationError, match=r"refresh_ahead is .*: it must be a fraction below 1"):
            ModelCache("memory://", refresh_ahead=ahead)

    async def test_a_refresh_of_a_deleted_row_stores_its_absence(
        self, cache: ModelCache, database: BaseDBAsyncClient
    ) -> None:
        """Raw SQL deletes the row, so no writer has invalidated it."""
        query: Any = Artist.cache.get_or_none(id=1)
        await fill_old(query)
        await database.execute_query("DELETE FROM artist WHERE id = 1")
        assert await query is not None
        await until_idle(cache)
        assert await query is None


POINTS: list[tuple[str, Moment, int]] = [
    (operation, moment, skip)
    for operation, skip in (("lease", 0), ("SELECT", 0), ("lease", 1), ("fill", 0))
    for moment in ("before", "after")
]


class TestRaces:
    """A reader that refreshes an entry is held at each of its steps while a writer runs."""

    @pytest.mark.exhaustive(because="tries every moment of a race")
    @pytest.mark.parametrize("read", READS)
    async def test_a_write_at_any_step_of_a_refresh_leaves_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, read: str
    ) -> None:
        numbers = iter(range(1, 61))
        async with ModelCache(store, lease_wait=0.0) as other:
            other_manager = other.manager(Artist)
            for operation, moment, skip in POINTS:
                if skip and read == "row":
                    continue  # a row lookup has no late lease
                for kind, with_other_reader in (("move", True), ("update", False), ("delete", False), ("clear", True)):
                    n = next(numbers, None) or 1
                    await self._race(
                        cache,
                        store,
                        database,
                        (operation, moment, skip),
                        (read, kind),
                        n,
                        other_manager if with_other_reader else None,
                    )
                    await assert_fresh(n)
                    await assert_fresh(n, other_manager)

    async def _race(
        self,
        cache: ModelCache,
        store: GatedBackend,
        database: BaseDBAsyncClient,
        point: tuple[str, Moment, int],
        read_and_write: tuple[str, str],
        n: int,
        other_reader: ModelCacheManager[Artist] | None,
    ) -> None:
        read, kind = read_and_write
        query = READS[read](n)
        await fill_old(query)
        if point[2]:
            await Artist.cache.invalidate(n)  # so the row needs a late lease
        with gated_sql(database) as sql:
            gate: Gate = (sql if point[0] == "SELECT" else store).hold(point[0], point[1], skip=point[2])
            reader = asyncio.create_task(query.resolve())
            await gate.reached()
            if kind == "clear":
                await Artist.filter(id=n).update(followers=8)
                await Artist.cache.clear()
            else:
                await write(kind, n)
            if other_reader is not None:  # another cache may fill the entry first
                await assert_fresh(n, other_reader)
            gate.open()
            await reader
            await until_idle(cache)
