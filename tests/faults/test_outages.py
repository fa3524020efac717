"""Outages of the backend: lookups stay correct and fast, raise nothing, and use the backend again afterwards."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BackendError,
    BatchCacheQuery,
    CacheQuery,
    CacheWriteError,
    MemoryBackend,
    ModelCache,
    RedisBackend,
)
from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.observe.stats import Stats
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.backends.opening import hurry
from tests.backends.proxy import Proxy
from tests.support.effort import FULL
from tests.support.gates import PATIENCE, GatedBackend
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

pytestmark = pytest.mark.only_on(
    "sqlite", because="the store is away, and a bypassed read asks the database as a miss does"
)

T = TypeVar("T")

TIMEOUT = 0.25
"""Seconds until a round trip to a frozen server times out here."""
LONG = 60.0
"""Seconds that about forty lookups in a row may take during an outage on a slow machine. Beyond it a test fails."""
NEVER = 3600.0
"""Seconds of a cooldown that does not end within a test."""
AT_ONCE = 0.001
"""Seconds of a cooldown that ends before the next lookup."""


async def add_events() -> list[Event]:
    kim, ann = [await User.create(username=name) for name in ("kim", "ann")]
    slugs = [f"e{number}" for number in range(4)]
    return [await Event.create(slug=slug, title=slug, organizer=kim if slug < "e2" else ann) for slug in slugs]


def columns_of(event: Event | None) -> Any:
    return event and (event.id, event.slug, event.title, event.organizer_id)


async def assert_lookups_agree() -> None:
    """Asserts that every kind of lookup agrees with the database."""
    rows = await Event.all()
    slugs = [f"e{number}" for number in range(5)]
    by_slug = {row.slug: row for row in rows}
    organizers = await User.all()
    async with asyncio.timeout(LONG):
        for slug in slugs:
            assert columns_of(await Event.cache.get_or_none(slug=slug)) == columns_of(by_slug.get(slug))
            assert await Event.cache.exists(slug=slug) == (slug in by_slug)
        for row in rows:
            assert columns_of(await Event.cache.get(id=row.id)) == columns_of(row)
        for organizer in organizers:
            own = [columns_of(row) for row in rows if row.organizer_id == organizer.id]
            assert [columns_of(row) for row in await Event.cache.filter(organizer=organizer)] == own
            assert await Event.cache.count(organizer=organizer) == len(own)
        found = await Event.cache.in_bulk(slugs, key="slug")
        assert {slug: columns_of(row) for slug, row in found.items()} == {
            slug: columns_of(row) for slug, row in by_slug.items()
        }
        batch = await BatchCacheQuery({slug: Event.cache.get(slug=slug) for slug in slugs}).get(none_on_exception=True)
        assert {slug: columns_of(row) for slug, row in batch.items()} == {
            slug: columns_of(by_slug.get(slug)) for slug in slugs
        }


async def warm() -> None:
    """Fills the entries that ``assert_lookups_agree`` reads."""
    for _ in range(2):
        await assert_lookups_agree()


async def until_cached() -> None:
    """Looks up every row, asserting each result, until the backend answers all of it."""
    rows = await Event.all()
    queries: dict[Any, CacheQuery[Any]] = {row.slug: Event.cache.get(slug=row.slug) for row in rows}
    queries |= {user.id: Event.cache.filter(organizer=user) for user in await User.all()}
    async with asyncio.timeout(LONG):
        while True:
            await assert_lookups_agree()
            found = await BatchCacheQuery(queries).get(only_cache=True)
            if found.keys() == queries.keys():
                return


@pytest.mark.only_on("redis", because="it happens to a server")
class TestServer:
    """A Redis that dies, freezes, restarts, loses its data, or is full."""

    async def test_a_killed_server_costs_one_failed_round_trip_and_is_used_after_its_restart(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "aiomodelcache")
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=NEVER) as cache:
            await warm()
            assert (cache.stats.backend_errors, cache.stats.bypassed, caplog.messages) == (0, 0, [])
            own_redis.kill()
            round_trips = cache.stats.round_trips
            await assert_lookups_agree()
            await asyncio.gather(*[assert_lookups_agree() for _ in range(10)])
            assert cache.stats.round_trips == round_trips + 1
            assert cache.stats.backend_errors == 1
            assert cache.stats.bypassed > 100
            assert len(caplog.messages) == 1
            assert caplog.messages[0].startswith("aiomodelcache: the cache is not used for now: Redis at 127.0.0.1:")

        caplog.clear()
        own_redis.restart()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=AT_ONCE) as cache:
            await warm()
            own_redis.kill()
            for _ in range(3):
                await assert_lookups_agree()
            assert cache.stats.backend_errors > 1
            await database.execute_query(f"UPDATE event SET title = 'changed' WHERE id = {events[0].id}")
            await assert_lookups_agree()
            assert len(caplog.messages) == 1
            own_redis.restart()  # the new process is empty
            await until_cached()
            assert caplog.messages.count("aiomodelcache: the cache is used again") == 1
            assert sum("the cache is" in message for message in caplog.messages) == 2

    async def test_a_frozen_server_costs_one_timeout(self, database: BaseDBAsyncClient, own_redis: RedisServer) -> None:
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=NEVER) as cache:
            await warm()
            hurry(cache.backend, TIMEOUT)
            own_redis.stop()
            started = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*[Event.cache.get(id=event.id) for event in events]) == events
            assert time.monotonic() - started >= TIMEOUT  # one round trip was tried
            await asyncio.gather(*[assert_lookups_agree() for _ in range(20)])
            round_trips = cache.stats.round_trips
            await assert_lookups_agree()
            assert cache.stats.round_trips == round_trips
            own_redis.cont()

    async def test_a_server_that_resumes_is_used_again_with_all_changes(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=AT_ONCE) as cache:
            await warm()
            hurry(cache.backend, TIMEOUT)
            own_redis.stop()
            events[0].title = "changed"
            await events[0].save()
            events[1].slug = "e4"
            await events[1].save()
            await events[2].delete()
            await assert_lookups_agree()
            assert cache.stats.undelivered > 0
            own_redis.cont()
            await until_cached()

    async def test_lookups_in_flight_survive_the_death_of_the_server(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        async with (
            Proxy(own_redis.port) as proxy,
            ModelCache(proxy.url, socket_timeout=NEVER, breaker_cooldown=NEVER),
        ):
            await warm()
            proxy.answering.clear()
            proxy.requests.clear()
            reads = [asyncio.create_task(Event.cache.get(id=event.id).resolve()) for event in events]
            await proxy.until(lambda: b"MGET" in proxy.requests)
            own_redis.kill()
            proxy.answering.set()
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*reads) == events

    @pytest.mark.exhaustive(because="the server dies before and after every operation")
    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("operation", ["read", "lease", "fill", "mark", "clear"])
    async def test_lookups_stay_correct_if_the_server_dies_at_any_round_trip(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, operation: str, moment: Any
    ) -> None:
        events = await add_events()
        store = GatedBackend(RedisBackend(own_redis.patient_url))
        await store.open()
        async with ModelCache(store, breaker_cooldown=AT_ONCE):
            gate = store.hold(operation, moment)
            events[0].title = "changed"
            work = Event.cache.get(slug="e0").resolve() if operation in ("read", "lease", "fill") else events[0].save()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work)
                await gate.reached()
                own_redis.kill()
                gate.open()
            await assert_lookups_agree()
            own_redis.restart()
            await until_cached()
        await store.close()

    async def test_a_server_restarted_between_lookups_is_used_again(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=AT_ONCE):
            await warm()
            own_redis.restart()
            await until_cached()

    async def test_scripts_are_loaded_again_after_a_script_flush(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        backend = CountingBackend(RedisBackend(own_redis.patient_url))
        await backend.open()
        async with ModelCache(backend) as cache:
            with own_redis.client() as client:
                client.script_flush()
                async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
                    await Event.cache.get(id=events[0].id)
                async with assert_ops(backend, sql=0, redis=["read"]):
                    await Event.cache.get(id=events[0].id)
                for _ in range(2):
                    client.script_flush()
                    events[0].title += "!"
                    async with assert_ops(backend, redis=["mark", "clear"]):
                        await events[0].save()
                    await assert_lookups_agree()
                client.flushall()
                client.script_flush()
            await until_cached()
            assert cache.stats.backend_errors == 0
        await backend.close()

    async def test_a_full_server_answers_existing_entries_and_nothing_gets_stale(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=AT_ONCE) as cache:
            await Event.cache.get(id=events[0].id)
            with own_redis.client() as client:
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("maxmemory", 1)
                before = cache.stats.statements
                await Event.cache.get(id=events[0].id)
                assert cache.stats.statements == before
                await assert_lookups_agree()
                assert cache.stats.backend_errors == 0  # a full server answers, it only refuses writes
                events[0].title = "changed"
                events[1].slug = "e4"
                for event in events[:2]:
                    await event.save()
                    await assert_lookups_agree()
                client.config_set("maxmemory", 0)
            await until_cached()

    async def test_clear_raises_while_the_server_is_unreachable(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=NEVER) as cache:
            own_redis.kill()
            for clearing in (Event.cache.clear(), cache.clear(Event, User), cache.clear_all()):
                with pytest.raises(BackendError, match=r"^Redis at [\d.:]+ cannot be reached: "):
                    await clearing

    async def test_an_only_cache_lookup_returns_nothing_during_an_outage(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=NEVER):
            batch = BatchCacheQuery(event=Event.cache.get(id=events[0].id), gone=Event.cache.get_or_none(id=404))
            assert await batch == await batch.get(only_cache=True) == {"event": events[0], "gone": None}
            own_redis.kill()
            async with assert_ops(sql=0):
                for _ in range(2):
                    assert await batch.get(only_cache=True) == {}

    async def test_a_write_is_refused_under_on_write_error_raise(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        events = await add_events()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=AT_ONCE, on_write_error="raise"):
            await warm()
            own_redis.kill()
            events[0].title = "changed"
            with pytest.raises(
                CacheWriteError, match="The write was refused, because its invalidation could not be sent"
            ):
                await events[0].save()
            await assert_lookups_agree()
            assert (await Event.get(id=events[0].id)).title == "e0"
            own_redis.restart()
            await until_cached()
            await events[0].save()
            await assert_lookups_agree()


class FailingBackend:
    """A custom backend over another one. An operation fails if ``fails(name, number of earlier operations)``.

    If ``carried_out``, a failing operation takes effect and only its reply is lost.
    """

    def __init__(
        self, store: Backend, fails: Callable[[str, int], bool], error: Exception, *, carried_out: bool
    ) -> None:
        self.operations: list[str] = []
        self.failures = 0
        self._store = store
        self._fails = fails
        self._error = error
        self._carried_out = carried_out

    async def open(self) -> None:
        """Does nothing: the fixture opens and closes the wrapped backend."""

    async def close(self) -> None:
        pass

    async def read(self, *args: Any) -> Any:
        return await self._try("read", lambda: self._store.read(*args))

    async def lease(self, *args: Any) -> Any:
        return await self._try("lease", lambda: self._store.lease(*args))

    async def fill(self, *args: Any) -> Any:
        return await self._try("fill", lambda: self._store.fill(*args))

    async def mark(self, *args: Any) -> Any:
        return await self._try("mark", lambda: self._store.mark(*args))

    async def clear(self, *args: Any) -> Any:
        return await self._try("clear", lambda: self._store.clear(*args))

    async def delete(self, *args: Any) -> Any:
        return await self._try("delete", lambda: self._store.delete(*args))

    async def _try(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        number = len(self.operations)
        self.operations.append(name)
        if not self._fails(name, number):
            return await operation()
        self.failures += 1
        if self._carried_out:
            await operation()
        raise self._error


async def read_and_write_everything(store: FailingBackend, number: int = 0) -> None:
    """Opens a cache, makes every kind of write, and compares every lookup with the database."""
    user = await User.create(username="kim")
    event = await Event.create(slug="e0", title="", organizer=user)

    async def assert_all_agree() -> None:
        rows = await Event.all()
        by_slug = {row.slug: row for row in rows}
        slugs = ("e0", "e1")
        expected = [
            *[columns_of(by_slug.get(slug)) for slug in slugs],
            list(map(columns_of, rows)),
            len(rows),
            columns_of(rows[0]),
        ]
        for _ in range(2):
            *found, several, count, one = await asyncio.gather(
                *[Event.cache.get_or_none(slug=slug) for slug in slugs],
                Event.cache.filter(organizer=user),
                Event.cache.count(organizer=user),
                Event.cache.get(id=rows[0].id),
            )
            assert [*map(columns_of, found), list(map(columns_of, several)), count, columns_of(one)] == expected

    async with ModelCache(store, namespace=f"run{number}", breaker_cooldown=AT_ONCE, lease_wait=0) as cache:
        await assert_all_agree()
        event.title = "changed"
        await event.save()
        await assert_all_agree()
        other = await Event.create(slug="e1", title="other", organizer=user)
        await assert_all_agree()
        with contextlib.suppress(ZeroDivisionError):
            async with in_transaction():
                event.title = "rolled back"
                await event.save()
                raise ZeroDivisionError
        await assert_all_agree()
        async with in_transaction():
            await event.delete()
            other.slug = "e0"
            await other.save()
        await assert_all_agree()
        with contextlib.suppress(BackendError):
            await cache.clear_all()
        await assert_all_agree()
    await other.delete()
    await user.delete()


class TestCustomBackend:
    @pytest.mark.exhaustive(because="lets every operation fail in turn")
    @pytest.mark.parametrize("carried_out", [False, True], ids=["not carried out", "answer lost"])
    async def test_lookups_stay_correct_if_any_single_operation_fails(
        self, database: BaseDBAsyncClient, backend: CountingBackend, carried_out: bool
    ) -> None:
        healthy = FailingBackend(backend, lambda name, number: False, BackendError("no"), carried_out=False)
        await read_and_write_everything(healthy)
        assert set(healthy.operations) == {"read", "lease", "fill", "mark", "clear"}
        for failing in itertools.count(step=1 if FULL else 4):
            store = FailingBackend(
                backend,
                lambda name, number, failing=failing: number == failing,
                BackendError("no"),
                carried_out=carried_out,
            )
            await read_and_write_everything(store, failing + 1)
            if not store.failures:  # there are fewer operations than this number
                break
        assert failing > len(healthy.operations) // 2  # batches vary with the database's speed

    @pytest.mark.exhaustive(because="lets every kind of operation fail")
    @pytest.mark.parametrize("carried_out", [False, True], ids=["not carried out", "answer lost"])
    @pytest.mark.parametrize("operation", ["read", "lease", "fill", "mark", "clear", "any"])
    async def test_lookups_stay_correct_if_one_kind_of_operation_always_fails(
        self, database: BaseDBAsyncClient, backend: CountingBackend, operation: str, carried_out: bool
    ) -> None:
        store = FailingBackend(
            backend, lambda name, number: operation in (name, "any"), BackendError("no"), carried_out=carried_out
        )
        await read_and_write_everything(store)
        assert store.failures > 0

    @pytest.mark.parametrize("operation", ["read", "lease", "fill", "mark", "clear", "any"])
    async def test_any_exception_of_a_backend_counts_as_an_outage(
        self,
        database: BaseDBAsyncClient,
        backend: CountingBackend,
        operation: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store = FailingBackend(
            backend, lambda name, number: operation in (name, "any"), KeyError("oops"), carried_out=False
        )
        await read_and_write_everything(store)
        assert "aiomodelcache: the cache is not used for now: FailingBackend failed: KeyError" in caplog.messages

    async def test_a_backend_that_returns_too_few_entries_fails_every_waiter(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        class ShortReads(CountingBackend):
            async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
                return (await super().read(keys))[1:]

        event = (await add_events())[0]
        async with ModelCache(ShortReads(backend)):
            lookups = [Event.cache.get(id=event.id), User.cache.get_or_none(username="kim")]
            with pytest.raises(ValueError, match="shorter"):
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(*lookups)

    async def test_opening_the_cache_raises_the_error_of_the_backend(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        class Unopenable(CountingBackend):
            async def open(self) -> None:
                raise BackendError("The store is shut.")

        cache = ModelCache(Unopenable(backend), require_backend=True)
        with pytest.raises(BackendError, match=r"^The store is shut\.$"):
            await cache.open()
        await cache.close()


class TestBreaker:
    """The circuit breaker, by a clock that the test sets."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1_000.0]
        monkeypatch.setattr("aiomodelcache.backends.breaker.time.monotonic", lambda: now[0])
        return now

    @staticmethod
    async def answer() -> str:
        return "answer"

    @staticmethod
    async def failure() -> str:
        raise BackendError("away")

    async def test_after_the_cooldown_one_reader_probes_and_the_others_bypass_the_backend(
        self, clock: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        stats = Stats()
        guarded = GuardedBackend(MemoryBackend(), stats, cooldown=5.0, enabled=True)
        assert await guarded.call(self.answer()) == "answer"
        assert [guarded.allow_read() for _ in range(3)] == [True, True, True]

        with pytest.raises(BackendError, match="away"):
            await guarded.call(self.failure())
        assert [guarded.allow_read() for _ in range(3)] == [False, False, False]
        clock[0] += 4.9
        assert not guarded.allow_read()
        clock[0] += 0.2
        assert [guarded.allow_read() for _ in range(3)] == [True, False, False]
        with pytest.raises(BackendError, match="away"):
            await guarded.call(self.failure())
        clock[0] += 4.9
        assert not guarded.allow_read()

        clock[0] += 0.2
        assert [guarded.allow_read() for _ in range(3)] == [True, False, False]
        await guarded.call(self.answer())
        assert [guarded.allow_read() for _ in range(3)] == [True, True, True]
        assert (stats.round_trips, stats.backend_errors) == (4, 2)
        assert caplog.messages == [
            "aiomodelcache: the cache is not used for now: away",
            "aiomodelcache: the cache is used again",
        ]

    async def test_a_successful_write_closes_the_breaker(self, clock: list[float]) -> None:
        guarded = GuardedBackend(MemoryBackend(), Stats(), cooldown=5.0, enabled=True)
        with pytest.raises(BackendError):
            await guarded.call(self.failure())
        await guarded.call(self.answer())  # writers always try
        assert guarded.allow_read()

    async def test_readers_bypass_the_backend_while_invalidations_are_undelivered(self, clock: list[float]) -> None:
        guarded = GuardedBackend(MemoryBackend(), Stats(), cooldown=5.0, enabled=True)
        guarded.has_undelivered = True
        assert not guarded.allow_read()
        guarded.has_undelivered = False
        assert guarded.allow_read()

    async def test_after_another_cooldown_a_probe_without_result_is_replaced(self, clock: list[float]) -> None:
        guarded = GuardedBackend(MemoryBackend(), Stats(), cooldown=5.0, enabled=True)
        with pytest.raises(BackendError):
            await guarded.call(self.failure())
        clock[0] += 5.1
        assert [guarded.allow_read() for _ in range(2)] == [True, False]  # the probe never reports a result
        clock[0] += 5.1
        assert [guarded.allow_read() for _ in range(2)] == [True, False]
