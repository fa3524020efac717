"""Observers that fail, wrong ones, several of them, and caches in other threads and of other namespaces."""

import asyncio
import cProfile
import logging
import pstats
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, CacheConfigurationError, ModelCache
from aiomodelcache.observe import Fill, Lookup, Note, Observer, Operation, RoundTrip, Statement, Write
from aiomodelcache.testing import CountingBackend
from tests.observe.recorder import Recorder, request
from tests.support.databases import DatabaseUrl
from tests.support.instructions import instructions
from tests.support.models.models import Event, User
from tests.support.second_loop import SecondLoop, second_loop

pytestmark = pytest.mark.only_on("sqlite", because="observers are told the same of every database")


class Broken(Observer):
    """Raises in every method."""

    def begin(self, operation: Operation) -> None:
        raise ValueError(f"pycon at {operation}")

    def end(self, operation: Operation) -> None:
        raise ZeroDivisionError("pycon")

    def note(self, note: Note) -> None:
        raise LookupError("pycon")


async def test_an_observer_that_raises_is_counted_and_logged_once_and_hurts_nobody(
    database: BaseDBAsyncClient, backend: CountingBackend, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async with ModelCache(backend, observers=[Broken(), recorder]) as cache:
        user = await User.create(username="pycon")
        for _ in range(3):
            assert await User.cache.get(id=user.id) == user
        await BatchCacheQuery(user=User.cache.get(username="pycon"))
        expected = len(recorder.begun) + len(recorder.ended) + len(recorder.notes)
        assert cache.stats.observer_errors == expected
        assert len(recorder.operations(Lookup)) == 4
        assert recorder.noted(Write)
        assert recorder.noted(Fill)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(line.split(" at ")[0] for line in lines) == [
        "aiomodelcache: an observer failed: Broken.begin: ValueError",
        "aiomodelcache: an observer failed: Broken.end: ZeroDivisionError",
        "aiomodelcache: an observer failed: Broken.note: LookupError",
    ]
    assert not any("pycon" in line for line in lines)


@pytest.mark.only_on("memory", because="the settings are checked before the store is used")
@pytest.mark.parametrize("wrong", [Recorder, [Recorder], "observer", [print], 7], ids=repr)
async def test_what_is_no_observer_is_refused(database: BaseDBAsyncClient, wrong: Any) -> None:
    with pytest.raises(CacheConfigurationError, match=r"observers is .*: it must be a list of instances of aiomodelc"):
        ModelCache("memory://", observers=wrong)


async def test_a_second_cache_tells_its_own_observers(
    cache: ModelCache, event: Event, recorder: Recorder, backend: CountingBackend
) -> None:
    other = Recorder()
    async with ModelCache(backend, namespace="b", observers=[other]) as second:
        await second.manager(Event).get(id=event.id)
        await Event.cache.get(slug="pycon")
        assert other.lookups() == [("Event", "miss")]
        assert recorder.lookups() == [("Event(slug)", "miss")]
        event.title = "new"
        await event.save()
        assert [note.stage for note in recorder.noted(Write)] == ["announced", "cleared"]
        assert [note.stage for note in other.noted(Write)] == ["announced", "cleared"]


@pytest.fixture
async def second(database: BaseDBAsyncClient, db_url: DatabaseUrl) -> AsyncIterator[SecondLoop]:
    """A second thread with an event loop and Tortoise, but no cache."""
    async with second_loop(db_url, "tests.support.models.models") as running:
        yield running


@pytest.mark.slow(because="starts a thread")
async def test_a_write_of_another_thread_has_its_context(event: Event, recorder: Recorder, second: SecondLoop) -> None:
    async def write() -> None:
        request.set("another thread")
        await Event.filter(id=event.id).update(title="new")

    await second.give(write)
    assert [note.stage for note in recorder.noted(Write)] == ["announced", "cleared"]
    for note in recorder.noted(Write):
        assert recorder.requests[note] == ["another thread"]
    [mark, clear] = recorder.operations(RoundTrip)
    assert (mark.command, clear.command) == ("mark", "clear")
    assert clear.context[request] == "another thread"


# Costs -----------------------------------------------------------------------------------------------------


async def profile(work: Callable[[], Any]) -> dict[tuple[str, str], int]:
    """Returns the numbers of calls that 20 runs make, by the file and name of the functions of this package."""
    await work()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(20):
        await work()
    profiler.disable()
    counts: dict[tuple[str, str], int] = {}
    for (file, _, name), (calls, *_) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if "/aiomodelcache/" in file:
            place = file.partition("/aiomodelcache/")[2], name
            counts[place] = counts.get(place, 0) + calls
    return counts


async def test_a_hit_without_observers_calls_nothing_of_theirs(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend):
        user = await User.create(username="kim")

        async def hit() -> None:
            await User.cache.get(id=user.id)
            await asyncio.gather(User.cache.get(username="kim"), User.cache.filter(team=0))
            await BatchCacheQuery(user=User.cache.get(id=user.id), others=User.cache.exists(team=0))

        await hit()
        await hit()
        calls = await profile(hit)
        assert calls["query/base.py", "__await__"] == 60
        assert [place for place in calls if place[0].startswith("observe/") or "observ" in place[1]] == []
        assert [place for place in calls if place[0] == "engine/observing.py"] == []


OF_OBSERVERS = "observ|lookup_event|operation"
"""A pattern of lines about observers."""


async def test_observers_cost_a_hundredth_of_a_hit_if_there_are_none(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    """If there is one that does nothing, a hit takes much more: that is why the counters are no observer."""
    async with ModelCache(backend_url):
        user = await User.create(username="kim")
        everything, theirs = await instructions(lambda: User.cache.get(id=user.id).resolve(), OF_OBSERVERS)
    assert 0 < theirs < everything / 100
    async with ModelCache(backend_url, observers=[Observer()]):
        observed, _ = await instructions(lambda: User.cache.get(id=user.id).resolve(), OF_OBSERVERS)
    assert observed > everything * 1.05
    print(f"{everything / 20:.0f} instructions, {theirs / 20:.0f} for observers, {observed / 20:.0f} with one")


async def test_an_observer_of_one_method_is_called_by_that_alone(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    class Statements(Observer):
        def __init__(self) -> None:
            self.models: list[str] = []

        def end(self, operation: Operation) -> None:
            if isinstance(operation, Statement):
                self.models.append(operation.model)

    statements = Statements()
    async with ModelCache(backend, observers=[statements]):
        user = await User.create(username="kim")
        calls = await profile(User.cache.get(id=user.id).resolve)
    assert statements.models == ["User"]
    assert ("observe/events.py", "begin") not in calls
    assert ("observe/events.py", "note") not in calls
