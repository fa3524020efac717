"""Cancellation while a cache closes: invalidations are still delivered, and connections still end.

asyncio cancels a task once. A cancelled scope of AnyIO cancels every await inside the scope until it ends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from redis.asyncio import Redis
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import CacheError, CacheNotOpen, MemoryBackend, ModelCache
from aiomodelcache.testing import isolated_cache
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.models import User
from tests.support.servers import RedisServer

HOW = ["by asyncio", "by a scope"]


async def cancel_closing(cache: ModelCache, how: str) -> None:
    """Closes a cache with a lookup in flight, and cancels the closing while it waits for the lookup."""
    if how == "by a scope":
        with anyio.CancelScope() as scope:
            scope.cancel()
            await cache.close()
        assert scope.cancelled_caught
    else:
        closing = asyncio.create_task(cache.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing


@asynccontextmanager
async def slow_lookup(database: BaseDBAsyncClient) -> AsyncIterator[None]:
    """Starts a lookup that closing would wait for. The lookup fails because the closing is cancelled."""
    with gated_sql(database) as sql:
        select = sql.hold("SELECT")
        slow = asyncio.create_task(User.cache.get_or_none(id=1_000).resolve())
        await select.reached()
        yield
        with pytest.raises(CacheError):
            await slow


async def until_no_other_client(server: RedisServer) -> None:
    """Waits until the server has no other client."""
    with anyio.fail_after(PATIENCE), server.client() as client:
        while len(client.client_list()) > 1:
            await anyio.sleep(0.01)


@pytest.mark.only_on("memory", because="the gates are in front of the store")
@pytest.mark.parametrize("how", HOW)
class TestInvalidations:
    async def test_the_writes_of_an_open_transaction_are_marked(self, database: BaseDBAsyncClient, how: str) -> None:
        store = GatedBackend(MemoryBackend())
        kim = await User.create(username="kim")
        cache = await ModelCache(store).open()
        assert (await User.cache.get(id=kim.id)).username == "kim"
        async with slow_lookup(database), in_transaction():
            kim.username = "ada"
            await kim.save()
            assert "mark" not in store.operations
            await cancel_closing(cache, how)
            assert "mark" in store.operations
        async with ModelCache(store):
            assert (await User.cache.get(id=kim.id)).username == "ada"

    async def test_an_invalidation_in_flight_is_delivered(
        self, database: BaseDBAsyncClient, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = GatedBackend(MemoryBackend())
        kim = await User.create(username="kim")
        cache = await ModelCache(store).open()
        await User.cache.get(id=kim.id)
        clear = store.hold("clear")
        kim.username = "ada"
        saving = asyncio.create_task(kim.save())
        await clear.reached()
        with caplog.at_level(logging.ERROR, "aiomodelcache"):
            await cancel_closing(cache, how)
        await saving
        assert not caplog.records
        assert "clear" in store.operations
        async with ModelCache(store):
            assert (await User.cache.get(id=kim.id)).username == "ada"


@pytest.mark.only_on("sqlite", because="no statement differs in it")
@pytest.mark.only_on("redis", because="its connections are counted")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["its own connections", "a pool", "a client"])
async def test_all_connections_end(database: BaseDBAsyncClient, own_redis: RedisServer, kind: str, how: str) -> None:
    url = own_redis.patient_url
    client = Redis.from_url(url)
    stores = {"its own connections": url, "a pool": f"{url}&max_connections=5", "a client": client}
    cache = await ModelCache(stores[kind]).open()
    async with slow_lookup(database):
        await cancel_closing(cache, how)
    await until_no_other_client(own_redis)
    await client.aclose()


@pytest.mark.only_on("sqlite", because="no statement differs in it")
@pytest.mark.only_on("redis", because="its keys are counted")
@pytest.mark.parametrize("how", ["cancelled", "raising"])
async def test_an_isolated_cache_deletes_its_entries(
    database: BaseDBAsyncClient, own_redis: RedisServer, how: str
) -> None:
    with own_redis.client() as client, anyio.CancelScope() as scope, suppress(LookupError):
        async with isolated_cache(own_redis.patient_url):
            await User.cache.get_or_none(id=1)
            assert client.keys()
            if how == "raising":
                raise LookupError
            scope.cancel()
            await anyio.sleep_forever()
    with own_redis.client() as client:
        assert client.keys() == []


async def test_a_cache_can_be_closed_in_another_task_than_it_was_opened_in(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    cache = ModelCache(backend_url)
    async with asyncio.TaskGroup() as startup:
        startup.create_task(cache.open())
    kim = await User.create(username="kim")
    assert await User.cache.get(id=kim.id) == kim
    async with asyncio.TaskGroup() as shutdown:
        shutdown.create_task(cache.close())
    with pytest.raises(CacheNotOpen):
        await User.cache.get(id=kim.id)
