"""``Admission``: batches wait for statements in flight, in order, and take in what comes meanwhile."""

import asyncio
import time

import pytest

from aiomodelcache import CacheConfig
from aiomodelcache.engine import admission
from aiomodelcache.engine.admission import Admission, Admissions
from aiomodelcache.engine.load_limit import INITIAL_LIMIT, LoadLimit
from aiomodelcache.observe.stats import Stats
from tests.support.gates import PATIENCE


class Loads:
    """Calls of ``enter`` in tasks, and the items that were admitted, in order."""

    def __init__(self, limit: int | None, patience: float = PATIENCE) -> None:
        self.stats = Stats()
        self.admission: Admission[int] = Admission(
            "default", None if limit is None else LoadLimit(limit), patience, self.stats
        )
        self.admitted: list[list[int]] = []
        self.late: list[int] = []

    async def start(self, key: str, *items: int) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._enter(key, [*items]))
        await asyncio.sleep(0)
        return task

    async def _enter(self, key: str, items: list[int]) -> bool:
        entered = await self.admission.enter(key, items, self.late.extend)
        if entered:
            self.admitted.append(items)
        return entered

    async def leave(self) -> None:
        self.admission.leave()
        await self.settled()

    async def settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_batches_beyond_the_limit_wait_in_order() -> None:
    loads = Loads(2)
    tasks = [await loads.start(key, number) for number, key in enumerate("abcd")]
    assert loads.admitted == [[0], [1]]
    assert loads.admission.saturated
    await loads.leave()
    await loads.leave()
    assert loads.admitted == [[0], [1], [2], [3]]
    assert await asyncio.gather(*tasks) == [True] * 4
    assert loads.admission.in_flight == 2
    assert loads.stats.queued_loads == 2


async def test_a_batch_that_waits_takes_in_what_comes_meanwhile() -> None:
    loads = Loads(1)
    await loads.start("a", 0)
    first, other, second = await loads.start("a", 1), await loads.start("b", 2), await loads.start("a", 3, 4)
    assert await second is False
    await loads.leave()
    assert await first
    assert loads.admitted == [[0], [1, 3, 4]]
    await loads.leave()
    assert await other
    assert loads.admitted[2:] == [[2]]


async def test_nothing_overtakes_a_batch_that_waits() -> None:
    loads = Loads(1)
    await loads.start("a", 0)
    await loads.start("b", 1)
    loads.admission.in_flight -= 1  # as if there were room, and the batch had not been told yet
    await loads.start("c", 2)
    assert loads.admitted == [[0]]


async def test_each_item_has_its_own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)  # moved by hand: a busy machine is late
    monkeypatch.setattr(time, "monotonic", lambda: now)
    loads = Loads(1, patience=10)
    await loads.start("a", 0)
    task = await loads.start("a", 1, 2)
    now = 106
    await loads.start("a", 3)
    now = 109
    await loads.settled()
    assert loads.late == []
    now = 110
    await loads.settled()
    assert loads.late == [1, 2]
    await loads.leave()
    assert await task
    assert loads.admitted == [[0], [3]]
    assert loads.stats.overloaded_loads == 2


async def test_a_batch_without_patience_leaves_nothing_behind() -> None:
    loads = Loads(1, patience=0.01)
    await loads.start("a", 0)
    assert await (await loads.start("a", 1)) is False
    assert loads.late == [1]
    await loads.leave()
    assert loads.admission.in_flight == 0
    assert not loads.admission.saturated
    assert await (await loads.start("a", 2))


@pytest.mark.parametrize("admitted", [False, True], ids=["waiting", "admitted"])
async def test_a_cancelled_batch_takes_no_place(admitted: bool) -> None:
    loads = Loads(1)
    await loads.start("a", 0)
    task = await loads.start("b", 1)
    if admitted:
        loads.admission.leave()
        assert loads.admission.in_flight == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not admitted:
        await loads.leave()
    assert loads.admission.in_flight == 0
    assert not loads.admission.saturated


async def test_there_may_be_no_limit() -> None:
    loads = Loads(None)
    for number in range(1_000):
        await loads.start("a", number)
    assert len(loads.admitted) == 1_000
    assert not loads.admission.saturated
    assert loads.stats.load_limits == {}
    await loads.leave()
    assert loads.admission.in_flight == 999


async def test_the_limit_in_force_is_shown() -> None:
    loads = Loads(64)
    assert loads.stats.load_limits == {"default": INITIAL_LIMIT}
    for number in (1, 2):
        await loads.start("a", 0)
        loads.admission.leave(("a", 1, 0.1, number))
    assert loads.stats.load_limits == {"default": INITIAL_LIMIT + 1}


def test_a_new_limit_is_made_for_each_connection() -> None:
    class Client:
        connection_name = "default"

    admissions: Admissions[int] = Admissions(CacheConfig(load_limit=None), Stats())
    one, two = Client(), Client()
    assert admissions.admission_to(one) is admissions.admission_to(one) is not admissions.admission_to(two)  # type: ignore[arg-type]
    assert admissions.admission_to(one).limit is None  # type: ignore[arg-type]
    assert not admissions.saturated()


async def test_what_has_begun_goes_before_those_that_wait() -> None:
    loads = Loads(1)
    tasks = [await loads.start(key, number) for number, key in enumerate("abc")]
    tasks.append(asyncio.create_task(loads.admission.enter("d", [3], loads.late.extend, first=True)))
    await loads.settled()
    await loads.leave()
    assert tasks[3].done()
    assert loads.admitted == [[0]]
    await loads.leave()
    assert loads.admitted == [[0], [1]]
    await loads.leave()
    await asyncio.gather(*tasks)


async def test_waiting_raises_the_limit_while_nothing_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two statements that take long by nature would else hold up all others until they end."""
    monkeypatch.setattr(admission, "PROBE_INTERVAL", 0.01)
    loads = Loads(4)
    tasks = [await loads.start(key, number) for number, key in enumerate("abcdef")]
    assert loads.admission.in_flight == INITIAL_LIMIT
    async with asyncio.timeout(PATIENCE):
        await tasks[3]
    assert loads.stats.load_limits == {"default": 4}
    assert loads.admitted == [[0], [1], [2], [3]]
    for _ in range(6):
        await loads.leave()
    await asyncio.gather(*tasks)


async def test_waiting_raises_no_limit_while_statements_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PROBE_INTERVAL", 0.01)
    loads = Loads(4, patience=0.2)
    tasks = [await loads.start(key, number) for number, key in enumerate("abc")]
    for seconds in (0.1, 1.0):
        loads.admission.in_flight += 1
        loads.admission.leave(("a", 1, seconds, 1))
    limit = loads.admission.limit
    assert limit == 2
    assert await tasks[2] is False
    assert loads.admission.limit == limit
