"""The counters of all processes through the store: published in the background, and gone with their process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, CacheNotOpen, MemoryBackend, ModelCache
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.layout import VALUE, new_token, pack_entry
from aiomodelcache.engine import publishing
from aiomodelcache.engine.publishing import published_keys
from aiomodelcache.observe.fleet import Worker, decode_worker, encode_worker
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import Counters, NearCounters, Stats
from aiomodelcache.testing import CountingBackend
from tests.support.models.models import User

pytestmark = pytest.mark.only_on("sqlite", because="counters depend on no database")

PATIENCE = 20.0
memory_only = pytest.mark.only_on("memory", because="it is the backend of the test itself")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until publications in the background have led to something."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


async def published(backend: MemoryBackend | CountingBackend, namespace: str = "") -> list[bytes]:
    """The entries of workers in the store."""
    return [entry for entry in await backend.read(published_keys(namespace)) if entry is not None]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "PUBLISH_INTERVAL", 0.05)


@pytest.fixture
async def two(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[tuple[ModelCache, ModelCache]]:
    """Two caches over one store, as two processes have them."""
    async with (
        ModelCache(backend, publish_stats=True) as first,
        ModelCache(backend, publish_stats=True) as second,
    ):
        yield first, second


async def test_each_process_has_the_counters_of_all(two: tuple[ModelCache, ModelCache]) -> None:
    first, second = two
    await User.create(id=1, username="kim")
    for cache in (first, second, second):
        await cache.manager(User).get(id=1)
    expected = second.worker
    await second.fleet()
    fleet = await first.fleet()
    assert fleet.complete
    assert fleet.own.name == first.worker.name
    [other] = fleet.others
    assert (other.name, other.host, other.pid) == (expected.name, expected.host, expected.pid)
    assert other.stats.by_cache["User"] == expected.stats.by_cache["User"]
    assert other.stats.by_cache["User"].hits == 2
    assert [worker.stats.statements for worker in fleet.workers] == [1, 0]


async def test_nothing_is_published_unless_asked_for(
    database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ModelCache(backend) as cache:
        before = cache.stats.round_trips
        fleet = await cache.fleet()
        assert (fleet.others, fleet.complete) == ((), True)
        assert cache.stats.round_trips == before + 1
        assert await published(backend) == []
        cache.publish_stats()
        cache.publish_stats()

        async def is_there() -> bool:
            return bool(await published(backend))

        await until(is_there)
        assert len(await published(backend)) == 1


async def test_namespaces_are_apart(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    async with (
        ModelCache(backend, publish_stats=True, namespace="a") as first,
        ModelCache(backend, publish_stats=True, namespace="b") as second,
    ):
        await second.fleet()
        assert (await first.fleet()).others == ()


async def test_a_publication_costs_one_round_trip_and_a_process_that_closes_vanishes(
    database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PUBLISH_INTERVAL", 3600.0)
    async with ModelCache(backend) as watcher:
        async with ModelCache(backend, publish_stats=True) as cache:
            assert (await cache.fleet()).complete
            before = cache.stats.round_trips
            await cache.fleet()  # publishes, and reads
            assert cache.stats.round_trips == before + 2
            assert [each.name for each in (await watcher.fleet()).others] == [cache.worker.name]
        assert (await watcher.fleet()).others == ()
        with pytest.raises(CacheNotOpen):
            await cache.fleet()
        with pytest.raises(CacheNotOpen):
            cache.worker  # noqa: B018
        async with cache:
            await cache.fleet()
            assert len((await watcher.fleet()).others) == 1


async def test_a_process_that_ends_without_closing_expires(
    database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PUBLISH_INTERVAL", 3600.0)
    monkeypatch.setattr(publishing, "PUBLISHED_TTL", 0.2)
    async with ModelCache(backend) as watcher, ModelCache(backend, publish_stats=True) as silent:
        await silent.fleet()

        async def is_gone() -> bool:
            return (await watcher.fleet()).others == ()

        await until(is_gone)
        await silent.fleet()  # it was only frozen
        assert len((await watcher.fleet()).others) == 1


async def test_counters_come_back_after_the_store_was_emptied(
    two: tuple[ModelCache, ModelCache], backend: CountingBackend
) -> None:
    first, second = two
    await asyncio.gather(first.fleet(), second.fleet())
    await backend.delete(published_keys(""))
    await second.fleet()
    assert [each.name for each in (await first.fleet()).others] == [second.worker.name]
    assert len(await published(backend)) == 2


async def test_no_counter_goes_backwards(two: tuple[ModelCache, ModelCache]) -> None:
    """A process publishes what it shows before it shows it, so another process cannot show less later."""
    first, second = two
    await User.create(id=1, username="kim")
    shown = 0
    for turn in range(40):
        await first.manager(User).get(id=1)
        if turn % 2:
            seen = (await first.fleet()).own
        else:
            [seen] = (await second.fleet()).others or [first.worker]
        assert seen.stats.by_cache.get("User", first.stats.of("User")).hits >= shown
        shown = seen.stats.by_cache["User"].hits if "User" in seen.stats.by_cache else shown
    assert shown > 30


async def test_foreign_and_damaged_entries_are_ignored(
    two: tuple[ModelCache, ModelCache], backend: CountingBackend
) -> None:
    first, second = two
    await asyncio.gather(first.fleet(), second.fleet())
    taken = await backend.read(published_keys(""))
    free = [key for key, entry in zip(published_keys(""), taken, strict=True) if entry is None]
    guard = bytes(24)
    payloads = [b"", b"{}", b"[]", b"\xff", b'{"name":1,"host":"h","pid":1,"started":1}', b"null"]
    entries = [pack_entry(VALUE, new_token(), guard, 0, payload) for payload in payloads]
    entries += [b"V", b"W" + bytes(29), entries[0][:-1] + b"x", b"E" + new_token()]
    for key, entry in zip(free, entries, strict=False):
        token = new_token()
        await backend.lease([Lease(key)], token, 60_000)
        assert await backend.fill([Fill(key, b"L" + token, entry, 60_000)]) == [True]
    assert [each.name for each in (await first.fleet()).others] == [second.worker.name]


@memory_only
async def test_a_store_that_is_away_leaves_the_own_counters(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    class Away(MemoryBackend):
        away = False

        async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
            if self.away:
                raise BackendError("away")
            return await super().read(keys)

        async def fill(self, fills: Sequence[Fill]) -> list[bool]:
            stored = await super().fill(fills)
            if self.away:
                raise BackendError("away")  # after the fact: the reply is lost
            return stored

    store = Away()
    async with ModelCache(store, publish_stats=True) as first, ModelCache(store, publish_stats=True) as second:
        await User.create(id=1, username="kim")
        await second.fleet()
        store.away = True
        fleet = await second.fleet()
        assert fleet.own.breaker_open, "also if this very request found out"
        await second.manager(User).get(id=1)
        fleet = await second.fleet()
        assert (fleet.complete, fleet.others) == (False, ())
        assert fleet.own.breaker_open
        assert fleet.own.stats.statements == 1
        store.away = False
        await second.fleet()
        [other] = (await first.fleet()).others
        assert other.name == second.worker.name
        assert len(await published(store)) == 2, "each process has one key, also after replies were lost"


@memory_only
async def test_the_first_reply_may_be_lost(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    class LosesReplies(MemoryBackend):
        lost = 0

        async def fill(self, fills: Sequence[Fill]) -> list[bool]:
            stored = await super().fill(fills)
            self.lost += 1
            if self.lost == 1:
                raise BackendError("lost")
            return stored

    store = LosesReplies()
    async with ModelCache(store) as watcher, ModelCache(store, publish_stats=True) as cache:
        assert not (await cache.fleet()).complete
        assert (await cache.fleet()).complete
        assert len((await watcher.fleet()).others) == 1
        assert len(await published(store)) == 1


async def test_more_processes_than_there_are_keys_are_not_published(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(publishing, "MAX_WORKERS", 1)
    async with ModelCache(backend, publish_stats=True) as first:
        await first.fleet()
        async with ModelCache(backend, publish_stats=True) as second:
            with caplog.at_level(logging.WARNING, "aiomodelcache"):
                for _ in range(3):
                    fleet = await second.fleet()
            assert [each.name for each in fleet.others] == [first.worker.name]
            assert (await first.fleet()).others == ()
    assert [record.message for record in caplog.records] == [
        "aiomodelcache: counters are not published, because 1 processes do already"
    ]


async def test_counters_are_signed(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    async with (
        ModelCache(backend, publish_stats=True, secret=b"a" * 32) as first,
        ModelCache(backend, publish_stats=True, secret=b"a" * 32) as second,
        ModelCache(backend, publish_stats=True, secret=b"b" * 32) as stranger,
    ):
        await asyncio.gather(second.fleet(), stranger.fleet())
        assert [each.name for each in (await first.fleet()).others] == [second.worker.name]


@pytest.mark.exhaustive(because="closes and cancels at every moment")
@pytest.mark.parametrize("moment", range(12))
async def test_closing_is_clean_at_any_moment_and_when_cancelled(
    database: BaseDBAsyncClient, backend: CountingBackend, moment: int
) -> None:
    cache = ModelCache(backend, publish_stats=True)
    await cache.open()
    publisher = cache._views.publisher
    for _ in range(moment):
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(cache.close())
    for _ in range(moment // 2):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await cache.close()  # unless it was cancelled before it began
    assert publisher._task is None
    assert not [task for task in asyncio.all_tasks() if "_run" in repr(task.get_coro())]
    publisher.start()
    assert publisher._task is None


def test_only_counters_that_are_not_zero_are_sent() -> None:
    stats = Stats(round_trips=9, near=NearCounters(bytes=4))
    stats.of("Event").hits = 3
    stats.of("Event").warn_once("kind", "warned")
    stats.of("User")
    worker = Worker.here().at(stats, breaker_open=False, undelivered_keys=7)
    stats.round_trips = 10
    data = encode_worker(worker)
    assert b"misses" not in data
    assert b"warned" not in data
    found = decode_worker(data)
    assert found is not None
    assert (found.stats.round_trips, found.undelivered_keys) == (9, 7)
    assert (found.stats.near.bytes, found.stats.by_cache["Event"].hits) == (4, 3)
    assert found.stats.by_cache["Event"].name == "Event"
    assert found.stats.by_cache["User"] == Counters(), "a class is known before its first lookup"


def test_the_state_of_relays_is_sent() -> None:
    relay = RelayStatus(connection="default", tables=2, leading=True, last_drain=1.5)
    worker = Worker.here().at(Stats(), breaker_open=False, undelivered_keys=0, relays=[relay])
    relay.lines = 7
    found = decode_worker(encode_worker(worker))
    assert found is not None
    assert found.relays == (RelayStatus(connection="default", tables=2, leading=True, last_drain=1.5),)


def test_counters_of_a_later_version_are_read() -> None:
    later = b'{"name":"w","host":"h","pid":1,"started":1.5,"new":[1],"stats":{"newer":2,"statements":3}}'
    found = decode_worker(later)
    assert found is not None
    assert found.stats.statements == 3
