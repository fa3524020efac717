"""Queries are lazy. Queries of one tick share round trips, and the failure of one leaves the others unaffected."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import anyio
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BackendError,
    BatchCacheQuery,
    CacheNotOpen,
    CacheNotRegistered,
    CacheQuery,
    MemoryBackend,
    ModelCache,
    ModelCacheManager,
    RedisBackend,
)
from aiomodelcache.backends.protocol import Lease
from aiomodelcache.engine import tasks as tasks_module
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.music import Album, AlbumById, AlbumOfYear, Artist, NewestAlbums
from tests.support.stored import cancel

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("sqlite", because="sharing a statement depends on no database, and lookups test its results"),
]


@pytest.fixture
async def backend(backend_url: str) -> AsyncIterator[GatedBackend]:
    store = MemoryBackend() if backend_url == "memory://" else RedisBackend(backend_url)
    gated = GatedBackend(store)
    await gated.open()
    yield gated
    await gated.close()


@pytest.fixture
async def can(database: BaseDBAsyncClient) -> Artist:
    """An artist with three albums, written before any cache was open."""
    artist = await Artist.create(name="Can", rank=1)
    for number in range(1, 4):
        await Album.create(barcode=number, artist=artist, number=number, year=1970 + number, notes={"sides": [1, 2]})
    return artist


@pytest.fixture
async def cache(can: Artist, backend: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend) as opened:
        yield opened


class TestQueries:
    async def test_a_query_does_nothing_until_it_is_awaited(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=0, redis=0):
            queries: list[CacheQuery[Any]] = [
                Album.cache.get(barcode=1),
                Album.cache.get_many([1, 2], "barcode"),
                AlbumById(1),
                NewestAlbums(1),
            ]
            BatchCacheQuery(dict(enumerate(queries)))
            await asyncio.sleep(0)

    async def test_a_query_that_is_awaited_again_looks_up_again(self, cache: ModelCache) -> None:
        query = Album.cache.get(barcode=1)
        first = await query
        assert await query == first
        assert await query.resolve() == first
        first.year = 1980
        await first.save()
        assert (await query).year == 1980
        await first.delete()
        for _ in range(2):
            with pytest.raises(DoesNotExist):
                await query

    async def test_a_query_made_before_a_cache_opens_works_in_every_later_cache(
        self, can: Artist, backend_url: str
    ) -> None:
        query = Artist.cache.get(name="Can")
        with pytest.raises(CacheNotOpen, match="No cache is open"):
            await query
        for _ in range(2):
            async with ModelCache(backend_url):
                assert await query == can

    async def test_a_query_is_refused_in_another_event_loop_than_its_caches(self, cache: ModelCache) -> None:
        def in_another_loop() -> None:
            with pytest.raises(CacheNotOpen, match="another event loop"):
                asyncio.run(Artist.cache.get(name="Can").resolve())

        await asyncio.to_thread(in_another_loop)


class TestOwnInstances:
    async def test_callers_share_a_load_and_never_an_instance(
        self, cache: ModelCache, backend: CountingBackend, can: Artist
    ) -> None:
        for kind in ("get", "list", "many"):
            queries: dict[str, CacheQuery[Any]] = {
                "get": Album.cache.get(barcode=1),
                "list": Album.cache.filter(artist=can),
                "many": Album.cache.get_many([1, 2, 3], "barcode"),
            }
            for sql in (None, 0):  # from the database, then from the cache
                async with assert_ops(backend, sql=sql):
                    answers = await asyncio.gather(
                        *[queries[kind].resolve() for _ in range(3)], BatchCacheQuery(a=queries[kind])
                    )
                found = [*answers[:3], answers[3]["a"]]
                rows = found if kind == "get" else [answer[0] for answer in found]
                assert len({id(row) for row in rows}) == 4
                assert len({id(row.notes) for row in rows}) == 4
                assert len({id(row.notes["sides"]) for row in rows}) == 4
                for row in rows:
                    assert row.notes == {"sides": [1, 2]}
                    row.notes["sides"].append(3)
                    row.year = 0
            await cache.clear_all()

    async def test_a_lookup_that_joins_a_load_gets_an_instance_of_its_own(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT")
            first = asyncio.create_task(Album.cache.get(id=1).resolve())
            await gate.reached()
            second = asyncio.create_task(Album.cache.get(id=1).resolve())
            while backend.operations.count("lease") < 2:
                await asyncio.sleep(0)
            gate.open()
            one, two = await first, await second
        assert one == two
        assert one is not two
        assert one.notes is not two.notes

    async def test_lookups_in_a_transaction_get_instances_of_their_own(self, cache: ModelCache) -> None:
        async with in_transaction():
            one, two = await asyncio.gather(Album.cache.get(id=1), Album.cache.get(id=1))
        assert one is not two


class TestIsolation:
    async def test_a_cancelled_caller_does_not_affect_other_lookups_of_its_batch(
        self, cache: ModelCache, backend: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        for operation in ("read", "lease", "SELECT", "fill"):
            with gated_sql(database) as sql:
                gate = (sql if operation == "SELECT" else backend).hold(operation)
                asked = [asyncio.create_task(Album.cache.get(id=n).resolve()) for n in (1, 1, 2, 3)]
                batch = asyncio.create_task(BatchCacheQuery(one=Album.cache.get(id=1)).get())
                await gate.reached()
                for task in (asked[0], asked[2], batch):
                    task.cancel()
                results = await asyncio.gather(asked[0], asked[2], batch, return_exceptions=True)
                assert [type(result) for result in results] == [asyncio.CancelledError] * 3
                gate.open()
                assert [(await task).id for task in (asked[1], asked[3])] == [1, 3]
            while cache.open_cache.reader._running:
                await asyncio.sleep(0)
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert len(await Album.cache.get_many([1, 2, 3])) == 3, (
                    "the rows of the cancelled lookups must be filled too"
                )
            await cache.clear_all()

    async def test_a_cancelled_task_group_does_not_affect_other_lookups_of_its_batch(
        self, cache: ModelCache, backend: GatedBackend
    ) -> None:
        gate = backend.hold("read")
        found: list[Album] = []

        async def look_up() -> None:
            found.append(await Album.cache.get(id=1))

        async with anyio.create_task_group() as outer:
            outer.start_soon(look_up)
            async with anyio.create_task_group() as inner:
                inner.start_soon(look_up)
                await gate.reached()
                inner.cancel_scope.cancel()
            assert found == []
            gate.open()
        assert [album.id for album in found] == [1]

    async def test_a_value_that_the_database_refuses_fails_only_its_own_lookup(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for _ in range(2):
            good, bad, none, other = await asyncio.gather(
                Album.cache.get(barcode=1),
                Album.cache.get(barcode=2**70),
                Album.cache.get(barcode=404),
                Album.cache.get(barcode=2),
                return_exceptions=True,
            )
            assert isinstance(good, Album)
            assert isinstance(other, Album)
            assert isinstance(none, DoesNotExist)
            assert isinstance(bad, Exception)
        batch = await BatchCacheQuery(
            good=Album.cache.get(id=1), bad=Album.cache.get(id=2**70), worse=Album.cache.get(id="one")
        ).get(return_exceptions=True)
        assert batch["good"] == good
        assert isinstance(batch["bad"], Exception)
        assert isinstance(batch["worse"], ValueError)

    async def test_a_failed_load_fails_all_its_lookups_and_releases_their_leases(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient, monkeypatch: Any
    ) -> None:
        async def refuse(*args: Any) -> Any:
            raise ConnectionRefusedError

        with monkeypatch.context() as patched:
            patched.setattr(database, "execute_query", refuse)
            results = await asyncio.gather(*[Album.cache.get(id=n) for n in range(1, 4)], return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionRefusedError] * 3
        assert [album.id for album in await Album.cache.get_many([1, 2, 3])] == [1, 2, 3]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert len(await Album.cache.get_many([1, 2, 3])) == 3, "the failed load must release its leases"


class TestUnderLoad:
    async def test_at_most_two_reads_are_in_flight_and_later_lookups_share_the_next_read(
        self, cache: ModelCache, backend: GatedBackend
    ) -> None:
        await Album.cache.get_many([1, 2, 3])
        gates = [backend.hold("read") for _ in range(2)]
        async with assert_ops(backend, sql=0, redis=["read"] * 3) as ops:
            asked: list[asyncio.Task[Album]] = []
            for n, gate in enumerate(gates, 1):
                asked.append(asyncio.create_task(Album.cache.get(id=n).resolve()))
                await gate.reached()
            for n in (1, 2, 3, 3):  # each lookup in a tick of its own
                asked.append(asyncio.create_task(Album.cache.get(id=n).resolve()))
                for _ in range(5):
                    await asyncio.sleep(0)
            assert ops.operations == [], "the reads must be held by their gates"
            gates[1].open()
            assert [(await task).id for task in asked[1:]] == [2, 1, 2, 3, 3]
            gates[0].open()
            assert (await asked[0]).id == 1

    async def test_a_lookup_that_waits_for_a_failed_read_sends_no_read_of_its_own(
        self, can: Artist, backend: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with ModelCache(backend, breaker_cooldown=60):
            gates = [backend.hold("read") for _ in range(2)]
            asked: list[asyncio.Task[Album]] = []
            for n, gate in enumerate(gates, 1):
                asked.append(asyncio.create_task(Album.cache.get(id=n).resolve()))
                await gate.reached()
            asked.append(asyncio.create_task(Album.cache.get(id=3).resolve()))
            for _ in range(5):
                await asyncio.sleep(0)

            async def broken(keys: Any) -> Any:
                raise BackendError("broken")

            monkeypatch.setattr(backend.backend, "read", broken)
            async with assert_ops(backend, sql=None, redis=["read"] * 2):
                for gate in gates:
                    gate.open()
                assert [(await task).id for task in asked] == [1, 2, 3]

    async def test_lookups_that_wait_for_another_process_share_their_reads(
        self, can: Artist, backend: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        async with ModelCache(backend, lease_wait=0.02) as cache:
            rows = cache.open_cache.entries_of(Album).rows
            await backend.lease([Lease(rows.key(n)) for n in (1, 2, 3)], bytes(16), 60_000)
            async with assert_ops(backend, sql=1) as ops:
                found = await asyncio.gather(*[Album.cache.get(id=n % 3 + 1) for n in range(90)])
                assert len(found) == 90
            assert len(ops.operations) < 9, "90 lookups that each read several times must share reads"

    async def test_a_lookup_that_waited_for_this_process_stops_reading_when_it_is_answered(
        self, can: Artist, backend: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        async with ModelCache(backend, lease_wait=0.02) as cache:
            await backend.lease([Lease(cache.open_cache.entries_of(Album).rows.key(3))], bytes(16), 60_000)
            with gated_sql(database) as sql:
                gate, begun = sql.hold("SELECT"), len(backend.operations)
                first = asyncio.create_task(Album.cache.get(id=1).resolve())
                await gate.reached()
                second = asyncio.create_task(Album.cache.get_many([1, 3]).resolve())
                async with asyncio.timeout(PATIENCE):
                    while backend.operations[begun:].count("lease") < 2:
                        await asyncio.sleep(0)
                gate.open()
                assert [album.id for album in await second] == [1, 3]
                await first
            async with assert_ops(backend, redis=0):
                await asyncio.sleep(0.05)

    async def test_a_prediction_that_changes_during_its_read_does_not_change_the_answer(
        self, cache: ModelCache, backend: GatedBackend
    ) -> None:
        album = await Album.cache.get(barcode=1)
        query = Album.cache.get(barcode=1)
        gate = backend.hold("read", "after")
        asked = asyncio.create_task(query.resolve())
        await gate.reached()
        cache.open_cache.predictions.learn(
            query.locate(cache.open_cache).key, [2], cache.open_cache.entries_of(Album).rows
        )
        gate.open()
        assert await asked == album


class TestBatch:
    async def test_a_batch_takes_queries_from_mappings_and_keywords(self, cache: ModelCache) -> None:
        one, two, three = (Album.cache.get(id=n) for n in (1, 2, 3))
        batch = BatchCacheQuery({"one": one, 2: two}, three=three)
        assert {name: album.id for name, album in (await batch).items()} == {"one": 1, 2: 2, "three": 3}
        assert batch.push({"four": one}, five=two) is batch
        assert batch.push(one=three).push({}) is batch
        assert batch.push() is batch
        found = await batch.get()
        assert [(name, album.id) for name, album in found.items()] == [
            ("one", 3),
            (2, 2),
            ("three", 3),
            ("four", 1),
            ("five", 2),
        ]
        assert found["one"] is not found["three"]
        assert await BatchCacheQuery() == {}
        assert await BatchCacheQuery({}).get(only_cache=True) == {}
        assert await BatchCacheQuery(queries=one, self=two) == {"queries": found["four"], "self": found["five"]}

    async def test_a_query_pushed_while_a_batch_is_in_flight_takes_part_in_the_next_get(
        self, cache: ModelCache, backend: GatedBackend
    ) -> None:
        batch = BatchCacheQuery(one=Album.cache.get(id=1))
        gate = backend.hold("read")
        first = asyncio.create_task(batch.get())
        await gate.reached()
        batch.push(two=Album.cache.get(id=2))
        gate.open()
        assert list(await first) == ["one"]
        assert list(await batch) == ["one", "two"]

    async def test_a_batch_accepts_only_queries(self, cache: ModelCache) -> None:
        lookup = Album.cache.get(id=1).resolve()
        for wrong in (None, 1, Album, lookup, Album.filter(id=1), Album(id=1), [Album.cache.get(id=1)]):
            with pytest.raises(TypeError, match="'culprit' is not a query"):
                BatchCacheQuery({"fine": Album.cache.get(id=1), "culprit": wrong})  # type: ignore[dict-item]
            with pytest.raises(TypeError, match="value 2 of the dict is not a query"):
                BatchCacheQuery({"fine": Album.cache.get(id=1), "kim@example.org": wrong})  # type: ignore[dict-item]
            batch = BatchCacheQuery()
            with pytest.raises(TypeError, match="'culprit' is not a query"):
                batch.push(fine=Album.cache.get(id=1), culprit=wrong)  # type: ignore[arg-type]
            assert repr(batch) == repr(BatchCacheQuery()), "a refused push must add no query"
        await lookup

    async def test_each_query_of_a_batch_has_its_own_exception(self, cache: ModelCache, can: Artist) -> None:
        await Album.create(barcode=9, artist=can, number=9, year=1971)
        unknown: ModelCacheManager[Any] = ModelCacheManager(Unbound)
        async with ModelCache("memory://") as other:
            closed = other.manager(Album)
        queries: dict[str, CacheQuery[Any]] = {
            "missing": Album.cache.get(id=404),
            "none": Album.cache.get_or_none(id=404),
            "several": AlbumOfYear(1971),
            "bad": Album.cache.get(id="x"),
            "many": Album.cache.get_many([1], "year"),
            "unbound": unknown.get_many([1]),
            "closed": closed.get(id=1),
            "good": Album.cache.get(id=1),
        }
        good = await Album.cache.get(id=1)
        expected = {
            "missing": DoesNotExist,
            "none": type(None),
            "several": MultipleObjectsReturned,
            "bad": ValueError,
            "many": CacheNotRegistered,
            "unbound": CacheNotRegistered,
            "closed": CacheNotOpen,
            "good": Album,
        }
        for _ in range(2):
            batch = BatchCacheQuery(queries)
            for flags in ({"return_exceptions": True}, {"return_exceptions": True, "none_on_exception": True}):
                found = await batch.get(**flags)
                assert {name: type(result) for name, result in found.items()} == expected
            assert await batch.get(none_on_exception=True) == dict.fromkeys(queries) | {"good": good}
            with pytest.raises(DoesNotExist):
                await batch
            with pytest.raises(MultipleObjectsReturned):
                await BatchCacheQuery(dict(list(queries.items())[1:]))
            found = await BatchCacheQuery(first=closed.get(id=1), good=queries["good"]).get(none_on_exception=True)
            assert found == {"first": None, "good": good}

    async def test_the_first_exception_is_raised_after_all_queries_have_finished(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        await asyncio.gather(Album.cache.get(id=404), return_exceptions=True)
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT")
            batch = asyncio.create_task(
                BatchCacheQuery(missing=Album.cache.get(id=404), slow=Album.cache.get(id=1)).get()
            )
            await gate.reached()
            assert not batch.done()
            gate.open()
            with pytest.raises(DoesNotExist):
                await batch
        async with assert_ops(backend, sql=0):
            await Album.cache.get(id=1)

    async def test_only_cache_sends_no_statement_and_takes_no_lease(
        self, cache: ModelCache, backend: CountingBackend, can: Artist
    ) -> None:
        await asyncio.gather(
            Album.cache.get(id=1),
            Album.cache.get(id=404),
            Album.cache.get(barcode=2),
            Album.cache.filter(producer=None),
            return_exceptions=True,
        )
        album = await Album.get(id=2)
        await album.save(update_fields=["year"])  # invalidates the row, but not the indexes that lead to it
        batch = BatchCacheQuery(
            hit=Album.cache.get(id=1),
            known_absence=Album.cache.get_or_none(id=404),
            exception=Album.cache.get(id=404),
            half=Album.cache.get(barcode=2),
            list_of_which_one_is_missing=Album.cache.filter(producer=None),
            miss=Album.cache.get(barcode=3),
            some=Album.cache.get_many([1, 2]),
            bad=Album.cache.get(id="x"),
        )
        async with assert_ops(backend, sql=0, redis=["read"]):
            found = await batch.get(only_cache=True, return_exceptions=True)
        assert {name: type(result) for name, result in found.items()} == {
            "hit": Album,
            "known_absence": type(None),
            "exception": DoesNotExist,
            "bad": ValueError,
        }
        async with assert_ops(backend, sql=0, redis=["read"]):
            found = await batch.get(only_cache=True, none_on_exception=True)
        assert {name: result for name, result in found.items() if result} == {"hit": await Album.get(id=1)}
        assert found.keys() == {"hit", "known_absence", "exception", "bad"}
        with pytest.raises(DoesNotExist):
            await batch.get(only_cache=True)
        assert await BatchCacheQuery(miss=Album.cache.get(barcode=3)).get(only_cache=True) == {}

    async def test_only_cache_does_not_affect_other_lookups_of_its_tick(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        only, full = await asyncio.gather(
            BatchCacheQuery(one=Album.cache.get(id=1)).get(only_cache=True), BatchCacheQuery(one=Album.cache.get(id=1))
        )
        assert only == {}
        assert full["one"].id == 1

    async def test_in_a_transaction_a_batch_queries_the_database(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        batch = BatchCacheQuery(one=Album.cache.get(id=1), missing=Album.cache.get(id=404))
        async with assert_ops(backend, sql=2, redis=0), in_transaction():
            found = await batch.get(return_exceptions=True)
            assert await batch.get(only_cache=True) == {}
        assert found["one"].id == 1
        assert isinstance(found["missing"], DoesNotExist)
        with pytest.raises(Exception, match=r"."):
            async with in_transaction():
                await Album.cache.get(barcode=2**70)

    async def test_a_batch_can_query_several_caches(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with ModelCache("memory://") as second:
            albums = second.manager(Album)
            batch = BatchCacheQuery(here=Album.cache.get(id=1), there=albums.get(id=1))
            found = await batch
            assert found["here"] == found["there"]
            async with assert_ops(backend, sql=0, redis=["read"]):
                await batch


class Unbound(Album):
    """A model that ``Tortoise.init`` has not loaded."""

    class Meta:
        abstract = True


@pytest.mark.parametrize("key", ["pk", "barcode"])
async def test_get_many_counts_each_key_once_as_a_hit_or_a_miss(cache: ModelCache, key: str) -> None:
    await Album.cache.get_many([1, 2], key)
    await Album.cache.get_many([1, 2], key)
    entries = cache.open_cache.entries_of(Album)
    counters = (entries.rows if key == "pk" else entries.match_key("get", [key]).entry_set).counters
    before = dataclasses.replace(counters)
    assert [album.id for album in await Album.cache.get_many([1, 2, 3], key)] == [1, 2, 3]
    assert (counters.hits - before.hits, counters.misses - before.misses) == (2, 1)
    assert [album.id for album in await Album.cache.get_many([3, 1], key)] == [3, 1]
    assert (counters.hits - before.hits, counters.misses - before.misses) == (4, 1)


class TestBackgroundTasks:
    async def test_shielded_work_finishes_although_one_of_its_waiters_is_cancelled(self) -> None:
        tasks, gate, over = BackgroundTasks(copy_context()), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await gate.wait()
            over.set()

        async def wait() -> None:
            await tasks.start_shielded(work())

        waiting = [asyncio.create_task(wait()), asyncio.create_task(wait())]
        await asyncio.sleep(0)
        await cancel(waiting[0])
        gate.set()
        await waiting[1]
        assert over.is_set()
        await tasks.finish(PATIENCE)

    @pytest.mark.parametrize("begun", [False, True])
    async def test_waiters_of_shielded_work_are_woken_if_its_task_is_cancelled(self, begun: bool) -> None:
        tasks = BackgroundTasks(copy_context())
        done = tasks.start_shielded(asyncio.sleep(PATIENCE))
        if begun:
            await asyncio.sleep(0)
        for task in tasks._running:
            task.cancel()
        async with asyncio.timeout(PATIENCE / 2):
            await done

    async def test_finish_does_not_wait_for_a_task_that_ignores_its_cancellation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks_module, "CANCEL_GRACE", 0.01)
        tasks, gate = BackgroundTasks(copy_context()), asyncio.Event()

        async def ignore() -> None:
            while not gate.is_set():
                with suppress(asyncio.CancelledError):
                    await gate.wait()

        stubborn = tasks.start(ignore())
        async with asyncio.timeout(PATIENCE):
            await tasks.finish(0.01)
        assert not stubborn.done()
        gate.set()
        await stubborn

    async def test_an_error_of_shielded_work_is_reported_and_not_raised_in_its_waiter(self) -> None:
        tasks, failures = BackgroundTasks(copy_context()), list[Exception]()
        tasks.on_failure = failures.append

        async def work() -> None:
            raise RuntimeError("broken")

        await tasks.start_shielded(work())
        await tasks.finish(PATIENCE)
        assert [str(error) for error in failures] == ["broken"]
