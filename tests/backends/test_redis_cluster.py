"""``RedisBackend`` on a Redis Cluster of two nodes: the conformance suite, and the differences from one server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Literal, Self

import pytest
from redis.asyncio import RedisCluster
from redis.crc import key_slot

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Clear, Fill, Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.cluster import requests
from aiomodelcache.backends.redis.connection import Command, pack_commands
from aiomodelcache.engine.publishing import StatsPublisher
from aiomodelcache.exceptions import BackendError
from aiomodelcache.observe.stats import Stats
from aiomodelcache.testing.claims import ClaimConformance
from aiomodelcache.testing.conformance import MINUTE, held, new_keys, new_token, new_value, put
from aiomodelcache.testing.write_through import WriteThroughConformance
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

from .opening import PATIENT, opened
from .proxy import Proxy


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])


@pytest.fixture
async def backend(cluster: Cluster) -> AsyncIterator[RedisBackend]:
    async with opened(cluster.url) as backend:
        yield backend


class TestRedisBackendOnACluster(WriteThroughConformance, ClaimConformance):
    many = 2_000

    @pytest.fixture(autouse=True)
    def store(self, cluster: Cluster) -> None:
        self.url = cluster.url

    async def make_backend(self) -> RedisBackend:
        backend = RedisBackend(self.url, socket_timeout=PATIENT)
        await backend.open()
        return backend


async def test_a_cluster_stores_no_rows_without_leases(backend: RedisBackend) -> None:
    """A row and the stamp of its model may be on different nodes."""
    assert not hasattr(backend, "lease_timed")


class Journal:
    """The commands that a node receives, and when, as MONITOR shows them."""

    def __init__(self, node: ClusterNode) -> None:
        self._client = node.client()
        self._monitor = self._client.monitor()

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.__exit__(None, None, None)
        self._client.close()

    def time_of_next(self, key: bytes) -> float:
        """Returns the time at which the next command with ``key`` ran."""
        number = key[-6:].decode()  # the bytes before it are not text
        while number not in (entry := self._monitor.next_command())["command"]:
            pass
        return float(entry["time"])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
async def test_a_stage_on_one_node_ends_before_the_next_stage_on_another(
    cluster: Cluster, backend: RedisBackend, first: int, second: int
) -> None:
    with Journal(cluster.nodes[first]) as one, Journal(cluster.nodes[second]) as other:
        for _ in range(5):
            leased, stamp = cluster.keys(first, 2)
            version, cleared = cluster.keys(second, 2)
            await backend.lease([Lease(leased)], new_token(), MINUTE, [version])
            assert one.time_of_next(leased) < other.time_of_next(version)
            await backend.clear([Clear(cleared)], new_token(), [stamp])
            assert one.time_of_next(stamp) < other.time_of_next(cleared)


async def test_many_commands_are_sent_in_several_turns_of_the_loop(
    cluster: Cluster, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, packed = 0, Counter[int]()

    def count(commands: list[Command]) -> bytes:
        packed[turn] += len(commands)
        return pack_commands(commands)

    async def turn_on() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(requests, "pack_commands", count)
    number, token = 2 * requests.COMMANDS_PER_TURN + 2, new_token()
    keys = cluster.keys(0, number // 2) + cluster.keys(1, number // 2)
    turning = asyncio.create_task(turn_on())
    await backend.mark(keys, token, MINUTE)
    assert await backend.clear([Clear(key) for key in keys], token, keys) == [False] * len(keys)  # stamps lie there
    turning.cancel()
    assert packed.total() == 4 * len(keys)
    assert max(packed.values()) <= requests.COMMANDS_PER_TURN


async def test_keys_of_another_type_are_absent(cluster: Cluster, backend: RedisBackend) -> None:
    alien, key = cluster.keys(0, 1) + cluster.keys(1, 1)
    with cluster.nodes[0].client() as client:
        client.rpush(alien, b"element")
    await put(backend, key, b"value")
    assert await backend.read([alien, key]) == [None, b"value"]


async def test_scripts_forgotten_by_one_node_are_loaded_again(cluster: Cluster, backend: RedisBackend) -> None:
    keys, token = cluster.keys(0, 3) + cluster.keys(1, 3), new_token()
    await backend.mark(keys, token, MINUTE)
    with cluster.nodes[1].client() as client:
        client.script_flush()
    assert await backend.clear([Clear(key) for key in keys], token) == [True] * 6


async def test_commands_follow_a_slot_that_moved(cluster: Cluster, backend: RedisBackend) -> None:
    keys, token, value = cluster.keys(0, 2), new_token(), new_value()
    slots = [key_slot(key) for key in keys]
    assert await backend.read(keys) == [None, None]
    cluster.give(slots, 1)
    try:
        # The first node answers with MOVED, and so does not run the command.
        leased = await backend.lease([Lease(key) for key in keys], token, MINUTE)
        assert leased.values == [b"L" + token] * 2
        assert await backend.fill([Fill(key, b"L" + token, value, MINUTE) for key in keys]) == [True, True]
        assert await backend.delete(keys) == 2
    finally:
        cluster.give(slots, 0)


async def test_the_replacement_of_a_node_that_hangs_is_found(cluster: Cluster) -> None:
    lost, healthy = cluster.keys(1, 1) + cluster.keys(0, 1)
    async with opened(cluster.url, socket_timeout=2) as backend:
        cluster.nodes[1].stop()
        try:
            with pytest.raises(BackendError, match="did not answer in time"):
                await backend.read([lost, healthy])
            assert await held(backend, healthy) is None
            # Moves the slot as a failover does. No MOVED reports it, since the old node is silent.
            cluster.give([key_slot(lost)], 0, tell=[0])
            with pytest.raises(BackendError):
                await backend.read([lost])
            assert await backend.read([lost, healthy]) == [None, None]
        finally:
            cluster.nodes[1].cont()
            cluster.give([key_slot(lost)], 1)


async def test_a_server_without_cluster_mode_is_an_error_at_opening(redis_server: RedisServer) -> None:
    backend = RedisBackend(redis_server.patient_url.replace("redis:", "redis+cluster:"))
    with pytest.raises(BackendError, match=rf"^Redis at 127.0.0.1:{redis_server.port} \(cluster\) .*not enabled"):
        await backend.open()


async def test_a_cluster_that_does_not_listen_is_an_error_at_opening(own_redis: RedisServer) -> None:
    own_redis.kill()
    backend = RedisBackend(own_redis.patient_url.replace("redis:", "redis+cluster:"))
    with pytest.raises(BackendError, match=rf"^Redis at 127.0.0.1:{own_redis.port} \(cluster\) cannot be reached"):
        await backend.open()


async def test_a_wrong_password_is_an_error_that_does_not_show_it(cluster: Cluster) -> None:
    backend = RedisBackend(cluster.url.replace("//", "//user:wrong@"), socket_timeout=PATIENT)
    with pytest.raises(BackendError, match="rejected the user name or the password") as caught:
        await backend.open()
    assert "wrong@" not in str(caught.value)


# Clients that are passed in


@pytest.fixture
async def proxies(cluster: Cluster) -> AsyncIterator[dict[int, Proxy]]:
    """A proxy in front of each node, by the node's port."""
    async with AsyncExitStack() as stack:
        ports = [node.port for node in cluster.nodes]
        yield {port: await stack.enter_async_context(Proxy(port)) for port in ports}


@pytest.fixture
async def client(cluster: Cluster, proxies: dict[int, Proxy]) -> AsyncIterator[RedisCluster]:
    """A client that connects through the proxies and retries, as redis-py's clients do by default."""
    client = RedisCluster(
        "127.0.0.1",
        cluster.nodes[0].port,
        address_remap=lambda address: ("127.0.0.1", proxies[address[1]].port),
        decode_responses=True,
        socket_timeout=PATIENT,
    )
    yield client
    await client.aclose()


async def test_a_client_passed_in_works_and_is_not_closed(client: RedisCluster) -> None:
    assert await client.ping()
    async with opened(client) as backend:
        keys, token = new_keys(20), new_token()
        assert (await backend.lease([Lease(key) for key in keys], token, MINUTE)).values == [b"L" + token] * 20
    assert await client.exists(*keys) == 20


@pytest.mark.parametrize("fate", ["lose", "hang up"])
async def test_commands_without_a_reply_are_not_sent_again(
    cluster: Cluster, client: RedisCluster, proxies: dict[int, Proxy], fate: Literal["lose", "hang up"]
) -> None:
    keys = cluster.keys(0, 3)
    proxy = proxies[cluster.nodes[0].port]
    client.connection_kwargs["socket_timeout"] = 0.5
    async with opened(client) as backend:
        proxy.doomed, proxy.fate = keys[0][:-6], fate
        results = await asyncio.gather(
            backend.read(keys[:1]),
            backend.mark(keys[1:2], new_token(), MINUTE),
            backend.delete(keys[2:3]),
            return_exceptions=True,
        )
        assert [isinstance(result, BackendError) for result in results] == [True] * 3
        assert [proxy.requests.count(key) for key in keys] == [1, 1, 1]
        assert await backend.read(cluster.keys(0, 1) + cluster.keys(1, 1)) == [None, None]


async def test_a_cancelled_operation_leaves_no_reply_behind(
    cluster: Cluster, client: RedisCluster, proxies: dict[int, Proxy]
) -> None:
    [slow], [quick] = cluster.keys(0, 1), cluster.keys(1, 1)
    proxy = proxies[cluster.nodes[0].port]
    async with opened(client) as backend:
        await put(backend, slow, b"slow")
        assert await backend.read([quick, slow]) == [None, b"slow"]  # connects
        proxy.answering.clear()
        seen = len(proxy.requests)
        reading = asyncio.create_task(backend.read([quick, slow]))
        await proxy.until(lambda: slow in proxy.requests[seen:])
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        proxy.answering.set()
        assert await backend.delete([quick, slow]) == 1
        assert await backend.read([quick, slow]) == [None, None]


async def test_processes_find_each_others_counters(cluster: Cluster) -> None:
    async with opened(cluster.url) as one, opened(cluster.url) as other:
        guarded = [GuardedBackend(each, Stats(), cooldown=1.0, enabled=True) for each in (one, other)]
        first, second = [StatsPublisher(each, "fleet", lambda: 0) for each in guarded]
        published = await second.publish()
        fleet = await first.fleet()
        assert fleet.complete
        assert fleet.others == (published,)
