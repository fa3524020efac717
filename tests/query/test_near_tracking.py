"""Tracking by the server: it tracks the keys of near classes and no others, on a connection of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import pytest
from redis.crc import key_slot
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.queryset import QuerySet

from aiomodelcache import BatchCacheQuery, ModelCache, RelatedInstanceCache, cached, local_cache
from aiomodelcache.backends.near import Near
from aiomodelcache.encoding.layout import new_version
from aiomodelcache.testing import assert_ops
from aiomodelcache.testing.conformance import new_key, new_value
from tests.backends import opening
from tests.backends.opening import PATIENT
from tests.backends.proxy import Proxy
from tests.protocol.interleavings.questions import on_cache
from tests.query.test_near_cache import FAR, caches, create_event, near_soon, rename_in_other_process
from tests.support.gates import until
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.usefixtures("near_server"),
    pytest.mark.only_on("redis", because="near entries need a server that reports changes"),
    pytest.mark.only_on("sqlite", because="near entries are bytes of a store"),
]

NEAR_EVENTS: dict[str, Any] = {"near": False}


@pytest.fixture(autouse=True)
def near_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes events near. Users are near in caches that keep all near."""
    monkeypatch.setattr(Event.CacheMeta, "near", True, raising=False)


def tracked(server: RedisServer) -> int:
    """Returns the number of keys that the server tracks, of all clients."""
    with server.client() as client:
        return int(client.info("stats")["tracking_total_keys"])


@asynccontextmanager
async def plainly(url: str, **settings: Any) -> AsyncIterator[ModelCache]:
    """Opens a near cache whose reads start without a task."""
    async with ModelCache(url, socket_timeout=PATIENT, **FAR | settings) as cache:
        yield cache


@asynccontextmanager
async def by_tasks(url: str, **settings: Any) -> AsyncIterator[ModelCache]:
    async with caches(url, **settings) as (cache, _, _):
        yield cache


WAYS = pytest.mark.parametrize("opened", [plainly, by_tasks])
Opened = Callable[..., AbstractAsyncContextManager[ModelCache]]


@WAYS
async def test_rows_that_are_not_near_are_not_tracked(
    database: BaseDBAsyncClient, own_redis: RedisServer, opened: Opened
) -> None:
    event = await create_event()
    await User.bulk_create([User(id=100 + number, username=f"user{number}") for number in range(2_000)])
    async with opened(own_redis.url, **NEAR_EVENTS) as cache, ModelCache(own_redis.url) as other:
        for _ in range(3):
            await on_cache(Event.cache.get(id=event.id), cache)
        assert cache.stats.near.hits == 1
        before = tracked(own_redis)
        assert before == 2, "the row and its epoch"
        for _ in range(2):
            for number in range(0, 2_000, 100):
                await asyncio.gather(*[on_cache(User.cache.get(id=100 + number + n), cache) for n in range(100)])
        assert cache.stats.by_cache["User"].hits == 2_000
        assert tracked(own_redis) == before
        await rename_in_other_process(other, event, "new")
        await until(lambda: cache.stats.near.invalidated)
        assert (await on_cache(Event.cache.get(id=event.id), cache)).title == "new"


@WAYS
async def test_one_tick_reads_near_and_other_rows(
    database: BaseDBAsyncClient, own_redis: RedisServer, opened: Opened
) -> None:
    event = await create_event()
    kim = event.organizer_id

    async def both() -> list[str]:
        queries = Event.cache.get(id=event.id), User.cache.get(id=kim)
        found = await BatchCacheQuery(event=on_cache(queries[0], cache), user=on_cache(queries[1], cache)).get()
        return [found["event"].title, found["user"].username]

    async with opened(own_redis.url, **NEAR_EVENTS) as cache, ModelCache(own_redis.url) as other:
        for _ in range(3):
            assert await both() == ["old", "kim"]
        assert tracked(own_redis) == 2
        before = cache.stats.near.hits
        await on_cache(Event.cache.get(id=event.id), cache)
        assert cache.stats.near.hits == before + 1
        await rename_in_other_process(other, event, "new")
        await QuerySet(User).filter(id=kim).update(username="lee")
        await other.manager(User).invalidate(kim)
        async with asyncio.timeout(30):
            while await both() != ["new", "lee"]:  # the message about the event is under way
                await asyncio.sleep(0.001)


async def test_a_value_that_is_not_near_is_read_with_its_near_rows(
    database: BaseDBAsyncClient, own_redis: RedisServer
) -> None:
    event = await create_event()

    @cached(near=False)
    async def title() -> str:
        return (await Event.cache.get(id=event.id)).title

    async with caches(own_redis.url, **NEAR_EVENTS) as (cache, backend, _):
        for _ in range(4):
            assert await title() == "old"
        near = cache.open_cache.guarded.near
        assert near.holds(Event.cache.get(id=event.id).locate(cache.open_cache).key)
        sent, expect = [], near.expect

        def noted(keys: Any) -> Any:
            sent.append(ticket := expect(keys))
            return ticket

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(near), "expect", lambda self, keys: noted(keys))
            async with assert_ops(backend, redis=["read"], sql=0):
                await title()
        assert sent == [[]], "kept rows are not read on a connection of their own again"


@pytest.mark.parametrize("scoped", [False, True], ids=["", "in a scope"])
async def test_a_near_row_is_not_older_than_the_row_that_leads_to_it(
    database: BaseDBAsyncClient, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, scoped: bool
) -> None:
    """They are read on different connections, so the message about the near row may come late."""
    monkeypatch.setattr(Event.CacheMeta, "near", False)
    monkeypatch.setattr(User.CacheMeta, "near", True, raising=False)

    class OrganizerOf(RelatedInstanceCache[User]):
        model = Event
        key_fields = ("slug",)
        relation = "organizer"

    event = await create_event()
    async with caches(own_redis.url, near=False) as (cache, backend, other):
        await OrganizerOf("pycon")
        await near_soon(lambda: User.cache.get(id=event.organizer_id), backend)
        key = User.cache.get(id=event.organizer_id).locate(cache.open_cache).key
        monkeypatch.setattr("aiomodelcache.backends.redis.connection.PipelinedConnection._on_push", lambda *_: None)
        await QuerySet(User).filter(id=event.organizer_id).update(team=5)
        await other.manager(User).invalidate(event.organizer_id)
        assert cache.open_cache.guarded.near.holds(key)
        async with local_cache() if scoped else nullcontext():
            assert (await OrganizerOf("pycon")).team == 5


async def test_an_old_version_is_not_believed_with_a_row_of_the_promoted_replica(
    redis_server: RedisServer, own_redis: RedisServer
) -> None:
    """The connection for reads leads to the former master still. The one on which keys are tracked is not made yet."""
    row, epoch, value = new_key(), new_key(), new_value()
    async with Proxy(own_redis.port) as proxy, opening.opened(proxy.url) as backend:
        await backend.read([new_key()])
        near = nearly(backend, row)
        version = new_version(backend._endpoint.incarnation.current)
        for server, held in ((own_redis, new_value()), (redis_server, value)):  # the replica lacks the last write
            with server.client() as client:
                client.mset({row: held, epoch: version})
        proxy.target = redis_server.port
        near.expect([row, epoch])
        assert await backend.read([row, epoch]) == [value, None]


async def test_an_old_version_of_a_node_is_not_believed_with_a_restored_row(redis_server: RedisServer) -> None:
    tag = b"{%b}" % new_key()
    row, epoch, value = b"row" + tag, b"epoch" + tag, new_value()
    with ClusterNode() as one, ClusterNode() as other:
        cluster = Cluster([one, other])
        node = cluster.nodes[cluster._place(key_slot(row))]
        node.run("SET", row, value)
        former = node.run("DUMP", row)
        async with opening.opened(cluster.url) as backend:
            await backend.read([row])
            near = nearly(backend, row)
            version = new_version(backend._endpoint.incarnation_of(row).current)
            node.run("SET", epoch, version)
            node.run("RESTORE", row, 0, former, "REPLACE")
            near.expect([row, epoch])
            assert await backend.read([row, epoch]) == [value, None]


def nearly(backend: Any, row: bytes) -> Near:
    """Returns what keeps a row, and nothing else, of a backend."""
    near = Near(1 << 20, PATIENT)
    near.cover(row, PATIENT, PATIENT)
    backend.track(near)
    return near
