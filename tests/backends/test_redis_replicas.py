"""``wait_replicas``: a mark counts when replicas have it, on one server and on a Cluster, in the same round trip."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, CacheWriteError, ModelCache
from aiomodelcache.backends.protocol import Clear
from aiomodelcache.backends.redis import backend as backend_module
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.connection import PipelinedConnection
from aiomodelcache.backends.redis.replicas import LAGGING_WAIT_MS
from aiomodelcache.backends.replication import Unreplicated
from aiomodelcache.testing.conformance import MINUTE, new_keys, new_token
from tests.backends.opening import PATIENT
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode, until

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="it freezes its servers"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
    pytest.mark.slow(because="it makes replicas for each test"),
]


class Pair:
    """A server, or a Cluster of one shard, and the replica."""

    def __init__(self, url: str, master: RedisServer, replica: RedisServer) -> None:
        self.url, self.master, self.replica = url, master, replica

    def replica_has(self, key: bytes) -> bool:
        with self.replica.client() as client:
            if isinstance(self.replica, ClusterNode):
                client.execute_command("READONLY")
            return client.get(key) is not None

    def waits(self) -> list[bytes]:
        """Returns what ``WAIT`` commands the server has counted."""
        with self.master.client() as client:
            lines = client.execute_command("INFO", "commandstats")
        return [name for name in lines if "wait" in name]


@pytest.fixture(params=["one server", "a Cluster"])
def pair(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Pair]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        if request.param == "a Cluster":
            node, other = [stack.enter_context(ClusterNode()) for _ in range(2)]
            yield Pair(Cluster([node], replicas=[other]).url, node, other)
            return
        master, replica = [stack.enter_context(RedisServer()) for _ in range(2)]
        with replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", master.port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        yield Pair(master.url, master, replica)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for replicas longer, as a busy machine may need."""
    monkeypatch.setattr(backend_module, "MAX_WAIT", PATIENT)


@pytest.fixture
async def backend(pair: Pair) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(pair.url, socket_timeout=PATIENT, wait_replicas=1)
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.usefixtures("patient")
async def test_replicas_have_a_mark_when_it_returns(pair: Pair, backend: RedisBackend) -> None:
    for key in new_keys(50):
        await backend.mark([key], new_token(), MINUTE)
        assert pair.replica_has(key)


@pytest.mark.usefixtures("patient")
async def test_replicas_have_the_marks_of_saves(pair: Pair, backend: RedisBackend) -> None:
    row, version = new_keys(2)
    marked = await backend.mark_for_save([row], new_token(), MINUTE, versions=[version])
    assert pair.replica_has(row)
    assert marked.versions[0]


async def test_a_mark_that_replicas_lack_is_made_and_reported(
    pair: Pair, backend: RedisBackend, caplog: pytest.LogCaptureFixture
) -> None:
    [key], token = new_keys(1), new_token()
    pair.replica.stop()
    for _ in range(3):
        with pytest.raises(Unreplicated, match="0 of 1 replicas had it in time"):
            await backend.mark([key], token, MINUTE)
    assert await backend.clear([Clear(key)], token) == [True]
    pair.replica.cont()
    async with asyncio.timeout(PATIENT):
        while True:
            with suppress(Unreplicated):  # the replica has just woken up
                await backend.mark([key], token, MINUTE)
                break
    assert [" again" in record.message for record in caplog.records] == [False, True]


async def test_a_user_who_may_not_wait_is_told(pair: Pair, backend: RedisBackend) -> None:
    with pair.master.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-wait")
    with pytest.raises(Unreplicated, match="permission"):
        await backend.mark(new_keys(1), new_token(), MINUTE)


async def test_replicas_that_were_late_are_waited_for_shortly(
    pair: Pair, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    start = PipelinedConnection.start

    def record(self: PipelinedConnection, request: bytes, *rest: object) -> None:
        sent.append(request)
        start(self, request, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PipelinedConnection, "start", record)
    pair.replica.stop()
    for _ in range(2):
        with pytest.raises(BackendError):
            await backend.mark(new_keys(1), new_token(), MINUTE)
    pair.replica.cont()
    waits = [request.rpartition(b"WAIT")[2].split()[-1] for request in sent]
    assert waits == [b"100", str(LAGGING_WAIT_MS).encode()]  # each in the request of its mark


async def test_nothing_is_waited_for_by_default(pair: Pair) -> None:
    backend = RedisBackend(pair.url, socket_timeout=PATIENT)
    await backend.open()
    await backend.mark(new_keys(1), new_token(), MINUTE)
    await backend.close()
    assert pair.waits() == []


@pytest.mark.usefixtures("patient")
async def test_scripts_that_the_server_forgot_are_waited_for(pair: Pair, backend: RedisBackend) -> None:
    with pair.master.client() as client:
        client.script_flush()
    [key] = new_keys(1)
    await backend.mark([key], new_token(), MINUTE)
    assert pair.replica_has(key)


@pytest.mark.usefixtures("patient")
async def test_a_save_takes_as_many_round_trips_as_without(pair: Pair, database: BaseDBAsyncClient) -> None:
    await Artist.bulk_create([Artist(id=1, name="one", rank=1)])
    async with ModelCache(pair.url, socket_timeout=PATIENT, wait_replicas=1, on_write_error="raise") as cache:
        artist = await Artist.get(id=1)
        before = cache.stats.round_trips
        await artist.save()
        assert cache.stats.round_trips == before + 2
        assert len(pair.waits()) == 1


async def test_a_write_that_replicas_do_not_hear_of_is_refused_or_goes_through(
    pair: Pair, database: BaseDBAsyncClient
) -> None:
    await Artist.bulk_create([Artist(id=1, name="one", rank=1)])
    settings = {"socket_timeout": PATIENT, "wait_replicas": 1, "lease_ttl": PATIENT}
    async with ModelCache(pair.url, on_write_error="raise", **settings) as cache:
        artist = await cache.manager(Artist).get(id=1)
        pair.replica.stop()
        artist.followers = 2
        with pytest.raises(CacheWriteError, match="0 of 1 replicas"):
            await artist.save()
        assert (await Artist.get(id=1)).followers == 0
        assert cache.stats.backend_errors == 1
        statements = await _statements_of_a_lookup(cache, 0)
        assert statements == [1, 0], "the mark of the refused write is withdrawn"
        assert cache.stats.bypassed == 0
    async with ModelCache(pair.url, on_write_error="retry", **settings) as cache:
        artist.followers = 3
        await artist.save()
        assert cache.stats.backend_errors == 1
        assert await _statements_of_a_lookup(cache, 3) == [1, 0]
        await cache.clear_all()
        assert await _statements_of_a_lookup(cache, 3) == [1, 0]
        assert cache.stats.undelivered == 0
    pair.replica.cont()


async def _statements_of_a_lookup(cache: ModelCache, followers: int) -> list[int]:
    """Returns the numbers of statements that two lookups of the row send, one after the other."""
    found: list[int] = []
    for _ in range(2):
        before = cache.stats.statements
        assert (await cache.manager(Artist).get(id=1)).followers == followers
        found.append(cache.stats.statements - before)
    return found
