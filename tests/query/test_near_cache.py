"""Near caching: lookups that are answered in this process, and everything that ends it.

The other process is a second cache with connections of its own. Only the server reports its writes to the first.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    InvalidationType,
    MemoryBackend,
    ModelCache,
    QuerysetCache,
    QuerysetCountCache,
    RedisBackend,
    RelatedInstanceCache,
    ResultCache,
    ValueCache,
    cached,
    local_cache,
)
from aiomodelcache.backends.redis.connection import PipelinedConnection
from aiomodelcache.testing import CountingBackend, assert_ops, count_ops
from tests.backends.opening import PATIENT
from tests.backends.proxy import Proxy
from tests.backends.service import Service
from tests.support.gates import PATIENCE, GatedBackend, until
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

pytestmark = [
    pytest.mark.usefixtures("near_server"),
    pytest.mark.only_on("redis", because="near entries need a server that reports changes"),
    pytest.mark.only_on("sqlite", because="near entries are bytes of a store"),
]

FAR: dict[str, Any] = {"near": True, "near_lag": 60.0}
"""Settings with a lag that is long enough for a slow machine."""


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[GatedBackend]:
    """Opens a backend that counts its operations and can hold them."""
    backend = GatedBackend(RedisBackend(url, **{"socket_timeout": PATIENT} | settings))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def caches(url: str, **settings: Any) -> AsyncIterator[tuple[ModelCache, GatedBackend, ModelCache]]:
    """Opens a near cache, with its backend, and the cache of another process."""
    async with (
        opened(url) as backend,
        ModelCache(backend, **FAR | settings) as ours,
        ModelCache(url, socket_timeout=PATIENT) as other,
    ):
        yield ours, backend, other


async def near_soon(look: Callable[[], Awaitable[Any]], backend: CountingBackend) -> Any:
    """Looks up three times, asserts that the third lookup sends no request, and returns its answer."""
    for _ in range(2):
        await look()
    async with assert_ops(backend, redis=0, sql=0):
        return await look()


async def create_event(title: str = "old") -> Event:
    kim = await User.create(username="kim")
    return await Event.create(slug="pycon", title=title, organizer=kim)


async def rename_in_other_process(other: ModelCache, event: Event, title: str) -> None:
    """Renames an event and invalidates it through the cache of another process."""
    await QuerySet(Event).filter(id=event.id).update(title=title)  # this queryset invalidates nothing
    await other.manager(Event).invalidate(event.id)


# Near lookups ---------------------------------------------------------------------------------------------


async def test_the_second_hit_takes_no_request(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url) as (cache, backend, _):
        await Event.cache.get(id=event.id)
        async with assert_ops(backend, redis=1, sql=0):
            await Event.cache.get(id=event.id)
        async with assert_ops(backend, redis=0, sql=0):
            found = await Event.cache.get(id=event.id)
        assert (found.id, found.title) == (event.id, "old")
        assert cache.stats.near.hits == 1
        assert cache.stats.by_cache["Event"].hits == 2


LOOK_UPS: dict[str, Callable[[Event], Awaitable[Any]]] = {
    "a row": lambda event: Event.cache.get(id=event.id),
    "a row by slug": lambda event: Event.cache.get(slug="pycon"),
    "a list": lambda event: Event.cache.filter(organizer=event.organizer_id),
    "an empty list": lambda event: Event.cache.filter(organizer=77),
    "a count": lambda event: Event.cache.count(organizer=event.organizer_id),
    "no such row": lambda event: Event.cache.get_or_none(id=7_777),
    "several": lambda event: Event.cache.get_many([event.id, 7_777]),
    "a batch": lambda event: BatchCacheQuery(
        event=Event.cache.get(id=event.id), user=User.cache.get(username="kim"), events=Event.cache.filter(organizer=1)
    ).get(),
    "a gather": lambda event: asyncio.gather(*[Event.cache.get(id=event.id) for _ in range(3)]),
    "a foreign key": lambda event: event_organizer(event),
}


async def event_organizer(event: Event) -> User:
    return await (await Event.cache.get(id=event.id)).organizer


@pytest.mark.parametrize("look", LOOK_UPS.values(), ids=LOOK_UPS)
async def test_lookups_of_every_kind_are_kept_near(
    database: BaseDBAsyncClient, backend_url: str, look: Callable[[Event], Awaitable[Any]]
) -> None:
    event = await create_event()
    async with caches(backend_url, negative_timeout=600) as (_, backend, _):
        first = await look(event)
        answer = await near_soon(lambda: look(event), backend)
        assert answer == first


async def test_each_caller_gets_an_instance_of_its_own(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        first = await near_soon(lambda: Event.cache.get(id=event.id), backend)
        second = await Event.cache.get(id=event.id)
        assert first is not second
        first.title = "changed in memory only"
        assert (await Event.cache.get(id=event.id)).title == "old"


async def test_an_absence_that_is_kept_near_raises(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with caches(backend_url) as (_, backend, _):
        for _ in range(2):
            with pytest.raises(DoesNotExist):
                await Event.cache.get(id=1)
        async with assert_ops(backend, redis=0, sql=0):
            with pytest.raises(DoesNotExist):
                await Event.cache.get(id=1)


async def test_computed_results_and_values_are_kept_near(database: BaseDBAsyncClient, backend_url: str) -> None:
    class Count(QuerysetCountCache):
        model = Event
        key_fields = ("organizer",)

    class Titles(ResultCache[list[Event]]):
        model = Event
        key_fields = ("organizer",)

        async def get_result(self, organizer: int) -> list[Event]:
            return await Event.filter(organizer_id=organizer)

    class Rate(ValueCache[int]):
        near = True

        async def get_value(self, base: str) -> int:
            return 7

    @cached(near=True)
    async def doubled(number: int) -> int:
        return 2 * number

    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        assert await near_soon(lambda: Count(organizer=event.organizer_id), backend) == 1
        await Titles(organizer=event.organizer_id)  # the rows of the result are looked up by the next call
        assert await near_soon(lambda: Titles(organizer=event.organizer_id), backend) == [event]
        assert await near_soon(lambda: Rate("USD"), backend) == 7
        assert await near_soon(lambda: doubled(4), backend) == 8
        await Rate("USD").invalidate()
        async with assert_ops(backend, redis=["read", "lease", "fill"], sql=0):
            await Rate("USD")


async def test_a_value_can_be_near_in_a_cache_without_near_caching(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    @cached(near=True)
    async def doubled(number: int) -> int:
        return 2 * number

    event = await create_event()
    async with caches(backend_url, near=False) as (_, backend, _):
        for _ in range(2):
            await Event.cache.get(id=event.id)
        await doubled(4)
        await doubled(4)  # still on the connection that was opened without tracking
        assert await near_soon(lambda: doubled(4), backend) == 8
        async with assert_ops(backend, redis=["read"], sql=0):
            await Event.cache.get(id=event.id)


# Invalidation ---------------------------------------------------------------------------------------------


async def test_the_writes_of_another_process_are_seen(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url) as (cache, backend, other):
        key = Event.cache.get(id=event.id).locate(cache.open_cache).key
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        await rename_in_other_process(other, event, "new")
        await until(lambda: not cache.open_cache.guarded.near.holds(key))
        assert (await Event.cache.get(id=event.id)).title == "new"
        assert cache.stats.near.invalidated > 0


WRITES: dict[str, Callable[[Event], Awaitable[Any]]] = {
    "save": lambda event: event.save(),
    "save of one field": lambda event: event.save(update_fields=["title"]),
    "update": lambda event: Event.filter(id=event.id).update(title="new"),
    "update past the limit": lambda event: Event.all().update(title="new"),
    "in a transaction": lambda event: save_in_transaction(event),
    "delete": lambda event: event.delete(),
    "invalidate": lambda event: by_hand(event, Event.cache.invalidate(event.id)),
    "clear": lambda event: by_hand(event, Event.cache.clear()),
}


async def save_in_transaction(event: Event) -> None:
    async with in_transaction():
        await event.save()


async def by_hand(event: Event, invalidation: Awaitable[object]) -> None:
    await QuerySet(Event).filter(id=event.id).update(title="new")
    await invalidation


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loses all invalidations from the server, as if they arrived after the test."""
    monkeypatch.setattr(PipelinedConnection, "_on_push", lambda self, message: None)


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_own_writes_are_seen_before_the_server_reports_them(
    database: BaseDBAsyncClient, backend_url: str, write: Callable[[Event], Awaitable[Any]]
) -> None:
    event = await create_event()
    lee = await User.create(username="lee")
    other = await Event.create(slug="other", title="other", organizer=lee)
    async with caches(backend_url, bulk_limit=1) as (_, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        await near_soon(lambda: Event.cache.filter(organizer=event.organizer_id), backend)
        event.title = "new"
        await write(event)
        for _ in range(3):
            stored = await Event.filter(id=event.id)
            found = await Event.cache.get_or_none(id=event.id)
            listed = await Event.cache.filter(organizer=event.organizer_id)
            assert [row.title for row in stored] == ([found.title] if found else [])
            assert [row.title for row in listed] == [row.title for row in stored]
        assert (await Event.cache.get(id=other.id)).title == (await Event.get(id=other.id)).title


@pytest.mark.usefixtures("deaf")
async def test_a_read_in_flight_is_not_kept_after_an_own_write(database: BaseDBAsyncClient, backend_url: str) -> None:
    """The server replies before the mark, on another connection. The reader handles the reply after the write."""
    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        await Event.cache.get(id=event.id)
        gate = backend.hold("read", "after")
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(Event.cache.get(id=event.id).resolve())
            await gate.reached()
            event.title = "new"
            await event.save()
            gate.open()
        assert early.result().title == "old"
        assert (await Event.cache.get(id=event.id)).title == "new"


async def test_an_invalidation_right_after_the_reply_is_not_lost(database: BaseDBAsyncClient, backend_url: str) -> None:
    """The invalidation arrives before the reader handles the reply."""
    event = await create_event()
    async with caches(backend_url) as (cache, backend, other):
        await Event.cache.get(id=event.id)
        key = Event.cache.get(id=event.id).locate(cache.open_cache).key
        near = cache.open_cache.guarded.near
        gate = backend.hold("read", "after")
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(Event.cache.get(id=event.id).resolve())
            await gate.reached()
            assert key in near.expected
            await rename_in_other_process(other, event, "new")
            await until(lambda: key not in near.expected)
            gate.open()
        assert early.result().title == "old"
        assert not near.holds(key)
        assert (await Event.cache.get(id=event.id)).title == "new"


@pytest.mark.usefixtures("deaf")
async def test_rows_of_an_undelivered_write_are_not_near(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    """Nothing is near until the intent of the write is delivered. After that, the written row is not near."""
    event = await create_event()
    async with Proxy(own_redis.port) as proxy, caches(proxy.url, breaker_cooldown=0.02) as (cache, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        proxy.cut()
        event.title = "new"
        await event.save()
        assert cache.open_cache.guarded.has_undelivered
        assert (await Event.cache.get(id=event.id)).title == "new"
        proxy.mend()
        await until(lambda: not cache.open_cache.guarded.has_undelivered)
        for _ in range(3):
            assert (await Event.cache.get(id=event.id)).title == "new"


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
async def test_a_flush_drops_all_near_entries(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str, command: str
) -> None:
    event = await create_event()
    async with caches(own_redis.url) as (cache, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        with own_redis.client() as client:
            client.execute_command(command)
        await until(lambda: cache.stats.near.dropped == 1)
        assert cache.stats.near.bytes == 0
        async with assert_ops(backend, redis=["read", "lease", "fill"], sql=1):
            await Event.cache.get(id=event.id)


async def test_a_killed_connection_drops_all_near_entries_until_it_is_replaced(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    event = await create_event()
    async with caches(own_redis.url, breaker_cooldown=0.02) as (cache, backend, other):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        with own_redis.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: not cache.open_cache.guarded.near.on)
        assert cache.stats.near.bytes == 0
        await rename_in_other_process(other, event, "new")
        assert (await Event.cache.get(id=event.id)).title == "new"
        await until(cache.open_cache.guarded.allow_read)
        await near_again(event, backend)


async def near_again(event: Event, backend: CountingBackend) -> None:
    """Looks up a row until a lookup sends no request."""
    async with asyncio.timeout(PATIENCE):
        while True:
            before = len(backend.operations)
            await Event.cache.get(id=event.id)
            if len(backend.operations) == before and backend.operations:
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["restart", "restore"])
async def test_a_restart_of_the_server_leaves_no_old_row_near(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str, how: str
) -> None:
    event = await create_event()
    async with caches(own_redis.url, breaker_cooldown=0.02) as (cache, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        own_redis.save()
        await Event.filter(id=event.id).update(title="new")
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        getattr(own_redis, how)()
        await until(lambda: not cache.open_cache.guarded.near.on)
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                assert (await Event.cache.get(id=event.id)).title == "new"


@pytest.mark.slow(because="a sentinel fails over")
@pytest.mark.long(because="a sentinel fails over")
@pytest.mark.parametrize("killed", [False, True], ids=["demoted", "killed"])
async def test_a_failover_leaves_no_old_row_near(
    database: BaseDBAsyncClient, redis_server: RedisServer, backend_url: str, killed: bool
) -> None:
    """The replica has missed the last write, so its entry is old, and the next write is announced to it alone."""
    event = await create_event()
    with ExitStack() as stack:
        service = Service(stack)
        async with caches(service.url, breaker_cooldown=0.02) as (cache, backend, other):
            await near_soon(lambda: Event.cache.get(id=event.id), backend)
            service.replicated()
            service.cut_replica_off()
            await rename_in_other_process(other, event, "new")
            await until(lambda: cache.stats.near.invalidated)
            await near_again(event, backend)
            if killed:
                service.master.kill()
            service.fail_over()
            await until(lambda: not cache.open_cache.guarded.near.on)
            await until(cache.open_cache.guarded.allow_read)
            await near_again(event, backend)
            assert (await Event.cache.get(id=event.id)).title == "new"
            await rename_in_other_process(other, event, "newer")
            await until(lambda: not other.open_cache.guarded.has_undelivered)
            await near_again(event, backend)
            assert (await Event.cache.get(id=event.id)).title == "newer"
            with service.replica.client() as client:
                assert cache.open_cache.guarded.near.on
                assert client.info("stats")["tracking_total_keys"]


async def test_near_entries_are_not_trusted_longer_than_the_lag_of_a_frozen_server(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    """The lag applies although no request has found out that the server is frozen."""
    event = await create_event()
    settings: dict[str, Any] = {"near": True, "near_lag": 0.3}
    async with opened(own_redis.url) as backend, ModelCache(backend, **settings) as cache:
        await near_again(event, backend)
        near = cache.open_cache.guarded.near
        own_redis.stop()
        try:
            stopped = time.monotonic()
            await until(lambda: near.find([]) is None)
            assert near._trusted_until < stopped + 0.3
            assert near.on  # tracking is still on, but not trusted
        finally:
            own_redis.cont()
        await near_again(event, backend)


async def test_near_entries_are_not_trusted_after_the_event_loop_was_blocked(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    """Invalidations that arrived meanwhile are not handled yet, so the next lookup must read the server."""
    event = await create_event()
    async with caches(backend_url, near_lag=0.1) as (_, backend, _):
        await near_again(event, backend)
        time.sleep(0.1)  # noqa: ASYNC251 - blocks the event loop on purpose
        async with assert_ops(backend, redis=["read"], sql=0):
            await Event.cache.get(id=event.id)


async def test_lookups_prolong_the_trust_in_near_entries(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url, near_lag=2.0) as (cache, backend, _):
        await near_again(event, backend)
        near = cache.open_cache.guarded.near
        before = near._trusted_until
        async with asyncio.timeout(PATIENCE):
            while near._trusted_until < before + 2.0:
                await Event.cache.get(id=event.id)
                await asyncio.sleep(0.02)


async def test_a_near_entry_expires(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url, timeout=0.2, ttl_jitter=0, refresh_ahead=0) as (cache, backend, _):
        await near_again(event, backend)
        expired = time.monotonic() + 0.2 + 0.02
        key = Event.cache.get(id=event.id).locate(cache.open_cache).key
        await until(lambda: time.monotonic() > expired)
        assert not cache.open_cache.guarded.near.holds(key)
        async with assert_ops(backend, redis=["read", "lease", "fill"], sql=1):
            await Event.cache.get(id=event.id)


async def test_an_entry_that_the_server_deletes_is_not_near(
    database: BaseDBAsyncClient, redis_server: RedisServer, backend_url: str
) -> None:
    event = await create_event()
    async with caches(backend_url) as (cache, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        key = Event.cache.get(id=event.id).locate(cache.open_cache).key
        with redis_server.client() as client:
            client.delete(key)
        await until(lambda: not cache.open_cache.guarded.near.holds(key))


async def test_near_memory_is_bounded(database: BaseDBAsyncClient, backend_url: str) -> None:
    kim = await User.create(username="kim")
    events = [await Event.create(slug=f"e{number}", title=f"t{number}", organizer=kim) for number in range(50)]
    async with caches(backend_url, near_memory_limit=10_000) as (cache, _, _):
        for _ in range(3):
            for event in events:
                await Event.cache.get(id=event.id)
                assert cache.stats.near.bytes <= 10_000
        assert cache.stats.near.evicted > 0
        assert cache.stats.near.bytes > 5_000


async def test_stale_copies_are_not_kept_near(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Event.CacheMeta, "invalidation", InvalidationType.DYNAMIC, raising=False)
    monkeypatch.setattr(Event.CacheMeta, "allowtime", 60, raising=False)
    event = await create_event()
    async with opened(backend_url) as backend, ModelCache(backend, **FAR):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        event.title = "new"
        await event.save()
        assert (await Event.cache.get(id=event.id)).title == "old"  # a stale copy, which ``allowtime`` permits
        async with asyncio.timeout(PATIENCE):
            while (await Event.cache.get(id=event.id)).title == "old":
                await asyncio.sleep(0.001)
        await near_again(event, backend)


# Lookups that are not near --------------------------------------------------------------------------------


async def test_in_transactions_and_with_the_cache_disabled_the_database_answers(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    event = await create_event()
    async with caches(backend_url) as (cache, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        with cache.disabled():
            async with assert_ops(backend, redis=0, sql=1):
                await Event.cache.get(id=event.id)
        async with in_transaction(), assert_ops(backend, redis=0, sql=1):
            await Event.cache.get(id=event.id)


async def test_a_request_scope_remembers_near_answers(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        async with local_cache(), assert_ops(backend, redis=0, sql=0):
            first = await Event.cache.get(id=event.id)
            assert await Event.cache.get(id=event.id) is first


async def test_a_model_can_opt_out_of_near_caching(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Event.CacheMeta, "near", False, raising=False)
    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        await near_soon(lambda: User.cache.get(username="kim"), backend)
        for _ in range(2):
            await Event.cache.get(id=event.id)
        async with assert_ops(backend, redis=["read"], sql=0):
            await Event.cache.get(id=event.id)


async def test_a_model_can_opt_in_to_near_caching(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Event.CacheMeta, "near", True, raising=False)
    event = await create_event()
    async with caches(backend_url, near=False) as (_, backend, _):
        await near_soon(lambda: Event.cache.get(slug="pycon"), backend)
        for _ in range(2):
            await User.cache.get(username="kim")
        async with assert_ops(backend, redis=["read"], sql=0):
            await User.cache.get(username="kim")
        assert event.id


async def test_a_server_that_refuses_tracking_turns_near_caching_off(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    event = await create_event()
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-client")
    url = own_redis.url.replace("redis://", "redis://app:secret@")
    async with caches(url) as (cache, backend, _):
        for _ in range(3):
            await Event.cache.get(id=event.id)
        async with assert_ops(backend, redis=["read"], sql=0):
            await Event.cache.get(id=event.id)
        assert cache.stats.near.refused == 1
        assert not cache.open_cache.guarded.near.on
    assert "nothing is kept near" in caplog.text


@pytest.mark.parametrize(
    ("version", "refused"), [("6.0.20", 1), ("6.2.6", 1), ("6.2.7", 0), ("7.0.0", 0), ("10.0.0", 0)]
)
async def test_a_server_that_sends_messages_in_the_middle_of_replies_turns_near_caching_off(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str, version: str, refused: int
) -> None:
    event = await create_event()
    async with Proxy(own_redis.port) as proxy:
        other = b"$%d\r\n%b\r\n" % (len(version), version.encode())
        proxy.edit = lambda data: re.sub(rb"\$\d+\r\n\d+\.\d+\.\d+\r\n", other, data)
        async with caches(proxy.url) as (cache, backend, _):
            for _ in range(3):
                await Event.cache.get(id=event.id)
            async with assert_ops(backend, redis=refused, sql=0):
                await Event.cache.get(id=event.id)
            assert cache.stats.near.refused == refused


async def test_relation_paths_are_kept_near(database: BaseDBAsyncClient, backend_url: str) -> None:
    class OrganizerOf(RelatedInstanceCache[User]):
        model = Event
        key_fields = ("slug",)
        relation = "organizer"

    event = await create_event()
    async with caches(backend_url) as (cache, backend, other):
        assert (await near_soon(lambda: OrganizerOf("pycon"), backend)).username == "kim"
        lee = await User.create(username="lee")
        await QuerySet(Event).filter(id=event.id).update(organizer_id=lee.id)
        await other.manager(Event).invalidate(event.id)
        key = Event.cache.get(id=event.id).locate(cache.open_cache).key
        await until(lambda: not cache.open_cache.guarded.near.holds(key))
        assert (await OrganizerOf("pycon")).username == "lee"


@pytest.mark.usefixtures("deaf")
async def test_a_step_after_a_loaded_row_is_not_answered_by_a_near_entry(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    """A row must not be older than the row that leads to it."""

    class OrganizerOf(RelatedInstanceCache[User]):
        model = Event
        key_fields = ("slug",)
        relation = "organizer"

    event = await create_event()
    async with caches(backend_url) as (cache, backend, other):
        await near_soon(lambda: User.cache.get(id=event.organizer_id), backend)
        await QuerySet(User).filter(id=event.organizer_id).update(team=5)
        await QuerySet(Event).filter(id=event.id).update(position=5)
        await other.manager(User).invalidate(event.organizer_id)
        await other.manager(Event).invalidate(event.id)
        assert (await OrganizerOf("pycon")).team == 5  # the event was loaded from the database


# Backends and settings without near caching ---------------------------------------------------------------


async def test_a_memory_backend_keeps_nothing_near(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with ModelCache("memory://", near=True) as cache:
        for _ in range(3):
            await Event.cache.get(id=event.id)
        assert cache.stats.near.hits == 0


async def test_a_backend_without_tracking_is_refused(database: BaseDBAsyncClient, backend_url: str) -> None:
    class Silent:
        def __init__(self) -> None:
            for name in ("open", "close", "read", "lease", "fill", "mark", "clear", "delete"):
                setattr(self, name, getattr(MemoryBackend(), name))

    silent: Any = Silent()
    with pytest.raises(CacheConfigurationError, match="give it a method `track`, or remove near"):
        await ModelCache(silent, near=True).open()
    async with ModelCache(silent):
        pass


@pytest.mark.parametrize("query", ["max_connections=3", "health_check_interval=3"])
async def test_a_url_with_pool_options_is_refused(database: BaseDBAsyncClient, backend_url: str, query: str) -> None:
    with pytest.raises(CacheConfigurationError, match="URL without these, or remove near"):
        await ModelCache(f"{backend_url}&{query}", near=True).open()


async def test_a_backend_serves_one_near_cache(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with caches(backend_url) as (_, backend, _):
        with pytest.raises(CacheConfigurationError, match="give each a backend of its own"):
            await ModelCache(backend, near=True).open()
    await backend.open()
    async with ModelCache(backend, near=True):
        pass
    await backend.close()


@pytest.mark.parametrize("value", ["yes", 1])
async def test_a_wrong_value_of_near_is_an_error(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setattr(Event.CacheMeta, "near", value, raising=False)
    with pytest.raises(CacheConfigurationError, match=r"Event.CacheMeta.near is .*: use True or False"):
        await ModelCache(backend_url).open()


async def test_an_index_alone_cannot_be_near(database: BaseDBAsyncClient, backend_url: str) -> None:
    class ByOrganizer(QuerysetCache[Event]):
        model = Event
        key_fields = ("organizer",)
        near = True

    with pytest.raises(CacheConfigurationError, match=r"ByOrganizer.near .* set near = True in Event.CacheMeta"):
        await ModelCache(backend_url).open()


async def test_explain_reports_near_entries(database: BaseDBAsyncClient, backend_url: str) -> None:
    event = await create_event()
    async with caches(backend_url) as (_, backend, _):
        explained = await Event.cache.explain(id=event.id)
        assert explained.entry is not None
        assert not explained.entry.near
        await near_soon(lambda: Event.cache.get(slug="pycon"), backend)
        explained = await Event.cache.explain(slug="pycon")
        assert explained.entry is not None
        assert explained.entry.near
        assert [row.near for row in explained.rows] == [True]


async def test_a_process_that_only_reads_uses_the_cache_again_after_an_error(
    database: BaseDBAsyncClient, own_redis: RedisServer
) -> None:
    event = await create_event()
    async with ModelCache(own_redis.url, **FAR, breaker_cooldown=0.2, socket_timeout=PATIENT) as cache:
        for _ in range(3):
            await Event.cache.get(id=event.id)
        with own_redis.client() as control:
            control.execute_command("ACL", "SETUSER", "default", "-mget")
            cache.open_cache.guarded.near.drop_all()
            async with assert_ops(sql=1):
                await Event.cache.get(id=event.id)
            assert cache.stats.backend_errors == 1, "only the read must fail, not the connection"
            control.execute_command("ACL", "SETUSER", "default", "+mget")
        for _ in range(20):  # in total longer than the cooldown
            await asyncio.sleep(0.05)
            with count_ops() as ops:
                await Event.cache.get(id=event.id)
            if not ops.statements:
                return
        pytest.fail("lookups still query the database after the cooldown")
