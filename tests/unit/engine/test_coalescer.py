"""``Coalescer``: items added during a batch form the next batch, and wait no longer than they must."""

import asyncio
import time
from contextvars import copy_context
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheError, ModelCache
from aiomodelcache.engine import batching
from aiomodelcache.engine.batching import Coalescer
from aiomodelcache.engine.tasks import BackgroundTasks
from tests.support.gates import PATIENCE, gated_sql, until
from tests.support.models.music import Album, AlbumById, Artist, NewestAlbums

pytestmark = pytest.mark.only_on("sqlite", because="no statement differs in it")


class Work:
    """Batches in progress, each until the test ends it."""

    def __init__(self) -> None:
        self.tasks = BackgroundTasks(copy_context())
        self.coalescer: Coalescer[str, int] = Coalescer(self._do, self.tasks)
        self.begun: list[tuple[str, list[int]]] = []
        self._open: dict[int, asyncio.Event] = {}

    async def _do(self, key: str, items: list[int]) -> None:
        self.begun.append((key, items))
        event = self._open[len(self.begun)] = asyncio.Event()
        async with asyncio.timeout(PATIENCE):
            await event.wait()

    async def end(self, number: int) -> None:
        self._open[number].set()
        await run_ready_tasks()


async def run_ready_tasks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def no_batch_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", PATIENCE)


@pytest.mark.usefixtures("no_batch_timeout")
async def test_items_added_during_a_batch_form_the_next_batch() -> None:
    work = Work()
    for number in (1, 2, 3):
        work.coalescer.add("a", [number, -number])
        await run_ready_tasks()
    work.coalescer.add("b", [4])
    await run_ready_tasks()
    assert work.begun == [("a", [1, -1]), ("b", [4])]
    await work.end(1)
    assert work.begun[2:] == [("a", [2, -2, 3, -3])]
    await work.end(2)
    await work.end(3)
    assert not work.tasks._running
    work.coalescer.add("a", [5])
    await run_ready_tasks()
    assert work.begun[3:] == [("a", [5])]
    await work.end(4)
    assert not work.coalescer._waiting


async def test_items_do_not_wait_long_for_a_slow_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", 0.01)
    work = Work()
    work.coalescer.add("a", [1])
    await run_ready_tasks()
    work.coalescer.add("a", [2])
    work.coalescer.add("a", [3])
    began = time.monotonic()
    assert len(work.begun) == 1
    await until(lambda: len(work.begun) == 2)
    work.coalescer.add("a", [4])
    await until(lambda: len(work.begun) == 3)
    assert time.monotonic() - began < PATIENCE / 5
    assert work.begun == [("a", [1]), ("a", [2, 3]), ("a", [4])]
    for number in (1, 2, 3):
        await work.end(number)
    assert [items for _, items in work.begun] == [[1], [2, 3], [4]], "none is handed over twice"
    assert not work.tasks._running
    assert not work.coalescer._waiting


@pytest.mark.usefixtures("no_batch_timeout")
@pytest.mark.parametrize("ended", [False, True], ids=["alone", "with all tasks"])
async def test_items_behind_a_cancelled_batch_are_handed_over(ended: bool) -> None:
    work = Work()
    work.coalescer.add("a", [1])
    await run_ready_tasks()
    work.coalescer.add("a", [2])
    if ended:
        await work.tasks.finish(0)
    else:
        [task] = work.tasks._running
        task.cancel()
    await run_ready_tasks()
    assert [items for _, items in work.begun] == ([[1]] if ended else [[1], [2]])
    assert bool(work.tasks._running) is not ended
    if not ended:
        await work.end(2)
    assert not work.coalescer._waiting


async def test_no_item_is_handed_over_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", 0.01)
    work = Work()
    work.coalescer.add("a", [1])
    await run_ready_tasks()
    work.coalescer.add("a", [2])
    await work.end(1)
    work.coalescer.add("a", [3])
    await work.end(2)
    assert work.begun == [("a", [1]), ("a", [2]), ("a", [3])]
    await asyncio.sleep(0.05)
    assert len(work.begun) == 3
    await work.end(3)


# Statements ------------------------------------------------------------------------------------------


@pytest.mark.models("tests.support.models.music")
async def test_a_cancelled_statement_fails_its_lookups(
    cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may cancel a statement when it loses its connection."""
    artist = await Artist.create(name="Can")
    await Album.create(barcode=1, artist=artist)

    async def cancelled(*args: Any) -> Any:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(database, "execute_query", cancelled)
        lookups = [asyncio.create_task(Album.cache.get(id=number).resolve()) for number in (1, 2)]
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*lookups, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CacheError}
    async with asyncio.timeout(PATIENCE):
        assert (await Album.cache.get(id=1)).barcode == 1


@pytest.mark.models("tests.support.models.music")
@pytest.mark.usefixtures("no_batch_timeout")
@pytest.mark.parametrize(("cache_class", "waits"), [(AlbumById, True), (NewestAlbums, False)], ids=["rows", "limited"])
async def test_loads_that_can_share_a_statement_wait_for_the_one_in_flight(
    cache: ModelCache, database: BaseDBAsyncClient, cache_class: Any, waits: bool
) -> None:
    """A statement with a limit returns the rows of one value only, so it does not wait."""
    for number in range(1, 5):
        artist = await Artist.create(id=number, name=f"artist {number}")
        await Album.create(id=number, barcode=number, artist=artist)
    before = cache.stats.statements
    with gated_sql(database) as sql:
        gate = sql.hold("SELECT")
        lookups = [asyncio.create_task(cache_class(1).resolve())]
        await gate.reached()
        waiting: dict[Any, list[Any]] = cache.open_cache.reader._statements.coalescer._waiting
        for number in (2, 3, 4):
            lookups.append(asyncio.create_task(cache_class(number).resolve()))
            await until(lambda: sum(map(len, waiting.values())) + cache.stats.statements - before == len(lookups))
        assert cache.stats.statements - before == (1 if waits else 4)
        gate.open()
        found = await asyncio.gather(*lookups)
    assert [row.id for row in (rows[0] if isinstance(rows, list) else rows for rows in found)] == [1, 2, 3, 4]
    assert cache.stats.statements - before == (2 if waits else 4)
