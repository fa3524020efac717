"""``RedisBackend`` over TLS, with a private certificate authority."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.exceptions import BackendError
from aiomodelcache.testing.conformance import MINUTE, held, new_key, new_keys, new_value, put
from tests.support.gates import until
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer, ServerFailed
from tests.support.servers.redis_cluster import Cluster
from tests.support.servers.redis_tls import Certificates, TLSClusterNode, TLSServer

from .opening import PATIENT, hurry, opened
from .test_redis import OPERATIONS


def started(stack: ExitStack, server: TLSServer | TLSClusterNode) -> None:
    """Starts a server. Skips the test if the program was built without TLS."""
    try:
        stack.enter_context(server)
    except ServerFailed as error:
        if "Bad directive" not in str(error) and "TLS support" not in str(error):
            raise
        stack.close()
        pytest.skip(f"{server.program()} was built without TLS")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, certificates: Certificates) -> Iterator[TLSServer]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        own = TLSServer(certificates)
        started(stack, own)
        yield own


async def test_all_operations_and_large_requests(server: TLSServer) -> None:
    """Not the conformance suite, which connects again and again: over TLS that takes twenty seconds."""
    async with opened(server.url) as backend:
        for operation in OPERATIONS.values():
            await operation(backend, new_key())
        await backend.claim(new_key(), await backend.clock() + MINUTE)
        large = new_value(os.urandom(2_000_000))
        await put(backend, key := new_key(), large)
        assert await held(backend, key) == large
        keys = new_keys(2_500)
        found = await asyncio.gather(*(backend.read([*keys, key]) for _ in range(3)))
        assert found == [[*[None] * 2_500, large]] * 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ssl_ca_certs": ""}, "cannot be reached"),  # the system's authorities do not know this one
        ({"ssl_certfile": "", "ssl_keyfile": ""}, "cannot be reached"),
    ],
)
async def test_who_is_not_trusted_gets_no_connection(server: TLSServer, options: dict[str, str], problem: str) -> None:
    backend = RedisBackend(server.url_with(**options))
    with pytest.raises(BackendError, match=problem):
        await backend.open()


async def test_a_certificate_for_another_host_is_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        elsewhere = TLSServer(Certificates(tmp_path, "cache.example.org"))
        started(stack, elsewhere)
        with pytest.raises(BackendError, match="cannot be reached"):
            await RedisBackend(elsewhere.url).open()
        async with opened(elsewhere.url_with(ssl_check_hostname="false")) as backend:
            await put(backend, key := new_key(), b"value")
            assert await held(backend, key) == b"value"


async def test_a_frozen_server_is_given_up_and_comes_back(
    redis_server: RedisServer, certificates: Certificates
) -> None:
    with ExitStack() as stack:
        own = TLSServer(certificates)
        started(stack, own)
        async with opened(own.url) as backend:
            await put(backend, key := new_key(), b"value")
            hurry(backend)
            own.stop()
            with pytest.raises(BackendError, match="in time"):
                await backend.read([key])
            own.cont()
            hurry(backend, PATIENT)
            assert await held(backend, key) == b"value"
            own.restart()
            with pytest.raises(BackendError):
                await backend.read([key])
            assert await held(backend, key) is None


@pytest.mark.only_on("redis", because="TLS is between the cache and Redis")
@pytest.mark.only_on("sqlite", because="TLS is between the cache and Redis")
@pytest.mark.usefixtures("near_server")
async def test_near_caching(database: BaseDBAsyncClient, server: TLSServer) -> None:
    async with (
        ModelCache(server.url, near=True, near_lag=60.0, namespace="tls") as cache,
        ModelCache(server.url, namespace="tls") as other,
    ):
        event = await Event.create(slug="pycon", title="old", organizer=await User.create(username="kim"))
        for _ in range(3):
            await Event.cache.get(id=event.id)
        assert cache.stats.near.hits == 1
        await other.manager(Event).invalidate(event.id)
        await until(lambda: cache.stats.near.invalidated)


async def test_a_cluster(redis_server: RedisServer, certificates: Certificates) -> None:
    with ExitStack() as stack:
        nodes = [TLSClusterNode(certificates) for _ in range(2)]
        for node in nodes:
            started(stack, node)
        cluster = Cluster(nodes)
        url = f"{cluster.url.replace('redis+', 'rediss+')}?{certificates.query()}"
        async with opened(url) as backend:
            for key in (*cluster.keys(0, 1), *cluster.keys(1, 1)):
                await put(backend, key, b"value")
                assert await held(backend, key) == b"value"
