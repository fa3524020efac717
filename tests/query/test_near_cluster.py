"""Near caching of a Cluster: each node reports on a connection of its own, and a slot that moves has another node.

The other process is a second cache with connections of its own. Tests of the bound lose all invalidation messages, so
that only ``near_lag`` ends an entry: no lookup that begins later than that after a write may return the row of before.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from redis.crc import key_slot
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import PipelinedConnection
from aiomodelcache.encoding.layout import VALUE
from tests.backends.opening import PATIENT
from tests.protocol.interleavings.questions import on_cache
from tests.support.gates import PATIENCE, until
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer
from tests.support.servers import redis_cluster as servers
from tests.support.servers.redis_cluster import Cluster, ClusterNode, Moving

pytestmark = [
    pytest.mark.usefixtures("near_server"),
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="near entries are bytes of a store"),
]

NUMBER = 60
LAG = 0.5
FAR: dict[str, Any] = {"near": True, "near_lag": 60.0, "socket_timeout": PATIENT}


@pytest.fixture(scope="module")
def masters(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(3)])


@pytest.fixture
def cluster(masters: Cluster) -> Cluster:
    for node in masters.nodes:
        node.flush()
    return masters


@pytest.fixture
def replicated(redis_server: RedisServer) -> Iterator[Cluster]:
    with ExitStack() as stack:
        first, second, one, other = [stack.enter_context(ClusterNode()) for _ in range(4)]
        yield Cluster([first, second], replicas=[one, other])


@pytest.fixture(autouse=True)
async def users(database: BaseDBAsyncClient) -> None:
    await User.bulk_create([User(id=pk, username=f"user{pk}") for pk in range(1, NUMBER + 1)])


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loses all invalidations from the servers, as if they arrived after the test."""
    monkeypatch.setattr(PipelinedConnection, "_on_push", lambda self, message: None)


@asynccontextmanager
async def opened(cluster: Cluster, **settings: Any) -> AsyncIterator[tuple[ModelCache, ModelCache]]:
    """Opens a near cache, and the cache of another process."""
    async with (
        ModelCache(cluster.url, **FAR | settings) as ours,
        ModelCache(cluster.url, socket_timeout=PATIENT) as other,
    ):
        yield ours, other


async def team(cache: ModelCache, pk: int) -> int | None:
    return (await on_cache(User.cache.get(id=pk), cache)).team


async def warm(cache: ModelCache) -> None:
    """Looks all rows up until near entries answer every lookup."""
    async with asyncio.timeout(PATIENCE):
        while True:
            before = cache.stats.near.hits
            for pk in range(1, NUMBER + 1):
                await team(cache, pk)
            if cache.stats.near.hits == before + NUMBER:
                return


async def is_near(cache: ModelCache, pk: int) -> bool:
    """Looks a row up. Returns True if a near entry has answered."""
    before = cache.stats.near.hits
    await team(cache, pk)
    return cache.stats.near.hits > before


async def write(other: ModelCache, pk: int, value: int) -> float:
    """Writes a row in another process. Returns the time after which the write is acknowledged."""
    await QuerySet(User).filter(id=pk).update(team=value)  # this queryset invalidates nothing
    await other.manager(User).invalidate(pk)
    return time.monotonic()


def key(cache: ModelCache, pk: int) -> bytes:
    return cache.open_cache.models[User].rows.key(pk)


def on_node(cache: ModelCache, cluster: Cluster, node: int) -> list[int]:
    """Returns the rows whose entries are on a node, as the slots were divided at first."""
    return [pk for pk in range(1, NUMBER + 1) if cluster._place(key_slot(key(cache, pk))) == node]


async def assert_bound(cache: ModelCache, pk: int, value: int, acknowledged: float) -> None:
    """Asserts that lookups that begin later than ``LAG`` after the write return what was written."""
    while (began := time.monotonic()) < acknowledged + 4 * LAG:
        found = await team(cache, pk)
        assert found == value or began <= acknowledged + LAG, f"{began - acknowledged:.3f} s after the write"
        await asyncio.sleep(0.005)


# Every node reports ---------------------------------------------------------------------------------------


async def test_each_node_reports_the_writes_of_another_process(cluster: Cluster) -> None:
    async with opened(cluster) as (cache, other):
        await warm(cache)
        for node in range(3):
            for pk in on_node(cache, cluster, node)[:3]:
                await write(other, pk, 7)
                await until(lambda pk=pk: not cache.open_cache.guarded.near.holds(key(cache, pk)))  # type: ignore[misc]
                assert await team(cache, pk) == 7
        assert cache.stats.near.invalidated >= 9


async def test_lookups_by_a_name_are_near_too(cluster: Cluster) -> None:
    async with opened(cluster) as (cache, other):
        query = User.cache.get(username="user7")
        async with asyncio.timeout(PATIENCE):
            while not cache.stats.near.hits:
                assert (await on_cache(query, cache)).id == 7
                await asyncio.sleep(0)
        before = cache.stats.near.hits, cache.stats.round_trips
        assert (await on_cache(query, cache)).id == 7
        assert (cache.stats.near.hits, cache.stats.round_trips) == (before[0] + 1, before[1])
        await write(other, 7, 7)
        async with asyncio.timeout(PATIENCE):
            while (await on_cache(query, cache)).team != 7:
                await asyncio.sleep(0.001)


async def test_own_writes_are_seen_at_once(cluster: Cluster, deaf: None) -> None:
    async with opened(cluster) as (cache, _):
        await warm(cache)
        for pk in range(1, NUMBER + 1):
            await User.filter(id=pk).update(team=3)
            assert await team(cache, pk) == 3


async def test_rows_that_are_not_near_are_not_tracked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event.CacheMeta, "near", True, raising=False)
    event = await Event.create(slug="pycon", title="old", organizer_id=1)
    async with opened(cluster, near=False) as (cache, _):
        for _ in range(3):
            for pk in range(1, NUMBER + 1):
                await asyncio.gather(team(cache, pk), on_cache(Event.cache.get(id=event.id), cache))
        assert cache.stats.near.hits
        tracked = [node.run("INFO", "stats")["tracking_total_keys"] for node in cluster.nodes]
        assert sorted(tracked) == [0, 0, 2]


async def test_a_value_and_its_dependencies_that_are_kept_are_not_of_one_moment(cluster: Cluster) -> None:
    """One node may report earlier than another. So a value that is new to the process is compared with a later read."""
    async with opened(cluster) as (cache, other):
        await warm(cache)
        assert cache.open_cache.reader.reads_apart()
        assert not other.open_cache.reader.reads_apart(), "it reads nothing now"


async def test_a_lookup_while_the_backend_opens_again_asks_no_node(cluster: Cluster) -> None:
    """None is known yet."""
    async with opened(cluster) as (cache, _):
        await warm(cache)
        backend: Any = cache.open_cache.guarded.backend
        await backend.close()
        opening = asyncio.create_task(backend.open())
        await asyncio.sleep(0)
        assert not backend._endpoint._topology.nodes
        await team(cache, 1)
        await opening
        assert cache.stats.backend_errors == 0


# Nodes that end -------------------------------------------------------------------------------------------


async def test_a_lost_connection_drops_the_entries_of_its_node_only(cluster: Cluster) -> None:
    async with opened(cluster, breaker_cooldown=0.02) as (cache, other):
        await warm(cache)
        mine, others = on_node(cache, cluster, 0), [*on_node(cache, cluster, 1), *on_node(cache, cluster, 2)]
        near = cache.open_cache.guarded.near
        for client in cluster.nodes[0].run("CLIENT", "LIST").splitlines():
            if re.search(rb" flags=\w*t", client):  # tracking
                cluster.nodes[0].run("CLIENT", "KILL", "ID", client.split()[0].removeprefix(b"id="))
        await until(lambda: not any(near.holds(key(cache, pk)) for pk in mine))
        assert all(near.holds(key(cache, pk)) for pk in others)
        assert cache.stats.near.dropped == 1
        await write(other, mine[0], 7)
        assert await team(cache, mine[0]) == 7
        await warm(cache)


async def test_a_frozen_node_makes_only_its_own_keys_not_near(cluster: Cluster, deaf: None) -> None:
    """The process waits for its answers, and goes on to answer from what the other nodes report on."""
    async with opened(cluster, near_lag=LAG) as (cache, _):
        await warm(cache)
        mine, others = on_node(cache, cluster, 0), [*on_node(cache, cluster, 1), *on_node(cache, cluster, 2)]
        near = cache.open_cache.guarded.near
        cluster.nodes[0].stop()
        frozen = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                while time.monotonic() < frozen + LAG or not all([await is_near(cache, pk) for pk in others]):
                    await asyncio.sleep(0.01)
            assert len(near.channels) == 3
            assert not any(near.holds(key(cache, pk)) for pk in mine)
        finally:
            cluster.nodes[0].cont()
        await warm(cache)


async def test_rows_of_a_frozen_node_are_looked_up_in_the_database(cluster: Cluster, deaf: None) -> None:
    async with opened(cluster, near_lag=LAG, socket_timeout=0.3, breaker_cooldown=60.0) as (cache, _):
        await warm(cache)
        pk = on_node(cache, cluster, 0)[0]
        cluster.nodes[0].stop()
        frozen = time.monotonic()
        try:
            await QuerySet(User).filter(id=pk).update(team=7)  # by a writer that has announced it before
            await assert_bound(cache, pk, 7, frozen)
        finally:
            cluster.nodes[0].cont()


async def test_a_failed_request_drops_the_entries_of_its_node(cluster: Cluster) -> None:
    async with opened(cluster) as (cache, _):
        await warm(cache)
        mine, others = on_node(cache, cluster, 0), [*on_node(cache, cluster, 1), *on_node(cache, cluster, 2)]
        near = cache.open_cache.guarded.near
        near.drop([key(cache, mine[0])])
        cluster.nodes[0].run("ACL", "SETUSER", "default", "-mget", "-get")
        try:
            await team(cache, mine[0])
        finally:
            cluster.nodes[0].run("ACL", "SETUSER", "default", "+@all")
        assert cache.stats.backend_errors == 1
        assert not any(near.holds(key(cache, pk)) for pk in mine)
        await until(lambda: all(near.holds(key(cache, pk)) for pk in others))  # once their nodes answer a ping


async def test_a_node_that_refuses_tracking_keeps_nothing_near(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    if ClusterNode.version() < [7]:
        pytest.skip("no single subcommand can be refused, before Redis 7")
    cluster.nodes[0].run("ACL", "SETUSER", "default", "-client|tracking")
    try:
        async with opened(cluster) as (cache, _):
            mine, others = on_node(cache, cluster, 0), [*on_node(cache, cluster, 1), *on_node(cache, cluster, 2)]
            async with asyncio.timeout(PATIENCE):
                while not all([await is_near(cache, pk) for pk in others]):
                    pass
            assert not any([await is_near(cache, pk) for pk in mine])
            assert cache.stats.near.refused >= 1
            assert cache.stats.backend_errors == 0
    finally:
        cluster.nodes[0].run("ACL", "SETUSER", "default", "+@all")
    assert "nothing is kept near" in caplog.text


@pytest.mark.slow(because="it makes a Cluster with replicas")
@pytest.mark.parametrize("how", ["killed", "demoted", "demoted, and asked for the topology"])
async def test_after_a_failover_no_old_row_is_near(
    replicated: Cluster, how: str, deaf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is demoted goes on to answer, also on the connection that it reported on."""
    master, replica = replicated.nodes[0], replicated.replicas[0]
    settings = {"near_lag": LAG, "breaker_cooldown": 0.02}
    async with opened(replicated, **settings) as (cache, other):
        await warm(cache)
        pk = on_node(cache, replicated, 0)[0]
        looking = asyncio.create_task(keep_looking(cache, pk))
        if how == "demoted, and asked for the topology":  # and it does not know yet
            monkeypatch.setattr(Topology, "_adopt", lambda *_: None)
        if how == "killed":
            master.kill()
            replica.run("CLUSTER", "FAILOVER", "TAKEOVER")
        else:
            replica.run("CLUSTER", "FAILOVER")
        await asyncio.to_thread(servers.until, lambda: replica.run("INFO", "replication")["role"] == "master")
        async with asyncio.timeout(PATIENCE):
            while other.open_cache.guarded.nodes is None or not await written(other, pk):
                await asyncio.sleep(0.05)
        acknowledged = time.monotonic()
        looking.cancel()
        await assert_bound(cache, pk, 7, acknowledged)
        monkeypatch.undo()
        await warm(cache)


async def written(other: ModelCache, pk: int) -> bool:
    """Writes a row, and returns True if its invalidation was delivered."""
    await write(other, pk, 7)
    return not other.open_cache.guarded.has_undelivered


async def keep_looking(cache: ModelCache, pk: int) -> None:
    while True:
        await team(cache, pk)
        await asyncio.sleep(0.005)


# Slots that move ------------------------------------------------------------------------------------------


def give(cluster: Cluster, moving: Moving) -> None:
    """Ends the move of a slot, which goes back to its node when the test has ended."""
    moving.move(*moving.keys(moving.giver))
    moving.end(*[node for node in cluster.nodes if node not in (moving.giver, moving.taker)])


@pytest.fixture
def moved(cluster: Cluster) -> Iterator[list[Moving]]:
    """Slots that are given back."""
    moves: list[Moving] = []
    yield moves
    for moving in moves:
        with Moving(moving.slot, moving.taker, moving.giver) as back:
            give(cluster, back)


async def test_a_read_in_flight_is_not_kept_if_its_slot_has_moved(cluster: Cluster, moved: list[Moving]) -> None:
    """Its node does not report changes any more."""
    async with opened(cluster) as (cache, _):
        (first, *_, pk), (second, *_) = on_node(cache, cluster, 0), on_node(cache, cluster, 1)
        for _ in range(3):
            await team(cache, first), await team(cache, second)
        near, own = cache.open_cache.guarded.near, key(cache, pk)
        ticket = near.expect([own])
        with Moving(key_slot(own), cluster.nodes[0], cluster.nodes[1]) as moving:
            give(cluster, moving)
        moved.append(moving)
        await cast("Any", cache.open_cache.guarded.backend)._endpoint._topology.require()
        near.keep(ticket, {own: VALUE + bytes(60)})
        assert not near.holds(own)


async def test_a_redirection_concerns_the_entries_of_its_slot_only(cluster: Cluster, moved: list[Moving]) -> None:
    """A batch of keys whose slots have moved gets many redirections."""
    async with opened(cluster) as (cache, _):
        await warm(cache)
        topology: Topology = cast("Any", cache.open_cache.guarded.backend)._endpoint._topology
        own = key(cache, pk := on_node(cache, cluster, 0)[0])
        changed, leave = list[int](), topology.on_change
        topology.on_change = lambda slots: (changed.extend(slots), leave(slots))[1]
        with Moving(key_slot(own), cluster.nodes[0], cluster.nodes[1]) as moving:
            give(cluster, moving)
        moved.append(moving)
        cache.open_cache.guarded.near.drop([own])
        await team(cache, pk)
        await topology.require()
        assert changed == [moving.slot]


@pytest.mark.parametrize("is_deaf", [False, True], ids=["", "deaf"])
async def test_a_row_whose_slot_has_moved_is_not_near_for_longer_than_the_lag(
    cluster: Cluster, moved: list[Moving], monkeypatch: pytest.MonkeyPatch, is_deaf: bool
) -> None:
    async with opened(cluster, near_lag=LAG) as (cache, other):
        await warm(cache)
        pk, *rest = on_node(cache, cluster, 0)
        if is_deaf:
            monkeypatch.setattr(PipelinedConnection, "_on_push", lambda self, message: None)
        looking = asyncio.create_task(keep_looking(cache, rest[0]))  # so that the node goes on to answer
        with Moving(key_slot(key(cache, pk)), cluster.nodes[0], cluster.nodes[1]) as moving:
            give(cluster, moving)
        moved.append(moving)
        acknowledged = await write(other, pk, 7)
        await assert_bound(cache, pk, 7, acknowledged)
        looking.cancel()
        assert await is_near(cache, pk), "the taker reports its changes now"


async def test_a_slot_that_is_taken_without_messages_is_noticed_after_a_silence(
    cluster: Cluster, moved: list[Moving]
) -> None:
    """The giver drops the keys, of which it tells nothing, and answers for its other slots."""
    async with opened(cluster, near_lag=LAG) as (cache, other):
        await warm(cache)
        pk, *rest = on_node(cache, cluster, 0)
        moving = Moving(key_slot(key(cache, pk)), cluster.nodes[0], cluster.nodes[1])
        moving.taker.run("CLUSTER", "BUMPEPOCH")
        moving.taker.run("CLUSTER", "SETSLOT", moving.slot, "NODE", moving.taker.id)
        moved.append(moving)
        await asyncio.to_thread(servers.until, lambda: not moving.keys(moving.giver))
        await asyncio.to_thread(servers.until, lambda: all(serves(node, moving) for node in cluster.nodes))
        await write(other, pk, 7)
        await asyncio.sleep(LAG)  # what the bound allows
        for each in rest:
            await team(cache, each)
            assert await team(cache, pk) == 7


def serves(node: ClusterNode, moving: Moving) -> bool:
    """Returns True if a node knows the taker of a slot."""
    port = moving.taker.port
    return any(
        first <= moving.slot <= last and primary[1] == port for first, last, primary, *_ in node.run("CLUSTER", "SLOTS")
    )


async def test_a_row_is_near_only_if_its_present_node_reports_its_changes(
    cluster: Cluster, moved: list[Moving]
) -> None:
    """It is written while its slot moves, and after that."""
    async with opened(cluster) as (cache, other):
        await warm(cache)
        pk = on_node(cache, cluster, 0)[0]
        epoch = cache.open_cache.models[User].rows.partitions.epoch_of(key(cache, pk))
        with Moving(key_slot(key(cache, pk)), cluster.nodes[0], cluster.nodes[1]) as moving:
            for number, step in enumerate(("before", "row", "epoch", "slot"), 1):
                if step == "row":
                    moving.try_to_move(key(cache, pk))
                elif step == "epoch":
                    moving.try_to_move(epoch)
                elif step == "slot":
                    give(cluster, moving)
                for _ in range(3):
                    await team(cache, pk)
                await write(other, pk, number)
                async with asyncio.timeout(PATIENCE):
                    while await team(cache, pk) != number:
                        await asyncio.sleep(0.001)
                for _ in range(3):
                    assert await team(cache, pk) == number
        moved.append(moving)
