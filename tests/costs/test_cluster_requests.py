"""Requests and commands that lookups and writes cost each node of a real Redis Cluster, counted by the nodes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, ModelCacheManager
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.encoding.together import MAX_PAIRS
from tests.backends.opening import PATIENT
from tests.support.instructions import instructions
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="its store is its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]
NUMBER = 100
PKS = list(range(1, NUMBER + 1))
NAMES = [f"artist{pk}" for pk in PKS]
RANKS = list(range(20))
LOOKUPS: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
    "a row": (1, lambda: Artist.cache.get(id=1)),
    "a row by an index": (2, lambda: Artist.cache.get(name="artist1")),
    "rows, gathered": (3, lambda: asyncio.gather(*[Artist.cache.get(id=pk) for pk in PKS])),
    "rows by an index, gathered": (3, lambda: asyncio.gather(*[Artist.cache.get(name=name) for name in NAMES])),
    "rows, in a batch": (3, lambda: BatchCacheQuery({str(pk): Artist.cache.get(id=pk) for pk in PKS})),
    "get_many": (3, lambda: Artist.cache.get_many(PKS)),
    "get_many by an index": (3, lambda: Artist.cache.get_many(NAMES, "name")),
    "get_many of lists": (3, lambda: Artist.cache.get_many(RANKS, "rank")),
    "get_many beside other lookups": (
        3,
        lambda: asyncio.gather(
            Artist.cache.get_many(PKS[:50]),
            Artist.cache.filter(rank=3),
            *[Artist.cache.get(id=pk) for pk in PKS[40:60]],
        ),
    ),
}
"""The largest number of requests to all nodes, and the lookup."""
MANY: dict[str, Callable[[ModelCacheManager[Artist]], Awaitable[Any]]] = {
    "get_many": lambda manager: manager.get_many(PKS),
    "a batch": lambda manager: BatchCacheQuery({str(pk): manager.get(id=pk) for pk in PKS}).get(),
}
MOST_INSTRUCTIONS = 1.25
"""Maximum ratio of the instructions of a lookup on a Cluster to those on one server."""


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(3)])


@pytest.fixture
async def cache(cluster: Cluster, database: BaseDBAsyncClient) -> AsyncIterator[ModelCache]:
    """A cache that holds all rows, and whose process has looked each of them up."""
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n % 20) for n in range(1, NUMBER + 1)])
    for node in cluster.nodes:
        node.flush()
    backend = RedisBackend(cluster.url, socket_timeout=PATIENT)
    async with ModelCache(backend) as opened:
        for _ in range(2):
            await Artist.cache.get_many(range(1, NUMBER + 1))
            await Artist.cache.get_many([f"artist{n}" for n in range(1, NUMBER + 1)], "name")
            await Artist.cache.get_many(RANKS, "rank")
        yield opened
    await backend.close()


class Counted:
    """The commands and keys that each node served during a block."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def of(self, work: Callable[[], Awaitable[Any]]) -> list[dict[str, int]]:
        """Returns the calls of each command, for each node that served any."""
        before = [self._calls(number) for number in range(len(self._cluster.nodes))]
        await work()
        after = [self._calls(number) for number in range(len(self._cluster.nodes))]
        changes = [
            {name: calls - one.get(name, 0) for name, calls in other.items() if calls != one.get(name, 0)}
            for one, other in zip(before, after, strict=True)
        ]
        return [change for change in changes if change]

    async def requests(self, work: Callable[[], Awaitable[Any]]) -> list[int]:
        """Returns how often each node reads from a socket during a block, which is once for each request."""
        with ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in self._cluster.nodes]
            before = [client.info("stats")["total_reads_processed"] for client in clients]
            await work()
            after = [client.info("stats")["total_reads_processed"] - 1 for client in clients]  # without this request
        return [now - then for then, now in zip(before, after, strict=True)]

    def _calls(self, number: int) -> dict[str, int]:
        with self._cluster.nodes[number].client() as client:
            stats: dict[str, Any] = client.info("commandstats")
        background = ("info", "ping", "cluster", "client", "command", "hello")
        return {
            name.removeprefix("cmdstat_"): int(value["calls"])
            for name, value in stats.items()
            if not name.removeprefix("cmdstat_").startswith(background)
        }


@pytest.fixture
def counted(cluster: Cluster, cache: ModelCache) -> Counted:
    return Counted(cluster)


async def test_a_row_is_read_from_one_node_with_its_epoch(counted: Counted) -> None:
    for number in range(1, 20):
        found = await counted.of(lambda number=number: Artist.cache.get(id=number))  # type: ignore[misc]
        assert found == [{"mget": 1}]


@pytest.mark.parametrize("name", LOOKUPS)
async def test_a_lookup_is_one_request_to_each_node_in_one_round(
    name: str, counted: Counted, cache: ModelCache
) -> None:
    most, look_up = LOOKUPS[name]
    before = cache.stats.round_trips
    found = await counted.requests(look_up)
    assert cache.stats.round_trips == before + 1
    assert max(found) == 1
    assert 1 <= sum(found) <= most


async def test_a_row_is_read_by_an_index_from_two_nodes_at_most(counted: Counted) -> None:
    """The index entry with its epoch, and the row that is predicted with its own."""
    nodes: list[int] = []
    for number in range(1, 20):
        found = await counted.of(lambda number=number: Artist.cache.get(name=f"artist{number}"))  # type: ignore[misc]
        assert sum(calls["mget"] for calls in found) <= 2
        nodes.append(len(found))
    assert set(nodes) == {1, 2}


@pytest.mark.parametrize("way", ["gathered", "get_many of many rows"])
async def test_a_batch_reads_the_epoch_of_each_partition_once(way: str, counted: Counted, cache: ModelCache) -> None:
    pks = PKS if way == "gathered" else list(range(1, MAX_PAIRS + 2))

    def look_up() -> Awaitable[Any]:
        if way == "gathered":
            return asyncio.gather(*[Artist.cache.get(id=pk) for pk in pks])
        return Artist.cache.get_many(pks).resolve()

    await look_up()  # the absence of those that do not exist is cached from now on
    rows = cache.open_cache.entries_of(Artist).rows
    epochs = rows.partitions.epochs_of(map(rows.key, pks))
    assert len(epochs) < len(pks)
    found = await counted.of(look_up)
    assert len(found) == 3
    assert sum(calls["mget"] for calls in found) == len(epochs)


@pytest.mark.unobserved(because="a lookup that observers are told of is read as any other")
async def test_a_few_rows_by_get_many_are_read_with_an_epoch_each(counted: Counted) -> None:
    found = await counted.of(lambda: Artist.cache.get_many(PKS))
    assert len(found) == 3
    assert sum(calls["mget"] for calls in found) == NUMBER


@pytest.mark.parametrize("name", MANY)
async def test_many_rows_take_few_more_instructions_than_on_one_server(
    name: str, cache: ModelCache, redis_server: RedisServer
) -> None:
    """Instructions of Python, of which the epochs of a hundred partitions took 1.6 times as many."""
    look_up = MANY[name]
    redis_server.flush()
    async with ModelCache(redis_server.patient_url) as on_one_server:
        counts: list[int] = []
        for opened in (on_one_server, cache):
            manager = opened.manager(Artist)
            for _ in range(5):  # until the rows are kept decoded
                await look_up(manager)
            runs = [await instructions(lambda manager=manager: look_up(manager), runs=1) for _ in range(5)]
            counts.append(min(count for count, _ in runs))
    print(f"{name}: {counts[0]} instructions on one server, {counts[1]} on a Cluster")
    assert counts[1] <= MOST_INSTRUCTIONS * counts[0]


async def test_a_write_changes_the_stamp_of_its_row_alone(cache: ModelCache) -> None:
    rows = cache.open_cache.entries_of(Artist).rows
    versions = [*rows.partitions.epochs, *rows.partitions.stamps]
    before = dict(zip(versions, await cache.backend.read(versions), strict=True))
    await Artist(id=1, name="artist1", rank=1, followers=7).save(force_update=True)
    after = dict(zip(versions, await cache.backend.read(versions), strict=True))
    assert [key for key in versions if before[key] != after[key]] == [rows.partitions.stamp_of(rows.key(1))]
    await Artist.cache.clear()
    cleared = await cache.backend.read(versions)
    assert all(value is None or value != after[key] for key, value in zip(versions, cleared, strict=True))
