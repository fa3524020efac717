"""The ages of stamps on the nodes of a Cluster, by which a row is stored that a statement has found."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from redis.crc import key_slot

from aiomodelcache.backends.protocol import PartialFailure
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.cluster.clock import MAX_SAMPLE_AGE, SAMPLE_INTERVAL, NodeClock
from aiomodelcache.backends.redis.cluster.endpoint import ClusterEndpoint
from aiomodelcache.backends.redis.commands import STAMP_TTL_MS
from aiomodelcache.encoding.layout import VERSION
from aiomodelcache.testing.conformance import MINUTE, held, new_token, put
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode, Moving

from .opening import PATIENT, opened

SECOND = 1_000_000


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(3)]
        yield Cluster(nodes[:2], spares=nodes[2:])


@pytest.fixture
async def backend(cluster: Cluster) -> AsyncIterator[RedisBackend]:
    async with opened(cluster.url) as backend:
        yield backend


@pytest.fixture
async def partition(cluster: Cluster, backend: RedisBackend) -> tuple[bytes, bytes]:
    """The keys of the epoch and the stamp of a partition. Both are there."""
    [tag] = cluster.keys(0, 1)
    epoch, stamp = b"{%b}:epoch" % tag, b"{%b}:stamp" % tag
    await write(backend, stamp)
    assert None not in (await backend.lease([], new_token(), MINUTE, [epoch])).versions
    return epoch, stamp


async def write(backend: RedisBackend, *stamps: bytes) -> None:
    """Ends a write, so that it changes stamps."""
    await backend.clear([], new_token(), stamps)


def clock_of(backend: RedisBackend, key: bytes) -> NodeClock:
    endpoint = backend._endpoint
    assert isinstance(endpoint, ClusterEndpoint)
    [node] = endpoint.nodes_of([key])
    return node.clock


async def until_older(backend: RedisBackend, partition: tuple[bytes, bytes]) -> float:
    """Waits until the stamp is older than a moment, and returns that. On a slow machine, replies come late."""
    async with asyncio.timeout(PATIENT):
        while await backend.epochs_since([partition], since := time.monotonic()) == [None]:
            await asyncio.sleep(0.001)
    return since


async def test_an_epoch_is_read_if_no_writer_came_since_a_moment(
    backend: RedisBackend, partition: tuple[bytes, bytes]
) -> None:
    epoch, stamp = partition
    before = time.monotonic() - 60
    assert await backend.epochs_since([partition], before) == [None], "the stamp is younger"
    since = time.monotonic()
    async with asyncio.timeout(PATIENT):  # on a slow machine, replies come late
        while await backend.epochs_since([partition], since) != [await held(backend, epoch)]:
            await asyncio.sleep(0.001)
    await write(backend, stamp)
    assert await backend.epochs_since([partition], since) == [None]


async def test_partitions_of_several_nodes_are_asked_together(cluster: Cluster, backend: RedisBackend) -> None:
    tags = [*cluster.keys(0, 2), *cluster.keys(1, 2)]
    partitions = [(b"{%b}:epoch" % tag, b"{%b}:stamp" % tag) for tag in tags]
    await write(backend, *[stamp for _, stamp in partitions])
    epochs = (await backend.lease([], new_token(), MINUTE, [epoch for epoch, _ in partitions])).versions
    for partition in partitions:
        await until_older(backend, partition)
    since = time.monotonic()
    async with asyncio.timeout(PATIENT):
        while await backend.epochs_since(partitions, since) != epochs:
            since = time.monotonic()
    await write(backend, partitions[2][1])
    assert await backend.epochs_since(partitions, since) == [*epochs[:2], None, *epochs[3:]]


async def test_an_epoch_that_a_writer_has_marked_is_not_read(
    backend: RedisBackend, partition: tuple[bytes, bytes]
) -> None:
    since = await until_older(backend, partition)
    await backend.mark(partition[:1], new_token(), MINUTE)
    assert await backend.epochs_since([partition], since) == [None]


@pytest.mark.parametrize("kind", ["absent", "forever", "of another incarnation", "no stamp", "a list"])
async def test_a_stamp_without_an_age_is_made_anew(
    cluster: Cluster, backend: RedisBackend, partition: tuple[bytes, bytes], kind: str
) -> None:
    _, stamp = partition
    since, before = await until_older(backend, partition), await held(backend, stamp)
    node = cluster.nodes[0]
    if kind == "absent":
        node.run("DEL", stamp)
    elif kind == "forever":
        node.run("PERSIST", stamp)
    elif kind == "of another incarnation":
        node.run("SET", stamp, VERSION + b"x" * 16, "PX", MINUTE)
    elif kind == "no stamp":
        node.run("SET", stamp, b"other", "PX", MINUTE)
    else:
        node.run("DEL", stamp)
        node.run("RPUSH", stamp, b"other")
        node.run("PEXPIRE", stamp, MINUTE)
    assert await backend.epochs_since([partition], since) == [None]
    assert await held(backend, stamp) not in (None, before)
    assert STAMP_TTL_MS - MINUTE < node.run("PTTL", stamp) <= STAMP_TTL_MS
    await until_older(backend, partition)


@pytest.mark.parametrize("jump", [-10 * SECOND, 10 * SECOND], ids=["back", "forth"])
async def test_a_clock_that_jumps_makes_no_stamp_older(
    backend: RedisBackend, partition: tuple[bytes, bytes], jump: int
) -> None:
    """A stamp was stored at a moment. Since the sample of before that, the node's clock has jumped."""
    _, stamp = partition
    await until_older(backend, partition)
    clock = clock_of(backend, stamp)
    clock._later = clock._later._replace(ahead=clock._later.ahead - jump)
    since = time.monotonic()
    await write(backend, stamp)
    for moment in (since, since - 9):
        assert await backend.epochs_since([partition], moment) == [None]


async def test_a_stamp_is_not_older_by_a_clock_that_has_jumped_forth_since(
    backend: RedisBackend, partition: tuple[bytes, bytes]
) -> None:
    """By the present clock alone it is: it was stored when the clock was ten seconds behind."""
    await until_older(backend, partition)
    clock = clock_of(backend, partition[1])
    clock._later = clock._later._replace(ahead=clock._later.ahead - 10 * SECOND)
    assert await backend.epochs_since([partition], time.monotonic()) == [None]


async def test_the_first_answer_of_a_node_is_a_sample(cluster: Cluster, partition: tuple[bytes, bytes]) -> None:
    async with opened(cluster.url) as fresh:
        assert clock_of(fresh, partition[0]).ahead_before(time.monotonic()) is not None
        clock_of(fresh, partition[0]).__init__()  # type: ignore[misc]
        assert await fresh.epochs_since([partition], time.monotonic()) == [None], "the clock was not known before"
        await until_older(fresh, partition)


async def test_redirections_are_not_followed(
    cluster: Cluster, backend: RedisBackend, partition: tuple[bytes, bytes]
) -> None:
    since, (giver, spare) = await until_older(backend, partition), (cluster.nodes[0], cluster.spares[0])
    with Moving(key_slot(partition[0]), giver, spare) as moving:
        moving.move(partition[1])
        assert await backend.epochs_since([partition], since) == [None], "one of two keys is there"
        moving.move(partition[0])
        assert await backend.epochs_since([partition], since) == [None], "none of them is"
        spare.flush()


async def test_a_frozen_node_fails_for_its_partitions_only(cluster: Cluster) -> None:
    tags = [*cluster.keys(0, 1), *cluster.keys(1, 1)]
    partitions = [(b"{%b}:epoch" % tag, b"{%b}:stamp" % tag) for tag in tags]
    async with opened(cluster.url, socket_timeout=0.5) as backend:
        await write(backend, *[stamp for _, stamp in partitions])
        epochs = (await backend.lease([], new_token(), MINUTE, [epoch for epoch, _ in partitions])).versions
        since, result = await until_older(backend, partitions[0]), None
        cluster.nodes[1].stop()
        try:
            async with asyncio.timeout(PATIENT):
                while result != [epochs[0], None]:
                    with pytest.raises(PartialFailure, match="did not answer in time") as raised:
                        await backend.epochs_since(partitions, since)
                    assert list(raised.value.failed) == [partitions[1][0]]
                    result = raised.value.result
        finally:
            cluster.nodes[1].cont()


async def test_a_script_that_a_node_has_lost_is_loaded_for_the_next_time(
    cluster: Cluster, backend: RedisBackend, partition: tuple[bytes, bytes]
) -> None:
    cluster.nodes[0].run("SCRIPT", "FLUSH")
    assert await backend.epochs_since([partition], time.monotonic()) == [None]
    await until_older(backend, partition)


async def test_a_single_server_is_not_asked(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as single:
        assert not hasattr(single, "epochs_since")


async def test_stamps_expire(cluster: Cluster, backend: RedisBackend, partition: tuple[bytes, bytes]) -> None:
    _, stamp = partition
    for end in (backend.clear([], new_token(), [stamp]), backend.clear_and_save([], [], new_token(), [stamp])):
        cluster.nodes[0].run("PERSIST", stamp)
        await end
        assert STAMP_TTL_MS - MINUTE < cluster.nodes[0].run("PTTL", stamp) <= STAMP_TTL_MS


@pytest.mark.exhaustive(because="cancels an operation at each turn of the event loop")
@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_question_leaves_nothing_behind(
    backend: RedisBackend, partition: tuple[bytes, bytes], turns: int
) -> None:
    task = asyncio.create_task(backend.epochs_since([partition], time.monotonic()))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await put(backend, partition[0] + b":other", b"value")
    await until_older(backend, partition)


def test_samples_of_a_clock_are_kept_from_before_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = NodeClock()
    assert clock.ahead_before(0.0) is None
    for number in range(5):
        now = 100 + number * SAMPLE_INTERVAL / SECOND
        assert clock.note(int(now * SECOND) + number) == number
        assert clock.note(int(now * SECOND) + 99) == 99, "too soon to be kept"
        assert clock.ahead_before(now) == number
        assert clock.ahead_before(now - 0.001) == (number - 1 if number else None)
    assert clock.ahead_before(now + MAX_SAMPLE_AGE / SECOND) == 4
    assert clock.ahead_before(now + MAX_SAMPLE_AGE / SECOND + 1) is None, "the clock may have jumped twice"
