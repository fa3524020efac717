"""No lookup returns a value that was wrong when it was made: races with writers, leases, epochs and lifetimes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis.asyncio
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, CacheQuery, MemoryBackend, ModelCache, ModelCacheManager
from aiomodelcache.backends.protocol import Lease, Leased
from aiomodelcache.encoding.layout import ABSENT, INTENT, LEASE, VALUE, new_token
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, Gate, GatedBackend, Gates, Moment, gated_sql
from tests.support.models.models import Event, User, Venue
from tests.support.models.music import Album, Artist

pytestmark = [
    pytest.mark.exhaustive(because="lets everything happen at every moment of everything else"),
    pytest.mark.models("tests.support.models.models", "tests.support.models.music"),
    pytest.mark.every_pair(because="these are the promises of the protocol"),
]

NUMBER = 60


@pytest.fixture
async def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    """Writes artists 1 to 60 before a cache opens."""
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n) for n in range(1, NUMBER + 1)])


@pytest.fixture
async def cache(rows: None, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


class Clock:
    """A replacement of the module ``time`` for readers' deadlines. The test sets its time."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("aiomodelcache.engine.leases.time", clock)
    monkeypatch.setattr("aiomodelcache.engine.background.time", clock)
    return clock


async def entry(cache: ModelCache, query: Any) -> bytes | None:
    """Returns the entry that the backend holds for a lookup."""
    [found] = await cache.backend.read([query.locate(cache.open_cache).key])
    return found


@pytest.fixture
async def elsewhere(rows: None, store: GatedBackend) -> AsyncIterator[ModelCacheManager[Artist]]:
    """The artists of another process, which does not wait for leases."""
    async with ModelCache(store, lease_wait=0.0) as opened:
        yield opened.manager(Artist)


async def assert_fresh(n: int, artists: ModelCacheManager[Artist] = Artist.cache) -> None:
    """Asserts that every lookup of artist ``n`` agrees with the database."""
    for cached, plain in (
        (artists.filter(rank=n), Artist.filter(rank=n)),
        (artists.filter(rank=n + 1000), Artist.filter(rank=n + 1000)),
        (artists.get_many([f"artist{n}"], "name"), Artist.filter(name=f"artist{n}")),
        (artists.get_many([f"renamed{n}"], "name"), Artist.filter(name=f"renamed{n}")),
        (artists.get_many([n]), Artist.filter(id=n)),
    ):
        expected = [row.__dict__ for row in await plain]
        assert [row.__dict__ for row in await cached] == expected, cached


READS: dict[str, Callable[[int], CacheQuery[Any]]] = {
    "row": lambda n: Artist.cache.get_or_none(id=n),
    "index": lambda n: Artist.cache.get_or_none(name=f"artist{n}"),
    "list": lambda n: Artist.cache.filter(rank=n),
}


async def write(kind: str, n: int) -> None:
    artist = await Artist.get(id=n)
    if kind == "delete":
        await artist.delete()
        return
    artist.followers = 7
    if kind == "move":
        artist.name, artist.rank = f"renamed{n}", n + 1000
    await artist.save()


POINTS: list[tuple[str, Moment, int]] = [
    (operation, moment, skip)
    for operation, skip in (("read", 0), ("lease", 0), ("SELECT", 0), ("lease", 1), ("fill", 0))
    for moment in ("before", "after")
]
"""Steps at which a reader is held after a miss. The second lease is the late lease of rows found by an index."""

MIDDLES: list[tuple[str, Moment]] = [("mark", "after"), ("clear", "before")]
"""Steps at which a writer is held with its intents in place: before and after its statement."""


def points(read: str) -> list[tuple[str, Moment, int]]:
    return [point for point in POINTS if read != "row" or not point[2]]


def hold(store: GatedBackend, sql: Gates, point: tuple[str, Moment, int]) -> Gate:
    operation, moment, skip = point
    return (sql if operation == "SELECT" else store).hold(operation, moment, skip=skip)


class TestRaces:
    """A reader is held at each of its steps while a writer runs."""

    @pytest.mark.parametrize("read", READS)
    async def test_a_write_at_any_step_of_a_reader_leaves_nothing_stale(
        self,
        cache: ModelCache,
        elsewhere: ModelCacheManager[Artist],
        store: GatedBackend,
        database: BaseDBAsyncClient,
        read: str,
    ) -> None:
        numbers = iter(range(1, NUMBER + 1))
        for point in points(read):
            for kind, with_other_reader in (("move", True), ("update", False), ("delete", False)):
                n = next(numbers)
                with gated_sql(database) as sql:
                    gate = hold(store, sql, point)
                    reader = asyncio.create_task(READS[read](n).resolve())
                    await gate.reached()
                    await write(kind, n)
                    if with_other_reader:  # the other process may fill the entry first
                        await assert_fresh(n, elsewhere)
                    gate.open()
                    await reader
                await assert_fresh(n)
                await assert_fresh(n, elsewhere)

    @pytest.mark.parametrize("read", READS)
    async def test_a_reader_that_continues_during_a_write_leaves_nothing_stale(
        self,
        cache: ModelCache,
        elsewhere: ModelCacheManager[Artist],
        store: GatedBackend,
        database: BaseDBAsyncClient,
        read: str,
    ) -> None:
        """The reader continues after the mark of the write, or after its COMMIT and before its clear."""
        numbers = iter(range(1, NUMBER + 1))
        for point in points(read):
            for operation, moment in MIDDLES:
                n = next(numbers)
                with gated_sql(database) as sql:
                    gate, middle = hold(store, sql, point), store.hold(operation, moment)
                    reader = asyncio.create_task(READS[read](n).resolve())
                    await gate.reached()
                    writer = asyncio.create_task(write("move", n))
                    await middle.reached()
                    gate.open()
                    await reader
                    if operation == "clear":
                        await assert_fresh(n, elsewhere)
                    middle.open()
                    await writer
                await assert_fresh(n)
                await assert_fresh(n, elsewhere)

    @pytest.mark.parametrize("read", READS)
    async def test_a_row_created_during_a_miss_is_not_cached_as_absent(
        self,
        cache: ModelCache,
        elsewhere: ModelCacheManager[Artist],
        store: GatedBackend,
        database: BaseDBAsyncClient,
        read: str,
    ) -> None:
        for number, point in enumerate(points(read)):
            if point[2]:
                continue  # an absent row has no late lease
            n = 100 + number
            with gated_sql(database) as sql:
                gate = hold(store, sql, point)
                reader = asyncio.create_task(READS[read](n).resolve())
                await gate.reached()
                await Artist.create(id=n, name=f"artist{n}", rank=n)
                await assert_fresh(n, elsewhere)
                gate.open()
                await reader
            await assert_fresh(n)
            await assert_fresh(n, elsewhere)

    async def test_late_leases_of_one_tick_have_separate_tokens(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        """The fill of one lookup is in flight while a writer writes the row that both lookups need.

        If the other lookup leases the row then, the first fill must not match that lease.
        """
        with gated_sql(database) as sql:
            first_fill = store.hold("fill")
            second_load = sql.hold("SELECT", "after", skip=1)
            readers = [asyncio.create_task(query.resolve()) for query in (READS["index"](1), READS["list"](1))]
            await first_fill.reached()
            await second_load.reached()
            await write("update", 1)
            second_fill = store.hold("fill")
            second_load.open()
            await second_fill.reached()
            first_fill.open()
            await asyncio.wait([readers[0]])
            assert not (await entry(cache, READS["row"](1)) or b"").startswith(VALUE)
            second_fill.open()
            await asyncio.gather(*readers)
        await assert_fresh(1)

    async def test_a_write_during_a_foreign_key_lookup_leaves_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        album = await Album.create(barcode=1, artist_id=1)
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT", "after")
            reader = asyncio.ensure_future(album.artist)
            await gate.reached()
            await write("update", 1)
            gate.open()
            await reader
        assert (await album.artist).followers == 7


class TestLeases:
    async def test_a_slow_reader_fills_only_what_it_had_leased_before_its_statement(
        self, rows: None, backend: CountingBackend, database: BaseDBAsyncClient, clock: Clock
    ) -> None:
        """The clock of the readers goes on, and not that of the store, so that every lease still stands."""
        store = LongLeases(backend.backend)
        statement: tuple[str, Moment, int] = ("SELECT", "after", 0)
        cases: list[tuple[str, tuple[str, Moment, int], list[str], bytes | None]] = [
            ("row", statement, ["read", "lease", "fill"], VALUE),
            ("index", statement, ["read", "lease", "fill"], None),
            ("list", ("lease", "after", 1), ["read", "lease", "lease", "fill"], LEASE),
        ]
        async with ModelCache(store, lease_ttl=5) as cache:
            for n, (read, point, operations, of_row) in enumerate(cases, 1):
                with gated_sql(database) as sql:
                    gate = hold(store, sql, point)
                    async with assert_ops(store, sql=1, redis=operations):
                        reader = asyncio.create_task(READS[read](n).resolve())
                        await gate.reached()
                        clock.now += 5.1
                        gate.open()
                        assert await reader
                assert (await entry(cache, READS[read](n)) or b"")[:1] == VALUE
                row = await entry(cache, READS["row"](n))
                assert (row and row[:1]) == of_row

    async def test_a_reader_waits_for_the_lease_of_another_up_to_lease_wait(
        self, rows: None, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend, lease_wait=0.02) as cache:
            for n, read in enumerate(READS.values(), 1):
                key = read(n).locate(cache.open_cache).key  # type: ignore[attr-defined]
                await backend.lease([Lease(key)], new_token(), 60_000)
                async with assert_ops(backend, sql=1) as ops, asyncio.timeout(PATIENCE):
                    answer = await read(n)
                assert answer
                assert ops.operations[:3] == ["read", "lease", "read"]
                assert set(ops.operations[3:]) == {"read"}, "the waiting reader does not fill"
                assert ((await backend.read([key]))[0] or b"").startswith(LEASE)

    async def test_a_lease_that_timed_out_is_not_waited_for_again(self, rows: None, backend: CountingBackend) -> None:
        async with ModelCache(backend, lease_wait=0.02) as cache:
            key = Artist.cache.get(id=1).locate(cache.open_cache).key
            for _ in range(2):
                await backend.delete([key])
                await backend.lease([Lease(key)], new_token(), 60_000)
                async with assert_ops(backend, sql=1) as ops:
                    await Artist.cache.get(id=1)
                assert len(ops.operations) > 3, "the reader polls for the fill"
                async with assert_ops(backend, sql=1, redis=["read", "lease", "read"]):
                    await Artist.cache.get(id=1)
            await backend.delete([key])
            async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
                await Artist.cache.get(id=1)

    async def test_waiters_of_a_fill_that_cannot_be_sent_are_released(
        self, rows: None, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        store = BreakableBackend(backend.backend)
        async with ModelCache(store, breaker_cooldown=600, lease_ttl=300):
            with gated_sql(database) as sql:
                gate = sql.hold("SELECT")
                first = asyncio.create_task(Artist.cache.get(id=1).resolve())
                await gate.reached()
                second = asyncio.create_task(Artist.cache.get(id=1).resolve())
                while store.operations.count("lease") < 2:
                    await asyncio.sleep(0)
                store.broken = True
                assert (await Artist.cache.get(id=2)).id == 2
                gate.open()
                async with asyncio.timeout(PATIENCE):
                    assert await first == await second

    async def test_a_waiting_reader_returns_the_fill_of_another_process(
        self, rows: None, store: GatedBackend, database: BaseDBAsyncClient, clock: Clock
    ) -> None:
        """The clock stands still, so the wait does not time out."""
        async with ModelCache(store, lease_wait=0.02), ModelCache(store) as other:
            there = other.manager(Artist)
            queries: list[tuple[CacheQuery[Any], CacheQuery[Any]]] = [
                (Artist.cache.get(id=1), there.get(id=1)),
                (Artist.cache.get(name="artist2"), there.get(name="artist2")),
                (Artist.cache.filter(rank=3), there.filter(rank=3)),
            ]
            for waiting, filling in queries:
                async with assert_ops(store, sql=1) as ops:
                    with gated_sql(database) as sql:
                        gate = sql.hold("SELECT")
                        first = asyncio.create_task(filling.resolve())
                        await gate.reached()
                        second = asyncio.create_task(waiting.resolve())
                        async with asyncio.timeout(PATIENCE):
                            while ops.operations.count("read") < 3:
                                await asyncio.sleep(0.001)
                        gate.open()
                        assert await first == await second

    async def test_the_lease_of_a_dead_reader_expires(self, rows: None, backend: CountingBackend) -> None:
        async with ModelCache(backend, lease_wait=0.0) as cache:
            key = Artist.cache.get(id=1).locate(cache.open_cache).key
            await backend.lease([Lease(key)], new_token(), 30)
            while (await backend.read([key]))[0]:
                await asyncio.sleep(0.005)
            async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
                await Artist.cache.get(id=1)

    async def test_keys_with_intents_are_read_from_the_database(self, cache: ModelCache, store: GatedBackend) -> None:
        for n, read in enumerate(READS.values(), 1):
            await read(n)
            key = read(n).locate(cache.open_cache).key  # type: ignore[attr-defined]
            token = new_token()
            await store.mark([key], token, 60_000)
            for _ in range(2):
                async with assert_ops(store, sql=1, redis=["read", "lease"]):
                    assert await read(n)
            assert ((await store.read([key]))[0] or b"").startswith(INTENT)


class BreakableBackend(GatedBackend):
    """A backend whose reads fail while ``broken`` is set."""

    broken = False

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self.broken:
            raise BackendError("The store is broken.")
        return await super().read(keys)


class LongLeases(GatedBackend):
    """A backend that keeps every lease for a minute."""

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        return await super().lease(leases, token, 60_000, versions)


class TestEpochs:
    async def test_clear_invalidates_exactly_the_named_models(self, cache: ModelCache, store: GatedBackend) -> None:
        kim = await User.create(username="kim", team=1)
        venue = await Venue.create(name="Home", city="Bonn")
        await Event.create(slug="a", title="a", organizer=kim, venue=venue)
        queries: dict[str, list[CacheQuery[Any]]] = {
            "User": [
                User.cache.get(id=kim.id),
                User.cache.get(username="kim"),
                User.cache.filter(team=1),
                User.cache.get_or_none(id=404),
                User.cache.filter(team=404),
            ],
            "Event": [Event.cache.get(slug="a"), Event.cache.filter(organizer=kim)],
            "Venue": [Venue.cache.get(city="Bonn", name="Home")],  # type: ignore[attr-defined]
        }
        clears: list[tuple[Callable[[], Awaitable[None]], set[str]]] = [
            (User.cache.clear, {"User"}),
            (Venue.cache.clear, {"Venue"}),  # type: ignore[attr-defined]
            (lambda: cache.clear(User, Event), {"User", "Event"}),
            (cache.clear_all, set(queries)),
        ]
        for clear, cleared in clears:
            for lookups in queries.values():
                await asyncio.gather(*lookups)
            async with assert_ops(store, sql=0) as ops:
                await clear()
            assert ops.operations == (["mark", "clear"] if cleared else [])
            for model, lookups in queries.items():
                async with assert_ops(store) as ops:
                    await asyncio.gather(*lookups)
                assert bool(ops.statements) == (model in cleared), model

    @pytest.mark.parametrize("read", READS)
    async def test_clear_at_any_step_of_a_reader_leaves_nothing_stale(
        self,
        cache: ModelCache,
        elsewhere: ModelCacheManager[Artist],
        store: GatedBackend,
        database: BaseDBAsyncClient,
        read: str,
    ) -> None:
        """After a write by raw SQL and a ``clear()``, entries with the reader's older value are ignored."""
        for n, point in enumerate(points(read), 1):
            with gated_sql(database) as sql:
                gate = hold(store, sql, point)
                reader = asyncio.create_task(READS[read](n).resolve())
                await gate.reached()
                await database.execute_script(f"UPDATE artist SET followers = 7 WHERE id = {n}")
                await Artist.cache.clear()
                await assert_fresh(n, elsewhere)
                gate.open()
                await reader
            await assert_fresh(n)
            await assert_fresh(n, elsewhere)

    async def test_clear_invalidates_entries_of_all_processes(self, cache: ModelCache, store: GatedBackend) -> None:
        async with ModelCache(store) as other:
            there = other.manager(Artist)
            await there.get(name="artist1")
            await Artist.cache.clear()
            async with assert_ops(store, sql=1):
                await there.get(name="artist1")

    async def test_a_model_that_is_being_cleared_is_read_from_the_database(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await Artist.cache.get(id=1)
        gate = store.hold("clear")
        clearing = asyncio.create_task(Artist.cache.clear())
        await gate.reached()
        for read in READS.values():
            for _ in range(2):
                async with assert_ops(store, sql=1):
                    assert await read(1)
        gate.open()
        await clearing
        for read in READS.values():
            await read(1)
            async with assert_ops(store, sql=0, redis=["read"]):
                await read(1)

    async def test_evicted_epochs_and_stamps_leave_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        artists = cache.open_cache.entries_of(Artist).rows
        for n, read in enumerate(READS.values(), 1):
            await read(n)
            await database.execute_script(f"UPDATE artist SET followers = 7 WHERE id = {n}")
            await store.delete([artists.partitions.epochs[0]])
            await assert_fresh(n)
        for number, read in enumerate(READS.values(), 1):
            keys = artists.partitions
            for n, version in ((10 + number, keys.epochs[0]), (20 + number, keys.stamps[0])):
                with gated_sql(database) as sql:
                    gate = sql.hold("SELECT", "after")
                    reader = asyncio.create_task(read(n).resolve())
                    await gate.reached()
                    await write("update", n)
                    await store.delete([version])
                    gate.open()
                    await reader
                await assert_fresh(n)

    async def test_entries_of_another_cache_meta_version_are_misses(
        self, cache: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads = [read(1) for read in READS.values()]
        answers = await asyncio.gather(*reads)
        monkeypatch.setattr(Artist.CacheMeta, "version", 2, raising=False)
        async with ModelCache(store) as deployed:
            artists = deployed.manager(Artist)
            new_reads = [artists.get(id=1), artists.get(name="artist1"), artists.filter(rank=1)]
            async with assert_ops(store) as ops:
                assert await asyncio.gather(*new_reads) == answers
            assert len(ops.statements) == 3
            async with assert_ops(store, sql=0, redis=["read"]):
                await asyncio.gather(*new_reads)
            await Artist.cache.get(id=1)
            async with assert_ops(store, sql=1):
                await artists.get(id=1)
            await write("update", 1)
            assert (await artists.get(id=1)).followers == 7
            assert (await Artist.cache.get(id=1)).followers == 7


class TestLifetimes:
    @pytest.mark.only_on("redis", because="the server is asked how long each entry lives")
    async def test_entries_filled_together_expire_at_different_times(self, rows: None, backend_url: str) -> None:
        async with (
            ModelCache(backend_url, timeout=10_000, negative_timeout=1_000, ttl_jitter=0.2) as cache,
            redis.asyncio.from_url(backend_url) as server,
        ):
            await Artist.cache.get_many(range(1, 2 * NUMBER + 1))
            await Artist.cache.get_many([f"artist{n}" for n in range(1, NUMBER + 1)], "name")
            await Album.cache.get_or_none(barcode=404)
            lives: dict[bytes, list[int]] = {}
            async for key in server.scan_iter():
                assert isinstance(key, bytes)
                state = (await server.get(key))[:1]
                lives.setdefault(state, []).append(await server.pttl(key))
            assert len(lives[VALUE]) == 2 * NUMBER
            assert 7_800_000 < min(lives[VALUE]) < 9_500_000
            assert 10_500_000 < max(lives[VALUE]) <= 12_000_000
            absences = sorted(lives[ABSENT])
            assert len(absences) == NUMBER + 1
            assert 700_000 < min(absences) < 950_000
            assert 1_050_000 < max(absences) <= 1_200_000
            key = Artist.cache.get(id=1).locate(cache.open_cache).entry_set.rows.partitions.epochs[0]
            assert await server.pttl(key) == -1, "versions do not expire"

    @pytest.mark.only_on("memory", because="a server's clock cannot be set")
    async def test_an_expired_entry_is_a_miss(self, rows: None) -> None:
        now = 1_000.0
        store = CountingBackend(MemoryBackend(clock=lambda: now))
        async with ModelCache(store, timeout=100, negative_timeout=10, ttl_jitter=0.1):
            reads = [Artist.cache.get(name=f"artist{n}") for n in range(1, 11)]
            absent = [Artist.cache.get_or_none(id=1000 + n) for n in range(10)]
            for later, sql in ((0.0, 2), (8.9, 0), (11.1, 1), (89.0, 1), (111.0, 2)):
                now = 1_000.0 + later
                async with assert_ops(store) as ops:
                    await asyncio.gather(*reads, *absent)
                assert bool(ops.statements) == bool(sql), later
                assert len(ops.statements) <= sql

    @pytest.mark.only_on("redis", because="the server is asked how long an entry lives")
    async def test_a_separate_manager_has_its_own_timeout(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        async with ModelCache(backend_url, ttl_jitter=0) as cache, redis.asyncio.from_url(backend_url) as server:
            venue = await Venue.create(name="Home", city="Bonn")
            query = Venue.cache.get(pk=venue.pk)  # type: ignore[attr-defined]
            await query
            assert 500_000 < await server.pttl(query.locate(cache.open_cache).key) <= 600_000


class TestTransactions:
    async def test_lookups_inside_a_transaction_read_the_database_and_fill_nothing(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        for n in (1, 2):
            await assert_fresh(n)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with in_transaction():
                async with assert_ops(store, redis=0):
                    await write("move", 1)
                    await write("delete", 2)
                    await Artist.create(id=500, name="artist500", rank=500)
                    for _ in range(2):
                        for n in (1, 2, 500):
                            await assert_fresh(n)
                        moved = await Artist.cache.get(name="renamed1")
                        assert (moved.id, moved.followers) == (1, 7)
                        assert await Artist.cache.count(rank=1001) == 1
                        assert await Artist.cache.exists(id=2) is False
                        assert await Artist.cache.in_bulk([1, 2, 500]) == {1: moved, 500: await Artist.get(id=500)}
                        assert await Album(barcode=1, artist_id=500).artist == await Artist.get(id=500)
                raise ZeroDivisionError
        for n in (1, 2, 500):
            await assert_fresh(n)
        assert (await Artist.cache.get(name="artist1")).followers == 0

    async def test_a_commit_is_visible_and_values_read_before_it_are_not_filled(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        async with in_transaction():
            await write("update", 1)
            await asyncio.gather(*[read(1) for read in READS.values()])
            async with in_transaction():  # a savepoint
                await write("move", 2)
                async with assert_ops(store, sql=1, redis=0):
                    assert (await Artist.cache.get(name="renamed2")).id == 2
        assert await entry(cache, READS["row"](1)) is None
        for n in (1, 2):
            await assert_fresh(n)

    async def test_child_tasks_of_a_transaction_are_part_of_it(self, cache: ModelCache, store: GatedBackend) -> None:
        async with in_transaction():
            await write("update", 1)
            async with assert_ops(store, redis=0), asyncio.TaskGroup() as tasks:
                inside = [tasks.create_task(read(1).resolve()) for read in READS.values()]
            row, by_index, [listed] = [task.result() for task in inside]
            assert [row.followers, by_index.followers, listed.followers] == [7, 7, 7]

    async def test_a_task_that_outlives_its_transaction_uses_the_cache_again(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        over = asyncio.Event()
        await Artist.cache.get(id=1)

        async def outlive() -> list[Any]:
            await over.wait()
            return [await read(1) for read in READS.values()]

        async with in_transaction():
            task = asyncio.create_task(outlive())
            await asyncio.sleep(0)
            await write("update", 2)
        async with assert_ops(store, sql=2) as ops:
            over.set()
            row, by_index, [listed] = await task
        assert ops.operations[0] == "read"
        assert row == by_index == listed
        async with assert_ops(store, sql=0, redis=["read"] * 3):
            for read in READS.values():
                await read(1)

    async def test_a_task_that_outlives_its_transaction_is_not_part_of_the_next(self, cache: ModelCache) -> None:
        over, begun, asked = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def outlive() -> Artist:
            await over.wait()
            asked.set()
            return await Artist.cache.get(id=1)

        async def next_transaction() -> None:
            async with in_transaction():
                await write("update", 1)
                begun.set()
                await asked.wait()
                await asyncio.sleep(0)
                raise ZeroDivisionError

        async with in_transaction():
            outliving = asyncio.create_task(outlive())
            await asyncio.sleep(0)
            await write("update", 2)
        following = asyncio.create_task(next_transaction())
        await begun.wait()
        over.set()
        assert (await outliving).followers == 0
        with pytest.raises(ZeroDivisionError):
            await following

    async def test_lookups_outside_a_transaction_see_committed_values(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        """SQLite has one connection, so a miss outside waits until the transaction ends."""
        waits = database.capabilities.dialect == "sqlite"
        begun, missed = asyncio.Event(), asyncio.Event()
        await Artist.cache.get(id=1)

        async def outside() -> None:
            await begun.wait()
            async with assert_ops(store, sql=0, redis=["read"]):
                assert (await Artist.cache.get(id=1)).followers == 0
            miss = asyncio.create_task(Artist.cache.get(id=2).resolve())
            if not waits:
                assert (await miss).followers == 0
            missed.set()
            assert (await miss).followers == (7 if waits else 0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outside())
            async with in_transaction():
                await write("update", 1)
                await write("update", 2)
                begun.set()
                await missed.wait()
        for n in (1, 2):
            await assert_fresh(n)

    async def test_a_missing_row_inside_a_transaction_is_not_cached_as_absent(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        async with in_transaction():
            with pytest.raises(DoesNotExist):
                await Artist.cache.get(id=404)
        async with assert_ops(store, sql=1):
            assert await Artist.cache.get_or_none(id=404) is None
