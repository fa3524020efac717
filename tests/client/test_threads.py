"""Event loops in several threads, each with a cache of its own, and loops that end without closing theirs."""

import asyncio
import gc
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    CacheNotOpen,
    CacheWriteError,
    MemoryBackend,
    ModelCache,
    RedisBackend,
)
from aiomodelcache.engine import own_loop
from aiomodelcache.orm.statements import returning
from aiomodelcache.write import bulk_queries
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.gates import PATIENCE, GatedBackend
from tests.support.models.models import Event, LatestEvents, User
from tests.support.models.tagged_models import Post, Tag
from tests.support.second_loop import SecondLoop, second_loop

MODULES = ("tests.support.models.models", "tests.support.models.tagged_models")
pytestmark = [
    pytest.mark.models(*MODULES),
    pytest.mark.only_on("sqlite", because="threads share no connection to a database"),
    pytest.mark.slow(because="starts threads, and waits for idle ones"),
]

T = TypeVar("T")

ELSEWHERE = (
    "This cache was opened in another event loop: open a ModelCache in each loop that uses the cache, "
    "and close it there."
)


@pytest.fixture
async def second(database: BaseDBAsyncClient, db_url: DatabaseUrl) -> AsyncIterator[SecondLoop]:
    """A second thread with an event loop and Tortoise, but no cache yet."""
    async with second_loop(db_url, *MODULES) as running:
        yield running


@pytest.fixture(params=["the same", "another namespace", "other settings"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of the second thread's cache."""
    return {"the same": {}, "another namespace": {"namespace": "b"}, "other settings": {"timeout": 77}}[request.param]


@pytest.fixture
async def theirs(second: SecondLoop, backend_url: str, settings: dict[str, Any]) -> AsyncIterator[ModelCache]:
    """The cache of the second thread."""
    cache = ModelCache(backend_url, **settings)
    await second.give(cache.open)
    yield cache
    await second.give(cache.close)


@pytest.fixture
async def ours(theirs: ModelCache, backend_url: str) -> AsyncIterator[ModelCache]:
    """The cache of the test's own thread, opened after the other one."""
    async with ModelCache(backend_url) as cache:
        yield cache


# Writes, each of which changes every answer of `answers` -------------------------------------------------


async def save() -> None:
    event, post = await Event.get(id=1), await Post.get(id=1)
    event.title, event.position = "saved", 9
    await event.save()
    post.title = "saved"
    await post.save(update_fields=["title"])
    await post.tags.add(await Tag.get(id=2))


async def save_in_a_transaction() -> None:
    async with in_transaction():
        await save()


async def update() -> None:
    await Event.filter(id=1).update(title="updated", position=F("position") + 4)
    await Post.filter(id=1).update(title="updated")
    await (await Post.get(id=1)).tags.clear()


async def write_in_bulk() -> None:
    await Event.bulk_create([Event(id=n, slug=f"e{n}", title=f"e{n}", organizer_id=1, position=n) for n in (5, 6)])
    event, post = await Event.get(id=1), await Post.get(id=1)
    event.title, post.title = "bulk", "bulk"
    await Event.bulk_update([event], ["title"])
    await Post.bulk_update([post], ["title"])
    await post.tags.remove(await Tag.get(id=1))


async def delete() -> None:
    await (await User.get(id=1)).delete()  # and its events
    await Post.filter(id=1).delete()


WRITES = [save, save_in_a_transaction, update, write_in_bulk, delete]


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    await User.create(id=1, username="kim")
    await Event.create(id=1, slug="pycon", title="pycon", organizer_id=1)
    post = await Post.create(id=1, title="news")
    await post.tags.add(await Tag.create(id=1), await Tag.create(id=3))
    await Tag.create(id=2)


async def answers() -> list[Any]:
    """Returns what the cache of the running loop says about everything that writes change."""
    event, post = await Event.cache.get_or_none(slug="pycon"), await Post.cache.get_or_none(id=1)
    return [
        event and (event.title, event.position),
        [found.id for found in await Event.cache.filter(organizer=1)],
        [found.title for found in await LatestEvents(organizer=1)],
        post and post.title,
        sorted([tag.id for tag in await post.tags]) if post else None,
    ]


async def truth() -> list[Any]:
    """Returns the same from the database."""
    event, post = await Event.get_or_none(slug="pycon"), await Post.get_or_none(id=1).prefetch_related("tags")
    events = await Event.filter(organizer=1)
    latest = await Event.filter(organizer=1).order_by("-position").limit(3)
    return [
        event and (event.title, event.position),
        [found.id for found in events],
        [found.title for found in latest],
        post and post.title,
        sorted([tag.id for tag in post.tags]) if post else None,
    ]


class TestTwoThreads:
    @pytest.mark.exhaustive(because="every way of writing, in either thread")
    @pytest.mark.parametrize("write", WRITES)
    async def test_both_see_each_write_of_either(
        self, rows: None, second: SecondLoop, ours: ModelCache, theirs: ModelCache, write: Callable[[], Awaitable[None]]
    ) -> None:
        for _ in range(2):
            assert await answers() == await second.give(answers) == await truth()
        assert hits(ours) > 3
        assert hits(theirs) > 3

        await write()
        assert await second.give(answers) == await answers() == await truth()
        assert await second.give(answers) == await answers() == await truth()

        await second.give(add_post)
        await second.give(rename)
        assert await answers() == await second.give(answers) == await truth()
        for cache in (ours, theirs):
            assert cache.stats.undelivered == cache.stats.unknown_outcomes == cache.stats.backend_errors == 0

    async def test_each_loop_has_a_default_cache(
        self, rows: None, second: SecondLoop, ours: ModelCache, theirs: ModelCache
    ) -> None:
        await User.cache.get(id=1)
        await second.give(lambda: User.cache.get(id=1))
        await second.give(lambda: BatchCacheQuery(user=User.cache.get(username="kim")).get())
        assert [User.cache.get(id=1).open_cache()] == [ours.open_cache]
        asked = [
            sum(counters.hits + counters.misses for counters in cache.stats.by_cache.values())
            for cache in (ours, theirs)
        ]
        assert asked == [1, 2]

    async def test_a_query_is_answered_by_the_loop_that_awaits_it(
        self, rows: None, second: SecondLoop, ours: ModelCache, theirs: ModelCache
    ) -> None:
        query = User.cache.get(id=1)

        async def ask() -> User:
            return await query

        assert await query == await second.give(ask) == await User.get(id=1)

    async def test_a_cache_that_opens_during_a_bulk_write_is_invalidated_too(
        self, rows: None, second: SecondLoop, backend_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = ModelCache(backend_url, namespace="b")

        async def opening(*args: Any) -> Any:
            await second.give(cache.open)
            await second.give(look_up)
            return await returning(*args)

        async def look_up() -> str:
            return (await Event.cache.get(slug="pycon")).title

        monkeypatch.setattr(bulk_queries, "returning", opening)
        async with ModelCache(backend_url):
            await Event.filter(id=1).update(title="updated")
            assert await second.give(look_up) == "updated"
            await second.give(cache.close)

    async def test_the_other_loop_keeps_its_default_when_this_one_closes(
        self, rows: None, second: SecondLoop, backend_url: str, theirs: ModelCache
    ) -> None:
        async with ModelCache(backend_url):
            await second.give(answers)
        assert await second.give(answers) == await truth()
        async with ModelCache(backend_url):
            assert await second.give(answers) == await answers()
        with pytest.raises(CacheNotOpen):
            await User.cache.get(id=1)


async def rename() -> None:
    await User.filter(id=1).update(username="kim2")
    await Event.filter(id=1).update(title="renamed")


async def add_post() -> None:
    post, _ = await Post.get_or_create(id=1, defaults={"title": "again"})
    await post.tags.add(await Tag.get(id=3))


class Blocked:
    """Keeps a loop from running anything: a callback that waits for another thread."""

    def __init__(self, second: SecondLoop) -> None:
        self._second = second
        self._blocked, self._released = threading.Event(), threading.Event()

    async def __aenter__(self) -> None:
        self._second.loop.call_soon_threadsafe(self._block)
        await asyncio.to_thread(self._blocked.wait, PATIENCE)

    def _block(self) -> None:
        self._blocked.set()
        assert self._released.wait(PATIENCE)

    async def __aexit__(self, *_: object) -> None:
        self._released.set()


class TestBlockedLoops:
    @pytest.mark.only_on("redis", because="each thread has a store of its own in memory")
    @pytest.mark.parametrize("settings", [{}])
    async def test_a_write_does_not_wait_for_a_loop_whose_store_it_shares(
        self, rows: None, second: SecondLoop, ours: ModelCache, theirs: ModelCache
    ) -> None:
        await second.give(answers)
        async with Blocked(second):
            round_trips = theirs.stats.round_trips
            await asyncio.wait_for(save(), PATIENCE)
            asked = second.give(answers)
        assert await asked == await truth()
        assert ours.stats.undelivered == theirs.stats.undelivered == 0
        assert theirs.stats.round_trips > round_trips  # the lookups, and only now

    @pytest.mark.parametrize("settings", [{"namespace": "b"}])
    @pytest.mark.parametrize("write", WRITES)
    async def test_a_loop_that_does_not_answer_in_time_reads_no_old_rows_afterwards(
        self,
        rows: None,
        second: SecondLoop,
        ours: ModelCache,
        theirs: ModelCache,
        write: Callable[[], Awaitable[None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(own_loop, "ANSWER_LIMIT", 0.05)
        for _ in range(2):
            await second.give(answers)
        async with Blocked(second):
            await write()
            asked = second.give(answers)
        assert await asked == await truth()
        await delivered(theirs)
        assert theirs.stats.undelivered > 0
        assert await second.give(answers) == await answers() == await truth()
        hit = hits(theirs)
        assert await second.give(answers) == await truth()
        assert hits(theirs) > hit

    @pytest.mark.parametrize("settings", [{"namespace": "b"}])
    async def test_only_the_first_write_waits(
        self,
        rows: None,
        second: SecondLoop,
        ours: ModelCache,
        theirs: ModelCache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(own_loop, "ANSWER_LIMIT", 0.3)
        await second.give(answers)
        async with Blocked(second):
            await rename()
            began = time.monotonic()
            for _ in range(5):
                await save()
            assert time.monotonic() - began < 0.3 * 5
            asked = second.give(answers)
        assert await asked == await truth()
        await delivered(theirs)

    @pytest.mark.parametrize("settings", [{"namespace": "b", "on_write_error": "raise"}])
    async def test_with_raise_the_write_is_refused(
        self,
        rows: None,
        second: SecondLoop,
        ours: ModelCache,
        theirs: ModelCache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(own_loop, "ANSWER_LIMIT", 0.05)
        before = await second.give(answers)
        async with Blocked(second):
            message = (
                r"could not be sent to the cache: The event loop that opened the cache did not answer within 0.05 s"
            )
            with pytest.raises(CacheWriteError, match=message):
                await save()
        assert await truth() == await second.give(answers) == await answers() == before

    @pytest.mark.parametrize("settings", [{"namespace": "b"}])
    async def test_a_cancelled_write_withdraws_its_intent_in_the_other_loop(
        self, rows: None, second: SecondLoop, ours: ModelCache, theirs: ModelCache
    ) -> None:
        await second.give(answers)
        async with Blocked(second):
            saving = asyncio.create_task(rename())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert await second.give(answers) == await truth()
        hit = hits(theirs)
        assert await second.give(answers) == await truth()
        assert hits(theirs) > hit


def hits(cache: ModelCache) -> int:
    """Returns the number of lookups that a cache has answered."""
    return sum(counters.hits for counters in cache.stats.by_cache.values())


async def test_closing_leaves_the_tasks_of_other_loops_alone(rows: None, second: SecondLoop, backend_url: str) -> None:
    async def made() -> tuple[GatedBackend, ModelCache]:
        store = GatedBackend(MemoryBackend())
        return store, await ModelCache(store).open()

    store, cache = await second.give(made)
    async with ModelCache(backend_url):
        gate = store.hold("clear")
        renaming = asyncio.create_task(rename())
        await second.give(gate.reached)
        closing = second.give(cache.close)
        second.loop.call_soon_threadsafe(gate.open)
        await closing
        await renaming


async def delivered(cache: ModelCache) -> None:
    """Waits until a cache has no undelivered invalidation."""
    async with asyncio.timeout(PATIENCE):
        while cache.open_cache.guarded.has_undelivered:
            await asyncio.sleep(0.01)


@pytest.mark.slow(because="writes and reads a hundred times")
@pytest.mark.parametrize(
    ("settings", "stalls"),
    [({}, 0.0), ({"namespace": "b"}, 0.0), ({"namespace": "b"}, 0.01)],
    ids=["one store", "two stores", "stalling"],
)
async def test_no_answer_is_older_than_the_last_acknowledged_write(
    rows: None,
    second: SecondLoop,
    ours: ModelCache,
    theirs: ModelCache,
    stalls: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread counts in a row, both read it all the time, and each knows how far the count was before it asked.

    The second loop stalls for longer than a write waits for it, or not at all.
    """
    monkeypatch.setattr(own_loop, "ANSWER_LIMIT", stalls / 2 or PATIENCE)
    acknowledged, running = [0], [True]
    violations: list[tuple[int, int]] = []
    reads = [0, 0]

    async def read(who: int) -> None:
        while running[0]:
            known = acknowledged[0]
            seen = (await Event.cache.get(slug="pycon")).position
            listed = (await Event.cache.filter(organizer=1))[0].position
            violations.extend((known, answer) for answer in (seen, listed) if answer < known)
            reads[who] += 1
            if who and reads[who] % 5 == 0:
                second.loop.call_soon(time.sleep, stalls)
            await asyncio.sleep(0)

    other, own = second.give(lambda: read(1)), asyncio.create_task(read(0))
    event = await Event.get(id=1)
    for number in range(1, 101):
        if number % 3:
            event.position = number
            await event.save()
        else:
            await Event.filter(id=1).update(position=number)
        acknowledged[0] = number
    running[0] = False
    await asyncio.gather(own, other)
    assert violations == []
    assert min(reads) > 10


class TestWithoutACache:
    async def test_lookups_are_refused_and_writes_invalidate_in_the_cache_of_the_other_loop(
        self, rows: None, second: SecondLoop, backend_url: str
    ) -> None:
        async def look_up() -> None:
            for lookup in (User.cache.get(id=1), BatchCacheQuery(a=User.cache.get(id=1)), User.cache.clear()):
                with pytest.raises(CacheNotOpen, match=f"^{re.escape(ELSEWHERE)}$"):
                    await lookup

        async with ModelCache(backend_url) as cache:
            await second.give(look_up)
            for write in (save, update):
                await answers()
                await second.give(write)
                assert await answers() == await truth()
            assert cache.stats.undelivered == 0

    async def test_closing_in_another_loop_is_refused(self, second: SecondLoop, backend_url: str) -> None:
        async with ModelCache(backend_url) as cache:
            with pytest.raises(CacheNotOpen, match=f"^{re.escape(ELSEWHERE)}$"):
                await second.give(cache.close)
            assert await User.cache.get_or_none(id=1) is None

    async def test_a_backend_cannot_serve_two_loops(self, second: SecondLoop, backend_url: str) -> None:
        store = MemoryBackend() if backend_url == "memory://" else RedisBackend(backend_url)
        message = re.escape(
            f"ModelCache: a cache of another event loop uses {store!r}: pass a URL, or a backend for each loop."
        )
        await store.open()
        async with ModelCache(store):
            with pytest.raises(CacheConfigurationError, match=message):
                await second.give(ModelCache(store).open)
        await store.close()


class IdleLoop:
    """A loop that runs only while the test waits for it, with Tortoise and a cache of its own."""

    def __init__(self, database: DatabaseUrl) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._database = database

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await work()

        return await asyncio.to_thread(lambda: self._runner.run(call()))

    async def open(self, cache: ModelCache) -> None:
        async def opened() -> None:
            await self._stack.enter_async_context(tortoise_on(self._database, *MODULES, create=False))
            await self._stack.enter_async_context(cache)

        await self.run(opened)

    async def close(self) -> None:
        await self.run(self._stack.aclose)
        await asyncio.to_thread(self._runner.close)


class TestLoopsInTurn:
    @pytest.mark.parametrize("namespace", ["", "b"])
    @pytest.mark.parametrize("write", WRITES)
    async def test_a_loop_that_stood_still_reads_no_old_rows_afterwards(
        self, rows: None, db_url: DatabaseUrl, backend_url: str, namespace: str, write: Callable[[], Awaitable[None]]
    ) -> None:
        idle, cache = IdleLoop(db_url), ModelCache(backend_url, namespace=namespace)
        await idle.open(cache)
        async with ModelCache(backend_url):
            for _ in range(2):
                assert await idle.run(answers) == await answers()
            await write()
            await rename()
            assert await idle.run(answers) == await answers() == await truth()
            await idle.run(lambda: delivered(cache))
            assert await idle.run(answers) == await truth()
            hit = hits(cache)
            assert await idle.run(answers) == await truth()
            assert hits(cache) > hit
        await idle.close()

    async def test_a_loop_that_never_runs_again_costs_no_memory(
        self, rows: None, db_url: DatabaseUrl, backend_url: str
    ) -> None:
        idle, cache = IdleLoop(db_url), ModelCache(backend_url, namespace="b", undelivered_limit=20)
        await idle.open(cache)
        async with ModelCache(backend_url):
            for _ in range(30):
                await save()
            writer = cache.open_cache.writer
            assert len(writer._undelivered) < 20
            assert await idle.run(answers) == await truth()
        await idle.run(lambda: delivered(cache))
        await idle.close()

    async def test_a_refusal_names_the_loop_that_does_not_run(
        self, rows: None, db_url: DatabaseUrl, backend_url: str
    ) -> None:
        idle, cache = IdleLoop(db_url), ModelCache(backend_url, namespace="b", on_write_error="raise")
        await idle.open(cache)
        with pytest.raises(CacheWriteError, match="is not running: close the cache in that loop"):
            await rename()
        await idle.close()
        await rename()

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning")
    @pytest.mark.parametrize("same", [True, False], ids=["the same object", "another object"])
    async def test_a_cache_that_an_ended_loop_left_open_is_replaced(
        self, rows: None, db_url: DatabaseUrl, backend_url: str, same: bool
    ) -> None:
        await self.replace_a_cache_left_open(db_url, backend_url, same=same)
        gc.collect()  # here, where its connections may be unclosed

    async def replace_a_cache_left_open(self, db_url: DatabaseUrl, backend_url: str, *, same: bool) -> None:
        first = ModelCache(backend_url)
        second = first if same else ModelCache(backend_url)

        async def leave_open() -> None:
            async with tortoise_on(db_url, *MODULES, create=False):
                await first.open()
                assert await answers() == await truth()

        async def look_up() -> None:
            async with tortoise_on(db_url, *MODULES, create=False):
                with pytest.raises(CacheNotOpen, match=f"^{re.escape(ELSEWHERE)}$"):
                    await User.cache.get(id=1)
                await User.filter(id=1).update(team=0)  # and no write fails
                async with second:
                    await rename()
                    for _ in range(2):
                        assert await answers() == await truth()
                    assert hits(second) > 0
                await first.close()

        await asyncio.to_thread(asyncio.run, leave_open())
        await asyncio.to_thread(asyncio.run, look_up())
