"""A replica of a Redis Cluster that lags behind is promoted: no lookup returns what it has not forgotten.

The replica lacks the last changes of its master, although their writes were acknowledged, marked and cleared.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from redis.crc import key_slot
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.encoding.layout import VALUE
from tests.backends.opening import PATIENT
from tests.protocol.interleavings.questions import on_cache
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import SLOTS, Cluster, ClusterNode, end_replication, until

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="it kills its servers"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
    pytest.mark.slow(because="it makes a Cluster with replicas for each test"),
]
NUMBER = 60


@pytest.fixture
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        first, second, one, other = [stack.enter_context(ClusterNode()) for _ in range(4)]
        yield Cluster([first, second], replicas=[one, other])


@pytest.fixture
async def cache(cluster: Cluster, database: BaseDBAsyncClient) -> AsyncIterator[ModelCache]:
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n % 7) for n in range(1, NUMBER + 1)])
    backend = RedisBackend(cluster.url, socket_timeout=PATIENT)
    async with ModelCache(backend, lease_ttl=PATIENT, intent_ttl=PATIENT) as opened:
        yield opened
    await backend.close()


@cached
async def followers() -> int:
    """Depends on rows of many partitions, and on a query."""
    rows = await Artist.cache.get_many(range(1, NUMBER + 1))
    return sum([row.followers for row in rows]) + await Artist.filter(followers=7).count()


async def assert_fresh(cache: ModelCache) -> None:
    """Asserts that every kind of lookup agrees with the database, until all are answered by the cache."""
    rows, artists = await Artist.all(), cache.manager(Artist)
    expected = sum([row.followers for row in rows]) + len([row for row in rows if row.followers == 7])
    async with asyncio.timeout(PATIENT):
        statements = -1
        while cache.stats.statements != statements:
            statements = cache.stats.statements
            for row in rows:
                assert vars(await artists.get(id=row.id)) == vars(row)
                assert vars(await artists.get(name=row.name)) == vars(row)
            assert list(map(vars, await artists.get_many([row.id for row in rows]))) == list(map(vars, rows))
            for rank in range(7):
                found = [row.id for row in await artists.filter(rank=rank)]
                assert found == [row.id for row in rows if row.rank == rank]
            assert await on_cache(followers.query(), cache) == expected
            await asyncio.sleep(0.02)  # a breaker may be open


def cut_off(master: ClusterNode, replica: ClusterNode) -> None:
    """Ends the replication for good: the master rejects the replica from now on."""
    until(lambda: _offset(master, "master_repl_offset") == _offset(replica, "slave_repl_offset"))
    end_replication(master, replica)


def _offset(node: ClusterNode, name: str) -> int:
    return int(node.run("INFO", "replication")[name])


def promote(nodes: Sequence[ClusterNode], replica: ClusterNode) -> None:
    """Gives the slots of a dead node to its replica, and waits until these nodes know it."""
    replica.run("CLUSTER", "FAILOVER", "TAKEOVER")
    own = replica.id.encode()

    def is_known(node: ClusterNode) -> bool:
        lines: list[bytes] = node.run("CLUSTER", "NODES").splitlines()
        mine = [line.split() for line in lines if line.startswith(own)]
        return any(b"master" in fields[2] and len(fields) > 8 for fields in mine)

    until(lambda: all(map(is_known, nodes)))


async def write_rows() -> None:
    for artist in await Artist.all():
        artist.followers += 7
        await artist.save()


async def write_past_the_limit() -> None:
    await Artist.all().update(followers=7, rank=3)


async def write_and_clear() -> None:
    await Artist.all().using_db(None).update(followers=7)
    await Artist.cache.clear()


async def rename() -> None:
    for artist in await Artist.all():
        await Artist.filter(id=artist.id).update(name=f"renamed{artist.id}", rank=((artist.rank or 0) + 1) % 7)


@pytest.mark.exhaustive(because="every way of writing, each before a failover")
@pytest.mark.long(because="each of its nodes waits for others")
@pytest.mark.parametrize("another_process", [False, True], ids=["this process", "another process"])
@pytest.mark.parametrize("write", [write_rows, write_past_the_limit, write_and_clear, rename])
async def test_rows_that_a_promoted_replica_brings_back_do_not_answer(
    cluster: Cluster, cache: ModelCache, write: Callable[[], Awaitable[None]], another_process: bool
) -> None:
    await assert_fresh(cache)
    master, replica = cluster.nodes[0], cluster.replicas[0]
    cut_off(master, replica)
    await write()
    await assert_fresh(cache)
    master.kill()
    promote([cluster.nodes[1], replica], replica)
    rows = cache.open_cache.entries_of(Artist).rows
    keys = [rows.key(number) for number in range(1, NUMBER + 1)]
    old = [replica.run("GET", key) for key in keys if key_slot(key) < SLOTS // 2]
    assert len(old) > 10
    assert all(entry.startswith(VALUE) for entry in old), "the replica has the rows of before the write"
    if another_process:
        backend = RedisBackend(f"redis+cluster://{replica.address}", socket_timeout=PATIENT)
        async with ModelCache(backend) as other:
            await assert_fresh(other)
        await backend.close()
    await assert_fresh(cache)
