"""``Begun``: a coroutine whose first step has run before it is awaited."""

import asyncio
from typing import Any

import pytest

from aiomodelcache.engine.begun import Begun

pytestmark = pytest.mark.only_on("no store", because="it has no store")


async def test_the_first_step_runs_at_once_and_the_others_where_it_is_awaited() -> None:
    steps: list[int] = []

    async def work() -> str:
        steps.append(1)
        await asyncio.sleep(0)
        steps.append(2)
        await asyncio.sleep(0.001)
        steps.append(3)
        return "done"

    begun = Begun(work())
    assert steps == [1]
    await asyncio.sleep(0.01)
    assert steps == [1]
    assert await begun == "done"
    assert steps == [1, 2, 3]


async def test_a_coroutine_without_a_wait_has_ended_already() -> None:
    async def work() -> int:
        return 7

    assert await Begun(work()) == 7


@pytest.mark.parametrize("waits", [False, True])
async def test_an_exception_is_raised_where_it_is_awaited(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("no")

    begun = Begun(work())
    with pytest.raises(ValueError, match="no"):
        await begun


@pytest.mark.parametrize("early", [False, True])
async def test_a_future_gives_its_outcome(early: bool) -> None:
    """One that is done before is not waited for."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failure: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work(future: "asyncio.Future[int]") -> int:
        return await future

    good, bad = Begun(work(answer)), Begun(work(failure))
    if early:
        answer.set_result(3)
        failure.set_exception(LookupError("gone"))
    else:
        asyncio.get_running_loop().call_soon(answer.set_result, 3)
        asyncio.get_running_loop().call_soon(failure.set_exception, LookupError("gone"))
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    asyncio.get_running_loop().call_soon(count)
    assert await good == 3
    assert turns == (0 if early else 1)
    with pytest.raises(LookupError, match="gone"):
        await bad


async def test_a_cancellation_reaches_the_coroutine() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            await asyncio.sleep(0)
            ended.append("cleaned up")
            raise

    async def begin_and_wait() -> None:
        await Begun(work())

    waiting = asyncio.create_task(begin_and_wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["cancelled", "cleaned up"]


async def test_closing_releases_what_the_coroutine_holds() -> None:
    lock: Any = asyncio.Lock()

    async def work() -> None:
        async with lock:
            await asyncio.Event().wait()

    begun = Begun(work())
    assert lock.locked()
    begun.close()
    assert not lock.locked()
    begun.close()
