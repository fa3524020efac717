"""What comes while something is under way goes together, and waits no longer than it must."""

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheError, ModelCache
from aiomodelcache.engine import batching
from aiomodelcache.engine.batching import Coalescer
from aiomodelcache.engine.tasks import BackgroundTasks
from tests.support.gates import PATIENCE, gated_sql
from tests.support.models.music import Album, AlbumById, Artist, NewestAlbums

pytestmark = pytest.mark.only_on("sqlite", because="no statement differs in it")


class Work:
    """Batches under way, each until it is let go."""

    def __init__(self) -> None:
        self.tasks = BackgroundTasks(copy_context())
        self.turns: Coalescer[str, int] = Coalescer(self._do, self.tasks)
        self.begun: list[tuple[str, list[int]]] = []
        self._open: dict[int, asyncio.Event] = {}

    async def _do(self, key: str, items: list[int]) -> None:
        self.begun.append((key, items))
        event = self._open[len(self.begun)] = asyncio.Event()
        async with asyncio.timeout(PATIENCE):
            await event.wait()

    async def end(self, number: int) -> None:
        self._open[number].set()
        await turn()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def never_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", PATIENCE)


@pytest.mark.usefixtures("never_impatient")
async def test_what_comes_meanwhile_goes_together() -> None:
    work = Work()
    for number in (1, 2, 3):
        work.turns.add("a", [number, -number])
        await turn()
    work.turns.add("b", [4])
    await turn()
    assert work.begun == [("a", [1, -1]), ("b", [4])]
    await work.end(1)
    assert work.begun[2:] == [("a", [2, -2, 3, -3])]
    await work.end(2)
    await work.end(3)
    assert not work.tasks._running
    work.turns.add("a", [5])
    await turn()
    assert work.begun[3:] == [("a", [5])]
    await work.end(4)
    assert not work.turns._waiting


async def test_nothing_waits_long_for_what_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", 0.01)
    work = Work()
    work.turns.add("a", [1])
    await turn()
    work.turns.add("a", [2])
    work.turns.add("a", [3])
    began = time.monotonic()
    assert len(work.begun) == 1
    await until(lambda: len(work.begun) == 2)
    work.turns.add("a", [4])
    await until(lambda: len(work.begun) == 3)
    assert time.monotonic() - began < PATIENCE / 5
    assert work.begun == [("a", [1]), ("a", [2, 3]), ("a", [4])]
    for number in (1, 2, 3):
        await work.end(number)
    assert [items for _, items in work.begun] == [[1], [2, 3], [4]], "none is handed over twice"
    assert not work.tasks._running
    assert not work.turns._waiting


@pytest.mark.usefixtures("never_impatient")
@pytest.mark.parametrize("ended", [False, True], ids=["by itself", "because all is"])
async def test_what_waits_for_what_is_cancelled_goes_on(ended: bool) -> None:
    work = Work()
    work.turns.add("a", [1])
    await turn()
    work.turns.add("a", [2])
    if ended:
        await work.tasks.finish(0)
    else:
        [task] = work.tasks._running
        task.cancel()
    await turn()
    assert [items for _, items in work.begun] == ([[1]] if ended else [[1], [2]])
    assert bool(work.tasks._running) is not ended
    if not ended:
        await work.end(2)
    assert not work.turns._waiting


async def test_what_has_had_its_turn_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_WAIT", 0.01)
    work = Work()
    work.turns.add("a", [1])
    await turn()
    work.turns.add("a", [2])
    await work.end(1)
    work.turns.add("a", [3])
    await work.end(2)
    assert work.begun == [("a", [1]), ("a", [2]), ("a", [3])]
    await asyncio.sleep(0.05)
    assert len(work.begun) == 3
    await work.end(3)


# Statements ------------------------------------------------------------------------------------------


@pytest.mark.models("tests.support.models.music")
async def test_a_statement_that_is_cancelled_keeps_nobody_waiting(
    cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may do so, when it loses its connection in the middle."""
    artist = await Artist.create(name="Can")
    await Album.create(barcode=1, artist=artist)

    async def cancelled(*args: Any) -> Any:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(database, "execute_query", cancelled)
        asked = [asyncio.create_task(Album.cache.get(id=number).resolve()) for number in (1, 2)]
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CacheError}
    async with asyncio.timeout(PATIENCE):
        assert (await Album.cache.get(id=1)).barcode == 1


@pytest.mark.models("tests.support.models.music")
@pytest.mark.usefixtures("never_impatient")
@pytest.mark.parametrize(("together", "waits"), [(AlbumById, True), (NewestAlbums, False)], ids=["rows", "limited"])
async def test_statements_that_could_be_one_wait_for_each_other(
    cache: ModelCache, database: BaseDBAsyncClient, together: Any, waits: bool
) -> None:
    """Those with a limit tell the rows of one value only."""
    for number in range(1, 5):
        artist = await Artist.create(id=number, name=f"artist {number}")
        await Album.create(id=number, barcode=number, artist=artist)
    before = cache.stats.statements
    with gated_sql(database) as sql:
        gate = sql.hold("SELECT")
        asked = [asyncio.create_task(together(1).resolve())]
        await gate.reached()
        waiting: dict[Any, list[Any]] = cache.open_cache.reader._statements._waiting
        for number in (2, 3, 4):
            asked.append(asyncio.create_task(together(number).resolve()))
            await until(lambda: sum(map(len, waiting.values())) + cache.stats.statements - before == len(asked))
        assert cache.stats.statements - before == (1 if waits else 4)
        gate.open()
        found = await asyncio.gather(*asked)
    assert [row.id for row in (rows[0] if isinstance(rows, list) else rows for rows in found)] == [1, 2, 3, 4]
    assert cache.stats.statements - before == (2 if waits else 4)
