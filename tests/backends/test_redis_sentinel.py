"""``RedisBackend`` behind Sentinel, before and after a failover."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from aiomodelcache.backends.protocol import Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.exceptions import BackendError
from aiomodelcache.testing.conformance import MINUTE, held, new_key, new_token, put
from tests.support.servers import RedisServer

from .opening import PATIENT, opened
from .service import Service


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Service(stack)


async def test_the_master_is_found(service: Service) -> None:
    key = new_key()
    async with opened(f"{service.url}/2") as backend:
        await put(backend, key, b"value")
        assert await held(backend, key) == b"value"
    with service.master.client() as client:
        client.select(2)
        assert client.get(key) == b"value"


async def test_claims_are_made_at_the_master_by_its_clock(service: Service) -> None:
    key = new_key()
    async with opened(service.url) as backend:
        now = await backend.clock()
        await backend.claim(key, now + MINUTE)
        [left] = await backend.remaining([key])
    with service.master.client() as client:
        seconds, _ = client.time()
        assert now / 1000 <= seconds + 1 < now / 1000 + 60
        assert 0 < client.pttl(key) <= left <= MINUTE


async def test_an_unknown_service_is_an_error_at_opening(service: Service) -> None:
    backend = RedisBackend(service.url.replace("/cache", "/cash"), socket_timeout=PATIENT)
    with pytest.raises(BackendError, match=r"cannot be reached: No master found for 'cash'$"):
        await backend.open()


async def test_sentinels_that_do_not_listen_are_an_error_in_time(own_redis: RedisServer) -> None:
    own_redis.kill()
    backend = RedisBackend(f"redis+sentinel://127.0.0.1:{own_redis.port}/cache", socket_timeout=10 * PATIENT)
    async with asyncio.timeout(PATIENT):
        with pytest.raises(BackendError, match=rf"^Redis at 127.0.0.1:{own_redis.port} \(service 'cache'\) cannot be"):
            await backend.open()


@pytest.mark.parametrize("options", [{"retry": Retry(NoBackoff(), 3)}, {"decode_responses": True}, {}])
async def test_a_client_passed_in_works_and_is_not_closed(service: Service, options: dict[str, Any]) -> None:
    sentinel = Sentinel(service.sentinels)
    client = sentinel.master_for("cache", **options)
    try:
        number = await client.client_id()
        async with opened(client) as backend:
            key, token = new_key(), new_token()
            assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]
            assert "'cache'" in repr(backend)
        assert await client.client_id() == number
    finally:
        await client.aclose()
        for each in sentinel.sentinels:
            await each.aclose()


async def test_after_a_failover_the_new_master_is_used(service: Service) -> None:
    key = new_key()
    async with opened(service.url) as backend:
        await put(backend, new_key(), b"value")
        service.fail_over()
        service.master.kill()
        with pytest.raises(BackendError):
            await backend.mark([key], new_token(), MINUTE)
        await backend.mark([key], new_token(), MINUTE)
        with service.replica.client() as client:
            assert client.exists(key) == 1
