"""Slots that move between the nodes of a Cluster, nodes that end and come back, and the requests that nodes get."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, cast

import pytest
from redis.asyncio import RedisCluster
from redis.crc import key_slot

from aiomodelcache.backends.protocol import Clear, Fill, Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.cluster.topology import REFRESH_INTERVAL
from aiomodelcache.backends.redis.connection import pack_commands
from aiomodelcache.backends.replication import Unreplicated
from aiomodelcache.encoding.layout import VERSION
from aiomodelcache.encoding.together import ArrangedPairs, KeyPairs
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.store import connected
from aiomodelcache.testing.conformance import MINUTE, held, new_key, new_token, new_value, put, writers
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode, Moving, until

from .opening import PATIENT, opened
from .proxy import Proxy


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(4)]
        yield Cluster(nodes[:3], spares=nodes[3:])


@pytest.fixture
def spare(cluster: Cluster) -> ClusterNode:
    """A node without slots, whose address no client knows."""
    return cluster.spares[0]


@pytest.fixture
async def backend(cluster: Cluster) -> AsyncIterator[RedisBackend]:
    async with opened(cluster.url) as backend:
        yield backend


@pytest.fixture
async def proxies(cluster: Cluster) -> AsyncIterator[list[Proxy]]:
    """A proxy in front of each node with slots."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Proxy(node.port)) for node in cluster.nodes]


@pytest.fixture
async def observed(cluster: Cluster, proxies: list[Proxy]) -> AsyncIterator[RedisBackend]:
    """A backend that connects through the proxies."""
    async with watched(cluster, proxies) as backend:
        yield backend


@contextlib.asynccontextmanager
async def watched(
    cluster: Cluster, proxies: list[Proxy], socket_timeout: float = PATIENT
) -> AsyncIterator[RedisBackend]:
    ports = {node.port: proxy.port for node, proxy in zip(cluster.nodes, proxies, strict=True)}
    client = RedisCluster(
        "127.0.0.1",
        cluster.nodes[0].port,
        address_remap=lambda address: (address[0], ports.get(address[1], address[1])),
        socket_timeout=socket_timeout,
    )
    async with opened(client) as backend:
        yield backend
    await client.aclose()


def in_one_slot(key: bytes, count: int) -> list[bytes]:
    """Returns keys that share the slot of a key."""
    return [b"{%b}:%d" % (key, number) for number in range(count)]


# Requests


async def test_a_read_is_one_request_to_each_node_concerned(
    cluster: Cluster, observed: RedisBackend, proxies: list[Proxy]
) -> None:
    [one], [other] = cluster.keys(0, 1), cluster.keys(2, 1)
    await observed.read([one, other])  # connects
    together = in_one_slot(one, 2)
    before = [len(proxy.requests) for proxy in proxies]
    assert await observed.read([together[0], other, together[1]]) == [None, None, None]
    sent = [bytes(proxy.requests[at:]) for proxy, at in zip(proxies, before, strict=True)]
    assert sent == [pack_commands([("MGET", *together)]), b"", pack_commands([("MGET", other)])]


async def test_reads_start_without_a_task(cluster: Cluster, backend: RedisBackend) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 2)]
    await backend.read(keys)
    tasks = asyncio.all_tasks()
    read: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    assert backend.start_read(keys, read.set_result)
    assert asyncio.all_tasks() == tasks
    assert await read == [None] * 6
    assert not backend.start_read([], read.set_result)


async def test_replies_keep_their_order(cluster: Cluster, backend: RedisBackend) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 20)]
    keys += in_one_slot(keys[0], 10)
    values = {key: new_value() for key in keys}
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items()])
    shuffled = sorted(keys, key=hash)
    assert await backend.read(shuffled) == [values[key] for key in shuffled]
    assert await backend.delete(shuffled) == len(keys)


async def test_arranged_keys_are_read_in_their_order(cluster: Cluster, backend: RedisBackend) -> None:
    """Keys with a partner of the same slot, several of one partner, and others, among them long ones and many."""
    partners = [b"{%b}" % tag for number in range(3) for tag in cluster.keys(number, 20)]
    keys: dict[bytes, bytes | None] = dict.fromkeys(partners)
    for number, partner in enumerate(partners):
        keys |= dict.fromkeys([b"%b:%d" % (partner, each) for each in range(number % 3)], partner)
    keys |= dict.fromkeys([b"%b:more:%d" % (partners[0], each) for each in range(70)], partners[0])
    keys |= dict.fromkeys([*cluster.keys(1, 5), partners[1] + b":" + bytes(600), b"{12345}:a", b"b:{12345}"])
    values = {key: new_value() for key in keys}
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items()])
    for _ in range(2):
        arranged = backend.arrange(keys)
        assert sorted(arranged) == sorted(keys)
        assert await backend.read(arranged) == [values[key] for key in arranged]
        assert await backend.read(list(keys)) == list(values.values())
    assert await backend.delete(list(keys)) == len(keys)


async def test_arranged_pairs_are_read_in_their_order(
    cluster: Cluster, backend: RedisBackend, spare: ClusterNode
) -> None:
    """Several keys of one partner, long ones, and those of a slot that has moved since they were arranged."""
    partners = [b"{%b}" % tag for number in range(3) for tag in cluster.keys(number, 10)] * 2
    made = cast("Any", backend)._endpoint.incarnation_of
    keys = [b"%b:%d%b" % (each, at, bytes(600) * (at == 7)) for at, each in enumerate(partners)]
    values = {key: new_value() for key in keys}
    values |= {each: VERSION + made(each).current + bytes(16) for each in partners}
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items()])
    pairs = KeyPairs(keys, partners)
    for _ in range(2):
        arranged = backend.arrange(pairs)
        assert isinstance(arranged, ArrangedPairs)
        order = list(arranged.order)
        assert sorted(order) == list(range(len(keys)))
        assert arranged[::2] == [partners[at] for at in order]
        assert arranged[1::2] == [keys[at] for at in order]
        assert await backend.read(arranged) == [values[key] for key in arranged]
    mine = [key for key in values if key.startswith(partners[0])]
    with Moving(key_slot(partners[0]), cluster.nodes[0], spare) as moving:
        moving.move(*[key for key in mine if key != partners[0]])
        assert await backend.read(arranged) == [values[key] for key in arranged]
        assert await backend.delete(mine) == len(mine)
    assert await backend.delete([key for key in values if key not in mine]) == len(values) - len(mine)


async def test_versions_of_other_incarnations_are_absent_among_arranged_pairs(
    cluster: Cluster, backend: RedisBackend
) -> None:
    partners = [b"{%b}" % tag for tag in cluster.keys(1, 3)]
    keys = [partner + b":entry" for partner in partners]
    made = VERSION + cast("Any", backend)._endpoint.incarnation_of(partners[0]).current + bytes(16)
    values: dict[bytes, bytes | None] = {key: new_value() for key in keys} | dict.fromkeys(partners, made)
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items() if value is not None])
    for lost, value in ((b"", b""), (partners[1], VERSION + bytes(24)), (partners[2], b"")):
        if lost:
            await backend.delete([lost])
            values[lost] = None
        if value:
            await put(backend, lost, value)
        arranged = backend.arrange(KeyPairs(keys, partners))
        for _ in range(2):
            assert await backend.read(arranged) == [values[key] for key in arranged]
    await backend.delete(list(values))


async def test_versions_of_other_incarnations_are_absent_among_arranged_keys(
    cluster: Cluster, backend: RedisBackend
) -> None:
    """It makes no difference if some keys have no partner."""
    partners = [b"{%b}" % tag for tag in cluster.keys(1, 3)]
    entries = [partner + b":entry" for partner in partners]
    values = {key: new_value() for key in entries}
    made = VERSION + cast("Any", backend)._endpoint.incarnation_of(partners[1]).current + bytes(16)
    values |= {partners[0]: VERSION + bytes(24), partners[1]: made, partners[2]: made}
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items()])
    keys: dict[bytes, bytes | None] = {**dict.fromkeys(partners), **dict(zip(entries, partners, strict=True))}
    for expected in ({partners[0]: None}, {partners[0]: None, b"other": None}):
        arranged = backend.arrange(keys | dict.fromkeys(expected))
        found = dict(zip(arranged, await backend.read(arranged), strict=True))
        assert found == values | expected
    del keys[partners[0]], keys[entries[0]]
    arranged = backend.arrange(keys)
    assert dict(zip(arranged, await backend.read(arranged), strict=True)) == {key: values[key] for key in keys}


async def test_reads_beside_each_other_have_their_own_replies(cluster: Cluster, backend: RedisBackend) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 30)]
    values = {key: new_value() + bytes(5_000) for key in keys}
    await asyncio.gather(*[put(backend, key, value) for key, value in values.items()])
    parts = [keys, keys[:1], keys[10:70], keys[::-1], keys[5:6]]
    read = await asyncio.gather(*map(backend.read, parts))
    assert read == [[values[key] for key in part] for part in parts]
    assert await backend.delete(keys) == len(keys)


async def test_a_slot_that_has_moved_is_read_on_its_node_and_the_others_at_once(
    cluster: Cluster, observed: RedisBackend, proxies: list[Proxy]
) -> None:
    keys = cluster.keys(0, 10)
    await observed.read(keys)
    moved = key_slot(keys[3])

    def edit(data: bytes) -> bytes:
        proxies[0].edit = bytes
        return data.replace(b"*1\r\n$-1\r\n" * 10, moving)

    replies = [b"*1\r\n$-1\r\n"] * 10
    replies[3] = b"-MOVED %d %b\r\n" % (moved, cluster.nodes[0].address.encode())
    moving = b"".join(replies)
    proxies[0].edit = edit
    before = len(proxies[0].requests)
    assert await observed.read(keys) == [None] * 10
    assert proxies[0].requests[before:].count(b"MGET") == 11


async def test_the_command_line_sees_the_keys_of_all_nodes(cluster: Cluster, backend: RedisBackend) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 5, b"scanned:")]
    for key in keys:
        await put(backend, key, b"value")
    async with connected(cluster.url) as store:
        assert {key async for chunk in store.scan(b"scanned:") for key in chunk} == set(keys)
        assert await store.values([*keys, new_key()]) == [b"value"] * 15 + [None]
        assert None not in await store.expires_in(keys)
        assert await store.clock() > 1e9
        assert (await store.info())["cluster_enabled"] == "1"
        assert await store.heat(keys[:1]) == [None]
        assert await store.route() is await store.watch_reads(0.01) is None


# Slots that move


async def test_the_node_that_takes_a_slot_keeps_its_own_entries(cluster: Cluster, backend: RedisBackend) -> None:
    giver, taker = cluster.nodes[:2]
    [moved], [version] = cluster.keys(0, 1), cluster.keys(1, 1)
    await put(backend, moved, new_value())
    made = (await backend.lease([], new_token(), MINUTE, [version])).versions
    with Moving(key_slot(moved), giver, taker) as moving:
        moving.move(moved)
        async with opened(cluster.url) as later:  # connects after the move
            assert await later.read([version]) == made
        assert await backend.delete([moved]) == 1


@pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
async def test_keys_are_found_on_both_nodes_while_their_slot_moves(
    cluster: Cluster, spare: ClusterNode, backend: RedisBackend, there: bool
) -> None:
    [tag] = cluster.keys(1, 1)
    keys = in_one_slot(tag, 6)
    values = [new_value() if there or number % 2 else None for number in range(6)]
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            await put(backend, key, value)
    with Moving(key_slot(tag), cluster.nodes[1], spare) as moving:
        moving.move(*[key for key, value in zip(keys[:3], values, strict=False) if value is not None])
        assert await backend.read(keys) == values
        assert await backend.read(keys[:1]) == values[:1]
        assert await backend.delete(keys) == 6 - values.count(None)


async def test_scripts_follow_keys_to_a_node_that_does_not_know_the_scripts(
    cluster: Cluster, spare: ClusterNode, backend: RedisBackend
) -> None:
    [key] = cluster.keys(1, 1)
    token, value = new_token(), new_value()
    spare.run("SCRIPT", "FLUSH")
    with Moving(key_slot(key), cluster.nodes[1], spare):
        leased = await backend.lease([Lease(key)], token, MINUTE, [b"{%b}:version" % key])
        assert leased.values == [b"L" + token]
        assert leased.versions[0] is not None
        assert await backend.fill([Fill(key, b"L" + token, value, MINUTE)]) == [True]
        assert await held(backend, key) == value
        await backend.mark([key], token, MINUTE)
        assert await backend.clear([Clear(key)], token, [b"{%b}:stamp" % key]) == [True]
        assert spare.run("DBSIZE") == 2
        spare.flush()


async def test_a_mark_that_is_refused_on_another_node_is_not_taken_for_one_that_replicas_lack(
    cluster: Cluster, spare: ClusterNode
) -> None:
    [key] = cluster.keys(1, 1)
    async with opened(cluster.url, wait_replicas=1) as backend:
        with Moving(key_slot(key), cluster.nodes[1], spare):
            with pytest.raises(Unreplicated):
                await backend.mark([key], new_token(), MINUTE)
            assert spare.run("DBSIZE") == 1
            spare.run("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(BackendError, match="memory") as raised:
                await backend.mark([key], new_token(), MINUTE)
            spare.run("CONFIG", "SET", "maxmemory", 0)
            assert not isinstance(raised.value, Unreplicated)
            spare.flush()


@pytest.mark.parametrize("saves", [False, True], ids=["clear", "clear and save"])
@pytest.mark.parametrize("moment", ["not moved", "moved"])
async def test_the_intents_of_other_writers_stay_while_their_slot_moves(
    cluster: Cluster, spare: ClusterNode, backend: RedisBackend, moment: str, saves: bool
) -> None:
    [tag] = cluster.keys(1, 1)
    shared, stamp = in_one_slot(tag, 2)
    mine, theirs = new_token(), new_token()
    await backend.clear([], mine, [stamp])
    before = await held(backend, stamp)
    for token in (mine, theirs):
        await backend.mark([shared], token, MINUTE)
    with Moving(key_slot(tag), cluster.nodes[1], spare) as moving:
        if moment == "moved":
            moving.move(shared, stamp)
        if saves:
            await backend.clear_and_save([], [Clear(shared)], mine, [stamp])
        else:
            assert await backend.clear([Clear(shared)], mine, [stamp]) == [True]
        assert list(writers(await held(backend, shared))) == [theirs]
        assert (await backend.lease([Lease(shared)], new_token(), MINUTE)).values == [await held(backend, shared)]
        assert await held(backend, stamp) != before
        assert await backend.clear([Clear(shared)], theirs, [stamp]) == [True]
        assert await held(backend, shared) is None
        spare.flush()


async def test_a_node_that_serves_no_slot_any_more_is_disconnected_at_the_latest_by_closing(
    cluster: Cluster, spare: ClusterNode
) -> None:
    [key] = cluster.keys(1, 1)
    until(lambda: connections(spare) == 0)
    async with opened(cluster.url) as backend:
        with Moving(key_slot(key), cluster.nodes[1], spare):
            assert await backend.read([key]) == [None]
        assert connections(spare) == 1
        spare.stop()
        topology = cast("Any", backend._endpoint)._topology
        for _ in range(2):  # after the second reading, the connection is being closed
            await topology.require()
        await backend.close()
        spare.cont()
        await asyncio.to_thread(until, lambda: connections(spare) == 0)


def connections(node: ClusterNode) -> int:
    """Returns the number of connections to a node, but for the one that asks."""
    return len(node.run("CLIENT", "LIST").splitlines()) - 1


async def test_a_slot_that_no_node_serves_is_waited_for(cluster: Cluster) -> None:
    [key], [other] = cluster.keys(0, 1), cluster.keys(1, 1)
    slot = key_slot(key)
    async with opened(cluster.url, socket_timeout=0.5) as impatient, opened(cluster.url) as patient:
        for node in cluster.nodes:
            node.run("CLUSTER", "DELSLOTS", slot)
        try:
            with pytest.raises(BackendError, match="answered with an error"):
                await impatient.read([key])
            assert await impatient.read([other]) == [None]
            waiting = asyncio.create_task(patient.read([key]))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
        finally:
            for node in cluster.nodes:
                if node is cluster.nodes[0]:
                    node.run("CLUSTER", "ADDSLOTS", slot)
        assert await waiting == [None]


async def test_scripts_are_loaded_once_into_each_node_that_lacks_them(
    cluster: Cluster, observed: RedisBackend, proxies: list[Proxy]
) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 100)]
    token = new_token()
    await observed.mark(keys, token, MINUTE)  # connects
    for node in cluster.nodes:
        node.run("SCRIPT", "FLUSH")
    before = [len(proxy.requests) for proxy in proxies]
    await observed.mark(keys, token, MINUTE)
    sent = [bytes(proxy.requests[at:]) for proxy, at in zip(proxies, before, strict=True)]
    for requests in sent:
        loaded = requests.split(b"$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n")[1:]
        assert len(loaded) == len(set(loaded)) > 0
    assert await observed.clear([Clear(key) for key in keys], token) == [True] * 300


# Nodes that end


@pytest.fixture
def mortal(redis_server: RedisServer) -> Iterator[Cluster]:
    """A Cluster whose nodes may be killed."""
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(3)])


@pytest.mark.slow(because="starts a Cluster")
async def test_nothing_is_lost_or_old_while_a_slot_moves_under_load(mortal: Cluster) -> None:
    _, giver, taker = mortal.nodes
    [tag] = mortal.keys(1, 1)
    keys = in_one_slot(tag, 30)
    written = {key: new_value() for key in keys}
    moved = asyncio.Event()

    async def write(backend: RedisBackend, own: list[bytes]) -> None:
        count = 0
        while not moved.is_set() or count < 3:
            for key in own:
                token = new_token()
                await backend.mark([key], token, MINUTE)
                assert await backend.clear([Clear(key)], token) == [True]
                assert await backend.read([key]) == [None]
                written[key] = new_value()
                await put(backend, key, written[key])
                assert await backend.read([key]) == [written[key]]
            count += 1

    async with opened(mortal.url) as backend:
        for key, value in written.items():
            await put(backend, key, value)
        with Moving(key_slot(tag), giver, taker) as moving:
            writing = [asyncio.create_task(write(backend, keys[at::5])) for at in range(5)]
            try:
                while len(moving.keys(taker)) < len(keys):
                    for key in moving.keys(giver)[:2]:
                        await asyncio.to_thread(moving.try_to_move, key)
                    await asyncio.sleep(0.01)
                moving.end(mortal.nodes[0])
            finally:
                moved.set()
                await asyncio.gather(*writing)
        assert await backend.read(keys) == list(written.values())
        assert len(moving.keys(taker)) == len(keys)


@pytest.mark.slow(because="starts a Cluster")
async def test_a_cluster_opens_without_one_of_its_nodes_and_uses_it_later(mortal: Cluster) -> None:
    lost, [healthy] = mortal.keys(1, 2), mortal.keys(0, 1)
    mortal.nodes[1].kill()
    async with opened(mortal.url) as backend:
        await put(backend, healthy, b"value")
        assert await held(backend, healthy) == b"value"
        with pytest.raises(BackendError, match="cannot be reached"):
            await backend.read(lost)
        assert await backend.clock() > 0
        mortal.nodes[1].restart()
        await put(backend, lost[0], b"value")
        assert await backend.read([*lost, healthy]) == [b"value", None, b"value"]


@pytest.mark.slow(because="starts a Cluster with replicas")
async def test_requests_to_frozen_nodes_wait_for_one_timeout(redis_server: RedisServer) -> None:
    timeout = 1.0
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(6)]
        cluster = Cluster(nodes[:3], replicas=nodes[3:])
        keys = [key for number in range(3) for key in cluster.keys(number, 1)]
        async with opened(cluster.url, socket_timeout=timeout) as backend:
            await backend.delete(keys)  # connects
            for node in nodes:
                node.stop()
            for _ in range(4):
                began = loop.time()
                with pytest.raises(BackendError, match="did not answer in time"):
                    await backend.mark(keys, new_token(), MINUTE)
                assert loop.time() - began < 2 * timeout
            for node in nodes:
                node.cont()
            await asyncio.sleep(REFRESH_INTERVAL)  # until then, nodes are used as they were last known
            assert await backend.read([new_key() for _ in range(9)]) == [None] * 9


@pytest.mark.slow(because="starts a Cluster with replicas")
async def test_a_replica_that_is_promoted_is_found(redis_server: RedisServer) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(4)]
        cluster = Cluster([*nodes[:3]], replicas=nodes[3:])
        [key], [other] = cluster.keys(0, 1), cluster.keys(1, 1)
        async with opened(cluster.url) as backend:
            await put(backend, key, b"value")
            assert await backend.read([key, other]) == [b"value", None]
            [made] = (await backend.lease([], new_token(), MINUTE, [b"{%b}:epoch" % key])).versions
            cluster.nodes[0].run("WAIT", 1, 10_000)
            cluster.nodes[0].kill()
            nodes[3].run("CLUSTER", "FAILOVER", "TAKEOVER")
            read: list[bytes | None] = []
            while not read:
                with contextlib.suppress(BackendError):
                    read = await backend.read([key, other, b"{%b}:epoch" % key])
                await asyncio.sleep(0.05)
            # The version is of another incarnation of the node.
            assert read == [b"value", None, None]
            [again] = (await backend.lease([], new_token(), MINUTE, [b"{%b}:epoch" % key])).versions
            assert again != made
            assert await held(backend, b"{%b}:epoch" % key) == again


# Cancelled callers


@pytest.mark.exhaustive(because="cancels an operation at each turn of the event loop")
@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not connected"])
async def test_a_cancelled_operation_leaves_nothing_behind(
    cluster: Cluster, proxies: list[Proxy], turns: int, connected: bool
) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 2)]
    async with watched(cluster, proxies) as backend:
        if connected:
            await backend.read(keys)
        for operation in (backend.read(keys), backend.mark(keys, new_token(), MINUTE), backend.delete(keys)):
            task = asyncio.create_task(operation)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert await backend.delete(keys) in (0, 6)
        values = dict.fromkeys(keys, b"value")
        for key in keys:
            await put(backend, key, b"value")
        assert await backend.read(keys) == list(values.values())


@pytest.mark.parametrize("after", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not connected"])
async def test_closing_ends_requests_in_flight(
    cluster: Cluster, proxies: list[Proxy], connected: bool, after: float
) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 1)]
    async with watched(cluster, proxies) as backend:
        if connected:
            await backend.read(keys)
        for proxy in proxies:
            proxy.answering.clear()
        reading = asyncio.create_task(backend.read(keys))
        deleting = asyncio.create_task(backend.delete(keys))
        await asyncio.sleep(after)
        async with asyncio.timeout(PATIENT / 3):
            await backend.close()
        for task in (reading, deleting):
            with pytest.raises(BackendError):
                await task
        with pytest.raises(BackendError, match="is closed"):
            await backend.read(keys)


async def test_closing_starts_no_task(cluster: Cluster) -> None:
    keys = [key for number in range(3) for key in cluster.keys(number, 1)]
    loop = asyncio.get_running_loop()
    started: list[Any] = []

    def record(loop: asyncio.AbstractEventLoop, work: Any, **settings: Any) -> "asyncio.Task[Any]":
        started.append(work)
        return asyncio.Task(work, loop=loop, **settings)

    async with opened(cluster.url) as backend:
        await backend.read(keys)
        await asyncio.sleep(REFRESH_INTERVAL)  # until then, the topology is not read again
        read: asyncio.Future[object] = loop.create_future()
        assert backend.start_read(keys, read.set_result)
        loop.set_task_factory(record)
        await backend.close()
        assert read.done()
        assert not started


async def test_a_read_that_is_given_up_in_time_does_not_delay_the_next(cluster: Cluster, proxies: list[Proxy]) -> None:
    [slow], [quick] = cluster.keys(0, 1), cluster.keys(1, 1)
    async with watched(cluster, proxies) as backend:
        await backend.read([slow, quick])
        proxies[0].answering.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backend.read([slow, quick]), 0.05)
        assert await asyncio.wait_for(backend.read([quick]), PATIENT) == [None]
        proxies[0].answering.set()
        assert await backend.read([slow]) == [None]


# Replies that are not what nodes send


@pytest.mark.parametrize(
    "reply",
    [
        b"*1\r\n*0\r\n",
        b"*1\r\n*2\r\n:0\r\n:16383\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n$1\r\nx\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n",
        b"$3\r\nfoo\r\n",
        b"*0\r\n",
        b":1\r\n",
        b"-MOVED here\r\n",
        b"-ERR no\r\n",
    ],
)
async def test_nonsense_in_place_of_the_topology_is_an_error_at_opening(cluster: Cluster, reply: bytes) -> None:
    asked = pack_commands([("CLUSTER", "SLOTS")])

    async with Proxy(cluster.nodes[0].port) as proxy:

        def edit(data: bytes) -> bytes:
            return reply if proxy.requests.endswith(asked) else data

        proxy.edit = edit
        backend = RedisBackend(proxy.url.replace("redis:", "redis+cluster:"), socket_timeout=PATIENT)
        with pytest.raises(BackendError, match=r"^Redis at "):
            await backend.open()


@pytest.mark.parametrize("host", ["", "?"])
async def test_a_redirection_without_a_host_leads_to_the_host_that_answers(
    cluster: Cluster, observed: RedisBackend, proxies: list[Proxy], host: str
) -> None:
    key = cluster.keys(0, 1)[0]
    await observed.read([key])

    def edit(data: bytes) -> bytes:
        proxies[0].edit = bytes
        return b"-MOVED %d %b:%d\r\n" % (key_slot(key), host.encode(), cluster.nodes[1].port)

    proxies[0].edit = edit
    assert await observed.read([key]) == [None]
    assert pack_commands([("MGET", key)]) in proxies[1].requests


def failing_remap(known: Collection[int]) -> Callable[[tuple[str, int]], tuple[str, int]]:
    """Returns an ``address_remap`` that raises KeyError for all ports but the known ones."""
    ports = {port: port for port in known}
    return lambda address: (address[0], ports[address[1]])


async def test_an_address_remap_that_raises_is_an_error_at_opening(cluster: Cluster) -> None:
    client = RedisCluster("127.0.0.1", cluster.nodes[0].port, address_remap=failing_remap([]))
    backend = RedisBackend(client, socket_timeout=PATIENT)
    with pytest.raises(BackendError, match=r"address_remap failed for 127\.0\.0\.1:\d+ with KeyError"):
        await backend.open()
    await client.aclose()


async def test_an_address_remap_that_raises_for_a_new_node_fails_for_its_keys_only(
    cluster: Cluster, spare: ClusterNode
) -> None:
    [key], [other] = cluster.keys(1, 1), cluster.keys(2, 1)
    remap = failing_remap([node.port for node in cluster.nodes])
    client = RedisCluster("127.0.0.1", cluster.nodes[0].port, address_remap=remap)
    async with opened(client) as backend:
        with Moving(key_slot(key), cluster.nodes[1], spare):
            with pytest.raises(BackendError, match=f"address_remap failed for {spare.address} with KeyError"):
                await backend.read([key])
            assert await backend.read([other]) == [None]
        assert await backend.read([key]) == [None]
    await client.aclose()


async def test_a_redirection_without_an_address_loses_the_connection_only(
    cluster: Cluster, observed: RedisBackend, proxies: list[Proxy]
) -> None:
    key = cluster.keys(0, 1)[0]
    await observed.read([key])
    proxies[0].edit = lambda data: b"-ASK nowhere\r\n"
    with pytest.raises(BackendError, match="redirection without an address"):
        await observed.read([key])
    proxies[0].edit = bytes
    assert await observed.read([key]) == [None]


@pytest.mark.parametrize("option", ["reinitialize_steps=0", "require_full_coverage=no", "max_connections=5"])
async def test_options_of_redis_pys_own_client_are_ignored(cluster: Cluster, option: str) -> None:
    async with opened(f"{cluster.url}?{option}") as backend:
        assert await backend.read([new_key()]) == [None]


@pytest.mark.slow(because="starts a Cluster with a replica, and waits for two failovers")
async def test_a_node_that_was_a_replica_for_a_time_has_another_identity(redis_server: RedisServer) -> None:
    """A slot was moving to it before, so it was asked beside the nodes that serve slots."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(3)]
        cluster = Cluster(nodes[:2], replicas=nodes[2:])
        master, other, replica = nodes
        [moving], [key] = cluster.keys(1, 1), cluster.keys(0, 1)
        async with opened(cluster.url) as backend:
            made = (await backend.lease([], new_token(), MINUTE, [key])).versions
            with Moving(key_slot(moving), other, master):
                assert await backend.read([moving]) == [None]
                for former, node in ((master, replica), (replica, master)):
                    await asyncio.to_thread(until, partial(follows, node))
                    former.run("WAIT", 1, 10_000)
                    node.run("CLUSTER", "FAILOVER", "TAKEOVER")
                    async with asyncio.timeout(PATIENT):
                        while backend.node_of(key) != node.address:
                            await asyncio.sleep(0.01)
                            with contextlib.suppress(BackendError):
                                await backend.read([key])
                assert master.run("GET", key) == made[0]
                assert await backend.read([key]) == [None]


def follows(node: ClusterNode) -> bool:
    """Returns True if a node is a replica, and has what its master has."""
    replication = node.run("INFO", "replication")
    return replication["role"] == "slave" and replication["master_link_status"] == "up"
