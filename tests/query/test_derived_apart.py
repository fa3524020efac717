"""Derived entries whose dependencies are not read at the moment at which the entry is read.

The nodes of a Redis Cluster answer at different moments, and so does one server that gets more than one MGET: of many
keys, or of some that are near and some that are not. Meanwhile another process may store the entry that is being
read, although a writer has come in between its two lookups.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, nullcontext
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached, local_cache
from aiomodelcache.backends.redis.backend import RedisBackend
from tests.backends.opening import PATIENT
from tests.protocol.interleavings.questions import on_cache
from tests.support.gates import PATIENCE
from tests.support.models.derived_models import Happening, Organizer
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]


class Pause:
    """A pause between the two lookups of ``levels``, for the next computation alone."""

    next: "Pause | None" = None

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()


async def read_levels() -> list[int]:
    first = await Happening.cache.get(pk=1)
    pause, Pause.next = Pause.next, None
    if pause is not None:
        pause.begun.set()
        await pause.over.wait()
    return [first.level, (await Happening.cache.get(pk=2)).level]


levels = cached(near=False)(read_levels)
near_levels = cached(near=True)(read_levels)


class SlowBackend(RedisBackend):
    """A store whose replies arrive apart: those for one key first, and the others when the test lets them."""

    first_key: bytes | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.first_read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        early, self.first_key = self.first_key, None
        if early is None or early not in keys:
            return await super().read(keys)
        [value] = await super().read([early])
        self.first_read.set()
        await self.go_on.wait()
        others = [key for key in keys if key != early]
        found = dict(zip(others, await super().read(others), strict=True)) | {early: value}
        return [found[key] for key in keys]


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])


@pytest.fixture(params=["cluster", "several MGETs"])
async def caches(
    request: pytest.FixtureRequest, database: BaseDBAsyncClient, redis_server: RedisServer
) -> AsyncIterator[tuple[ModelCache, ModelCache]]:
    """The caches of two processes. The second one's backend is a ``SlowBackend``."""
    await Organizer.create(id=1, name="kim")
    await Happening.bulk_create([Happening(id=n, slug=f"h{n}", level=1, organizer_id=1) for n in (1, 2)])
    url, settings = redis_server.patient_url, {"batch_size": 1}
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        url, settings = cluster.url, {}
        for node in cluster.nodes:
            node.flush()
    else:
        redis_server.flush()
    backends = [kind(url, socket_timeout=PATIENT, **settings) for kind in (RedisBackend, SlowBackend)]
    async with ModelCache(backends[0]) as first, ModelCache(backends[1]) as second:
        yield first, second
    for backend in backends:
        await backend.close()


@pytest.mark.parametrize("scoped", [False, True], ids=["", "in a scope"])
async def test_a_result_that_is_stored_while_it_is_read_is_not_torn(
    caches: tuple[ModelCache, ModelCache], scoped: bool
) -> None:
    """The slow reader finds the first row's token before a write, and the entry and the second row after it."""
    near, far = caches
    slow: Any = far.open_cache.guarded.backend
    assert await on_cache(levels.query(), near) == [1, 1]
    for _ in range(2):
        assert await on_cache(levels.query(), far) == [1, 1]  # knows the dependencies from now on
    await Happening.all().update(level=2)
    await near.manager(Happening).get(pk=1)
    Pause.next = pause = Pause()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        computing = tasks.create_task(on_cache(levels.query(), near).resolve())
        await pause.begun.wait()
        slow.first_key = near.open_cache.models[Happening].rows.key(1)
        reading = tasks.create_task(look_up(far, scoped=scoped))
        await slow.first_read.wait()
        await Happening.all().update(level=3)
        pause.over.set()
        assert await computing == [2, 3]  # a miss, which began before the write was acknowledged
        slow.go_on.set()
    assert reading.result() == [3, 3]
    assert await on_cache(levels.query(), near) == [3, 3]


async def look_up(cache: ModelCache, *, scoped: bool) -> Any:
    async with local_cache() if scoped else nullcontext():
        return await on_cache(levels.query(), cache)


class SplittingBackend(RedisBackend):
    """A store whose reads are split as by ``RedisBackend``, and one of whose two answers arrives late."""

    late_key: bytes | None = None
    """A key of the part that is answered late."""
    dropped: Sequence[bytes] = ()
    """Keys that a writer of this process drops when the read is about to be sent."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.first_read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self.late_key in keys and self._near is not None:
            self._near.drop(self.dropped)
        return await super().read(keys)

    async def _read(self, keys: Sequence[bytes], *, tracked: bool) -> list[bytes | None]:
        if self.late_key in keys:
            await self.go_on.wait()
            self.late_key = None
        found = await super()._read(keys, tracked=tracked)
        if self.late_key is not None:
            self.first_read.set()
        return found


@pytest.mark.parametrize("why", ["it is not kept", "another read has announced it", "a writer has dropped it"])
async def test_a_result_is_not_torn_if_one_row_is_read_by_itself(
    database: BaseDBAsyncClient, redis_server: RedisServer, why: str
) -> None:
    """The first row's token is read before a write, and the entry and the second row after it."""
    await Organizer.create(id=1, name="kim")
    await Happening.bulk_create([Happening(id=n, slug=f"h{n}", level=1, organizer_id=1) for n in (1, 2)])
    redis_server.flush()
    function: Any = near_levels if why == "a writer has dropped it" else levels
    async with AsyncExitStack() as stack:
        slow = SplittingBackend(redis_server.patient_url, socket_timeout=PATIENT)
        stack.push_async_callback(slow.close)
        first = await stack.enter_async_context(ModelCache(redis_server.patient_url))
        second = await stack.enter_async_context(ModelCache(slow, near=True, near_lag=PATIENT))
        near, rows = second.open_cache.guarded.near, [first.open_cache.models[Happening].rows.key(pk) for pk in (1, 2)]
        for _ in range(2):
            assert await on_cache(function.query(), first) == [1, 1]
            assert await on_cache(function.query(), second) == [1, 1]  # knows the dependencies from now on
        await Happening.all().update(level=2)
        for pk, row in enumerate(rows, 1):
            while not near.holds(row):
                assert (await on_cache(Happening.cache.get(pk=pk), second)).level == 2
        Pause.next = pause = Pause()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            computing = tasks.create_task(on_cache(function.query(), first).resolve())
            await pause.begun.wait()
            slow.late_key = function.query().locate(first.open_cache)[1]
            match why:
                case "it is not kept":
                    near.drop(rows[:1])
                case "another read has announced it":
                    near.expect(rows[:1])
                case _:
                    slow.dropped = rows[:1]
            reading = tasks.create_task(on_cache(function.query(), second).resolve())
            await slow.first_read.wait()
            await on_cache(Organizer.cache.get(id=1), second)  # a read that begins and ends in the meantime
            await Happening.all().update(level=3)
            pause.over.set()
            assert await computing == [2, 3]  # a miss, which began before the write was acknowledged
            slow.go_on.set()
        assert reading.result() == [3, 3]
        assert not second.open_cache.reader.reads_apart(), "it reads nothing now"
