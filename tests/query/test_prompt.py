"""A hit needs no task: its read starts when the tick ends, and the callback of the reply answers the lookups."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, BatchCacheQuery, CacheNotOpen, MemoryBackend, ModelCache, RedisBackend
from aiomodelcache.backends.protocol import ReadCallback
from aiomodelcache.engine.hits import ROWS_IN_SLICE, SLICE_SIZE
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE
from tests.support.models.music import Album, Artist

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("sqlite", because="nothing is asked of the database but what the store does not know"),
    pytest.mark.only_on("redis", because="each test makes its own store, or needs the one with connections"),
]


class StartReadStore(MemoryBackend):
    """A store that answers a started read at once, or when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[asyncio.Future[None]] = []
        """A future for each held read. The test sets it to answer the read."""
        self.holds_answers = False
        self.failure: Exception | None = None
        self.forced_reply: list[bytes | None] | Exception | None = None

    def start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        if self.failure is not None:
            raise self.failure
        now = self._now()
        read = [self._get(key, now) for key in keys]
        answer = read if self.forced_reply is None else self.forced_reply
        if self.holds_answers:
            self.answers.append(asyncio.get_running_loop().create_future())
            self.answers[-1].add_done_callback(lambda _: callback(answer))
        else:
            callback(answer)
        return True


class TaskCount:
    """A count of the tasks that a block starts."""

    def __init__(self) -> None:
        self.started = 0

    def __enter__(self) -> "TaskCount":
        asyncio.get_running_loop().set_task_factory(self._make)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().set_task_factory(None)

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        self.started += 1
        return asyncio.Task(work, loop=loop, **more)


@pytest.fixture
async def can(database: BaseDBAsyncClient) -> Artist:
    artist = await Artist.create(name="Can", rank=1)
    for number in range(1, 4):
        await Album.create(barcode=number, artist=artist, number=number, year=1970 + number)
    return artist


@pytest.fixture
def store() -> StartReadStore:
    return StartReadStore()


@pytest.fixture
async def cache(can: Artist, store: StartReadStore) -> AsyncIterator[ModelCache]:
    async with ModelCache(store, lease_ttl=0.2) as opened:
        yield opened


async def until_reads_are_held(store: StartReadStore, number: int = 1) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(store.answers) < number:
            await asyncio.sleep(0)


async def test_a_hit_starts_no_task(can: Artist, redis_url: str) -> None:
    async with ModelCache(redis_url):
        for _ in range(2):
            found = [
                await Album.cache.get(id=1),
                await Album.cache.get(barcode=2),
                *await Album.cache.filter(artist=1),
            ]
        async with assert_ops(redis=["read"] * 4, sql=0):
            with TaskCount() as tasks:
                again = [
                    await Album.cache.get(id=1),
                    await Album.cache.get(barcode=2),
                    *await Album.cache.filter(artist=1),
                ]
                batch = await BatchCacheQuery({n: Album.cache.get(id=n) for n in (1, 2)})
        assert tasks.started == 0
        assert again == found
        assert [album.id for album in batch.values()] == [1, 2]


async def test_a_hit_takes_two_turns_of_the_event_loop_besides_that_of_the_reply(
    cache: ModelCache, store: StartReadStore
) -> None:
    await Album.cache.get(id=1)
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        counting[0] = asyncio.get_running_loop().call_soon(count)

    counting = [asyncio.get_running_loop().call_soon(count)]
    assert (await Album.cache.get(id=1)).barcode == 1
    counting[0].cancel()
    assert turns == 2, "the read must be sent in the first turn, and the caller must continue in the second"


async def test_delayed_replies_answer_the_right_lookups(cache: ModelCache, store: StartReadStore) -> None:
    await Album.cache.get_many([1, 2, 3])
    store.holds_answers = True
    asked = []
    for n in (1, 2):
        asked.append(asyncio.create_task(Album.cache.get(id=n).resolve()))
        await until_reads_are_held(store, n)
    asked += [asyncio.create_task(Album.cache.get(id=n).resolve()) for n in (3, 1)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(store.answers) == 2, "at most two reads must be in flight"
    store.answers[1].set_result(None)
    assert (await asked[1]).id == 2
    await until_reads_are_held(store, 3)
    for answer in (store.answers[2], store.answers[0]):
        answer.set_result(None)
    assert [(await task).id for task in asked] == [1, 2, 3, 1]


@pytest.mark.parametrize("error", [BackendError("gone"), KeyError("oops")], ids=["its own", "another"])
@pytest.mark.parametrize("when", ["asked", "answering"])
async def test_an_error_of_a_started_read_is_a_backend_error(
    cache: ModelCache, store: StartReadStore, error: Exception, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    await Album.cache.get(id=1)
    store.failure, store.forced_reply = (error, None) if when == "asked" else (None, error)
    async with assert_ops(sql=1):
        assert (await Album.cache.get(id=1)).id == 1
    assert cache.stats.backend_errors == 1
    assert "the cache is not used for now" in caplog.text
    async with assert_ops(sql=1, redis=0):
        assert (await Album.cache.get(id=1)).id == 1


async def test_a_reply_of_the_wrong_length_is_raised_in_its_lookup(cache: ModelCache, store: StartReadStore) -> None:
    store.forced_reply = []
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ValueError, match="shorter"):
            await Album.cache.get(id=1)
        store.forced_reply = None
        assert (await Album.cache.get(id=1)).id == 1


async def test_closing_waits_for_reads_in_flight(can: Artist, store: StartReadStore) -> None:
    async with ModelCache(store):
        await Album.cache.get(id=1)
        store.holds_answers = True
        asked = asyncio.create_task(Album.cache.get(id=1).resolve())
        await until_reads_are_held(store)
        asyncio.get_running_loop().call_later(0.05, store.answers[0].set_result, None)
    await asyncio.sleep(0)
    assert asked.result().id == 1


async def test_closing_gives_up_on_reads_after_the_lease_ttl(can: Artist, store: StartReadStore) -> None:
    async with ModelCache(store, lease_ttl=0.1) as cache:
        stats = cache.stats
        await Album.cache.get(id=1)
        store.holds_answers = True
        single = asyncio.create_task(Album.cache.get(id=3).resolve())
        several = asyncio.create_task(Album.cache.get_many([1, 2]).resolve())
        await until_reads_are_held(store)
    for task in (single, several):
        with pytest.raises(CacheNotOpen):
            await task
    sent = stats.round_trips
    store.answers[0].set_result(None)  # too late: no further read may follow
    for _ in range(5):
        await asyncio.sleep(0)
    assert stats.round_trips == sent


async def test_a_backend_that_overrides_read_is_called_for_every_read(can: Artist, redis_url: str) -> None:
    class Watching(RedisBackend):
        async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
            seen.append(len(keys))
            return await super().read(keys)

    class WatchingCount(CountingBackend):
        async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
            seen.append(len(keys))
            return await super().read(keys)

    for backend in (Watching(redis_url), WatchingCount(RedisBackend(redis_url))):
        seen: list[int] = []
        await backend.open()
        async with ModelCache(backend):
            for _ in range(2):
                assert (await Album.cache.get(id=1)).id == 1
        await backend.close()
        assert seen == [2, 2]


async def test_many_lookups_are_answered_in_slices_and_their_next_lookups_share_a_read(
    cache: ModelCache, store: StartReadStore
) -> None:
    await Album.cache.get_many([1, 2, 3])
    turns: list[int] = [0]
    answered: list[int] = []

    def count() -> None:
        turns[0] += 1
        counting[0] = asyncio.get_running_loop().call_soon(count)

    async def look_up_twice(n: int) -> None:
        assert (await Album.cache.get(id=n)).id == n
        answered.append(turns[0])
        assert (await Album.cache.get(id=n % 3 + 1)).id == n % 3 + 1

    counting = [asyncio.get_running_loop().call_soon(count)]
    async with assert_ops(redis=["read"] * 2, sql=0), asyncio.timeout(PATIENCE):
        await asyncio.gather(*[look_up_twice(n % 3 + 1) for n in range(200)])
    counting[0].cancel()
    slices = [answered.count(turn) for turn in sorted(set(answered))]
    assert slices == [SLICE_SIZE] * (200 // SLICE_SIZE) + [200 % SLICE_SIZE]


async def test_callers_drop_their_lists_before_others_are_made(can: Artist, store: StartReadStore) -> None:
    await Artist.bulk_create([Artist(name=f"artist {n}", rank=2) for n in range(50)])
    most = 0

    def number_of_artists() -> int:
        return sum(type(each) is Artist for each in gc.get_objects())

    async def look_up() -> None:
        nonlocal most
        assert len(await Artist.cache.filter(rank=2)) == 50
        most = max(most, number_of_artists())

    async with ModelCache(store):
        for number in (1, 1, 20):
            gc.collect()
            most, before = 0, number_of_artists()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*[look_up() for _ in range(number)])
            more = most - before
    assert more <= ROWS_IN_SLICE, "each instance is several objects for the garbage collector"


async def test_a_batch_of_lists_is_answered_in_slices(cache: ModelCache) -> None:
    await Artist.bulk_create([Artist(name=f"artist {n}", rank=2) for n in range(50)])
    for _ in range(2):
        found = await BatchCacheQuery({n: Artist.cache.filter(rank=2) for n in range(5)})
    assert [len(artists) for artists in found.values()] == [50] * 5


async def test_closing_waits_for_all_slices(can: Artist, store: StartReadStore) -> None:
    async with ModelCache(store):
        await Album.cache.get_many([1, 2, 3])
        asked = [asyncio.create_task(Album.cache.get(id=n % 3 + 1).resolve()) for n in range(200)]
        async with asyncio.timeout(PATIENCE):
            await asked[0]
        assert not asked[-1].done()
    assert [task.result().id for task in asked] == [n % 3 + 1 for n in range(200)]


async def test_an_error_in_a_slice_is_raised_in_every_lookup_that_is_not_answered(
    cache: ModelCache, store: StartReadStore
) -> None:
    """The error stands for an unexpected one in the code of a lookup."""

    async def look_up(n: int) -> int:
        return (await Album.cache.get(id=n % 3 + 1)).id

    await Album.cache.get_many([1, 2, 3])
    slices = 0
    deliver = cache.open_cache.reader.hits._deliver

    def failing(*args: Any) -> int:
        nonlocal slices
        slices += 1
        if slices == 4:
            raise RuntimeError("oops")
        return deliver(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache.open_cache.reader.hits, "_deliver", failing)
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*map(look_up, range(200)), return_exceptions=True)
    answered = 3 * SLICE_SIZE
    assert results[:answered] == [n % 3 + 1 for n in range(answered)]
    assert {str(result) for result in results[answered:]} == {"oops"}
    assert [await look_up(n) for n in range(3)] == [1, 2, 3], "later reads must work"
    assert cache.open_cache.tasks._scheduled == 0
