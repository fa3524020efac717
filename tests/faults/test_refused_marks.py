"""A server refuses marks, and their WAIT fails as well (``wait_replicas``): the refusal is what counts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.exceptions import TransactionManagementError

from aiomodelcache import BackendError, CacheWriteError, ModelCache
from aiomodelcache.backends.redis.backend import KEYS_PER_SCRIPT, RedisBackend
from aiomodelcache.backends.replication import Unreplicated
from aiomodelcache.orm import transactions
from aiomodelcache.testing.conformance import MINUTE, new_keys, new_token
from tests.backends.opening import PATIENT, opened
from tests.support.gates import PATIENCE, gated_sql
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode
from tests.support.stored import cancel

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="it fills the memory of its servers"),
    pytest.mark.slow(because="it waits for replicas that there are not"),
]
SETTINGS: dict[str, Any] = {"wait_replicas": 1, "socket_timeout": PATIENT, "breaker_cooldown": 0.01}
"""Those of a cache whose server has no replica, so that every wait fails."""


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    """Has a server without memory for new values."""
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@pytest.fixture
async def backend(own_redis: RedisServer) -> AsyncIterator[RedisBackend]:
    async with opened(own_redis.url, wait_replicas=1) as backend:
        yield backend


async def mark(backend: RedisBackend, operation: str, keys: list[bytes]) -> BaseException:
    """Marks keys. Returns the error."""
    marking = {"mark": backend.mark, "mark_for_save": partial(backend.mark_for_save, versions=new_keys(1))}
    with pytest.raises(BackendError) as raised:
        await marking[operation](keys, new_token(), MINUTE)
    return raised.value


@pytest.mark.parametrize("operation", ["mark", "mark_for_save"])
class TestRefusals:
    async def test_a_full_server_has_no_mark(
        self, own_redis: RedisServer, backend: RedisBackend, operation: str
    ) -> None:
        for number in (1, KEYS_PER_SCRIPT + 1):
            with full(own_redis):
                error = await mark(backend, operation, new_keys(number))
            assert not isinstance(error, Unreplicated)
            assert "memory" in str(error)

    @pytest.mark.parametrize("at", [0, KEYS_PER_SCRIPT])
    async def test_one_key_is_refused(
        self, own_redis: RedisServer, backend: RedisBackend, operation: str, at: int
    ) -> None:
        keys = new_keys(KEYS_PER_SCRIPT + 1)
        with own_redis.client() as client:
            client.lpush(keys[at], "x")
        error = await mark(backend, operation, keys)
        assert not isinstance(error, Unreplicated)
        assert "WRONGTYPE" in str(error)

    @pytest.mark.parametrize("at", [0, KEYS_PER_SCRIPT])
    async def test_one_script_is_refused(
        self, own_redis: RedisServer, backend: RedisBackend, operation: str, at: int
    ) -> None:
        keys = new_keys(KEYS_PER_SCRIPT + 1)
        keys[at] = b"forbidden"
        with own_redis.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~[^f]*")
        error = await mark(backend, operation, keys)
        assert not isinstance(error, Unreplicated)
        assert "permission" in str(error).lower()


@pytest.mark.parametrize("operation", ["mark", "mark_for_save"])
async def test_one_node_refuses_and_another_lags(redis_server: RedisServer, operation: str) -> None:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(4)]
        cluster = Cluster(nodes[:2], replicas=nodes[2:])
        async with opened(cluster.url, wait_replicas=1) as backend:
            refused, late = cluster.keys(0, 2), cluster.keys(1, 2)
            cluster.replicas[1].stop()
            with full(cluster.nodes[0]):
                error = await mark(backend, operation, [*late, *refused])
            assert not isinstance(error, Unreplicated)
            assert "memory" in str(error)
            assert isinstance(await mark(backend, operation, late), Unreplicated)
            cluster.replicas[1].cont()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a background task does."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def followers() -> int:
    return (await Artist.cache.get(id=1)).followers


@pytest.mark.only_on("sqlite", because="it is about the store")
class TestWrites:
    @pytest.fixture
    async def artist(self, database: BaseDBAsyncClient) -> Artist:
        """A row that no cache has seen."""
        await Artist.bulk_create([Artist(id=1, name="one", rank=1)])
        return await Artist.get(id=1)

    @pytest.mark.parametrize("settings", [{}, {"write_through": True}, {"replica_lag": 0.5}], ids=str)
    async def test_a_save_is_delivered_later(
        self, artist: Artist, own_redis: RedisServer, settings: dict[str, Any]
    ) -> None:
        async with ModelCache(own_redis.url, **SETTINGS, **settings) as cache:
            for _ in range(2):
                assert await followers() == 0
            artist.followers = 2
            with full(own_redis):
                await artist.save()
                assert cache.stats.undelivered == ("replica_lag" in settings)
                assert await followers() == 2
            await until(lambda: not cache.open_cache.guarded.has_undelivered)
            assert await followers() == 2

    @pytest.mark.parametrize("marked", [False, True])
    async def test_a_save_of_unknown_outcome_is_delivered_later(
        self, artist: Artist, own_redis: RedisServer, database: BaseDBAsyncClient, monkeypatch: Any, marked: bool
    ) -> None:
        """If it is ``marked``, the server refuses only the second mark."""
        monkeypatch.setattr(transactions, "SETTLE_LIMIT", 0.01)
        async with ModelCache(own_redis.url, **SETTINGS) as cache:
            for _ in range(2):
                assert await followers() == 0
            artist.followers = 2
            with ExitStack() as stack, gated_sql(database) as sql:
                gate = sql.hold("UPDATE", "after")
                if not marked:
                    stack.enter_context(full(own_redis))
                saving = asyncio.create_task(artist.save())
                await gate.reached()
                if marked:
                    stack.enter_context(full(own_redis))
                await cancel(saving)
                await until(lambda: cache.stats.undelivered == 1)
                assert cache.stats.unknown_outcomes == 1
                assert await followers() == 2
            await until(lambda: not cache.open_cache.guarded.has_undelivered)
            assert await followers() == 2

    async def test_clear_raises(self, artist: Artist, own_redis: RedisServer) -> None:
        async with ModelCache(own_redis.url, **SETTINGS) as cache:
            with full(own_redis), pytest.raises(BackendError, match="memory"):
                await cache.clear_all()
            await cache.clear_all()


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_refused_commit_is_final(database: BaseDBAsyncClient, own_redis: RedisServer, is_full: bool) -> None:
    """The transaction is rolled back, so a second COMMIT cannot let the write through without its marks."""
    await Artist.bulk_create([Artist(id=1, name="one", rank=1)])
    async with ModelCache(own_redis.url, on_write_error="raise", **SETTINGS) as cache:
        assert await followers() == 0
        with ExitStack() as stack:
            if is_full:
                stack.enter_context(full(own_redis))
            async with get_connection(database.connection_name)._in_transaction() as client:
                artist = await Artist.get(id=1)
                artist.followers = 2
                await artist.save()
                with pytest.raises(
                    CacheWriteError, match="memory" if is_full else r"0 of 1 replicas had it in time\. Use"
                ):
                    await client.commit()
                for end in (client.commit, client.rollback):
                    with pytest.raises(TransactionManagementError):
                        await end()
        assert (await Artist.get(id=1)).followers == 0
        assert await followers() == 0
        assert cache.stats.unknown_outcomes == 0
