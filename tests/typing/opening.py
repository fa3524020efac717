"""The arguments of ``ModelCache``: stores and settings."""

from datetime import timedelta
from typing import Any, assert_type

from redis.asyncio import Redis, RedisCluster

from aiomodelcache import Backend, CacheConfig, Codec, Duration, MemoryBackend, ModelCache, RedisBackend
from tests.typing.declarations import Event, User


class Plain:
    """A codec of the user's own."""

    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()


async def stores(client: Redis, cluster: RedisCluster, backend: Backend) -> None:
    async with ModelCache("redis://localhost:6379/0") as cache:
        assert_type(cache, ModelCache)
        assert_type(cache.backend, Backend)
        await cache.clear(Event, User)
        await cache.clear_all()
        with cache.disabled():
            pass
        async with cache.disabled():
            pass
    for store in (MemoryBackend(limit=1_000), RedisBackend("redis://localhost"), backend, client, cluster):
        cache = await ModelCache(store).open()
        await cache.close()
    codec: Codec = Plain()
    codec.encode(7)


def settings() -> None:
    ModelCache("memory://", namespace="shop", timeout=60, ttl_jitter=0.2, enabled=False, on_write_error="raise")
    ModelCache("memory://", config=CacheConfig(batch_size=100), memory_limit=1 << 20)
    ModelCache("memory://", not_found=LookupError)
    ModelCache("memory://", replica_lag=0.5)
    ModelCache("memory://", config=CacheConfig(replica_lag=None))
    ModelCache("memory://", relay_lag="5s", relay=True, on_relay_loss="serve")
    ModelCache("memory://", near=True, near_memory_limit=1 << 20, near_lag=0.5, decoded_memory_limit=0, freeze_gc=True)
    ModelCache("memory://", not_found=lambda error: LookupError(str(error), error.status_code))


def durations(own: Duration) -> None:
    ModelCache("memory://", timeout="5m", negative_timeout=timedelta(seconds=30), lease_wait=0, near_lag=own)
    ModelCache("memory://", config=CacheConfig(timeout=own), replica_lag="500ms")
    RedisBackend("redis://localhost", socket_timeout="200ms")
    assert_type(CacheConfig(timeout="5m").timeout, float)
    assert_type(CacheConfig(replica_lag=timedelta(seconds=1)).replica_lag, float | None)


async def wrong() -> None:
    ModelCache(7)  # wrong
    ModelCache("memory://", not_found=404)  # wrong
    ModelCache("memory://", not_found=lambda error: error.nope)  # wrong
    ModelCache("memory://", timout=60)  # wrong
    ModelCache("memory://", replica_lag=b"1s")  # wrong
    ModelCache("memory://", timeout=[60])  # wrong
    ModelCache("memory://", ttl_jitter="1s")  # wrong
    CacheConfig(timeout=None)  # wrong
    CacheConfig(timout=60)  # wrong
    ModelCache("memory://", near="yes")  # wrong
    ModelCache("memory://", on_write_error="ignore")  # wrong
    ModelCache("memory://", "shop")  # wrong
    CacheConfig(60)  # wrong
    CacheConfig().timeout = 60  # wrong
