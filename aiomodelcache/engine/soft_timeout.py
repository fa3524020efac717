"""The plans that wait for one computation, for at most ``soft_timeout``.

The computation is a task of its own, so it goes on when no plan waits any more.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiomodelcache.engine.loader import ComputedValue
from aiomodelcache.engine.observing import note_failure, operations_of
from aiomodelcache.engine.run import RunningPlan
from aiomodelcache.plans.requests import StillComputing

Advance = Callable[..., None]
"""A function of a plan, its answer, and the exception to throw into it instead."""


class Waiting:
    """The plans that wait for one computation. Those with ``soft_timeout`` are thrown ``StillComputing`` after it."""

    __slots__ = ("_advance", "_outcome", "_runs", "_timer")

    def __init__(self, runs: list[RunningPlan], advance: Advance, soft_timeout: float | None) -> None:
        self._runs = runs
        self._advance = advance
        self._outcome: asyncio.Future[Any] | None = None
        """The outcome of the computation, after ``soft_timeout``. The plans may wait for it again."""
        self._timer: asyncio.TimerHandle | None = None
        if soft_timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(soft_timeout, self._time_out)

    def resolve(self, returned: Any) -> None:
        """Gives all plans what the computation returned."""
        self._stop()
        if self._outcome is not None:
            self._outcome.set_result(returned)
            return
        computed = ComputedValue(returned)
        for run in self._runs:
            self._advance(run, computed)

    def fail(self, error: Exception) -> None:
        """Throws the error of the computation into all plans."""
        self._stop()
        note_failure(operations_of(self._runs), "failed")
        if self._outcome is not None:
            self._outcome.set_exception(error)
            self._outcome.exception()  # every plan that waited for it may have been closed
            return
        for run in self._runs:
            self._advance(run, None, error)

    def _time_out(self) -> None:
        self._outcome = asyncio.get_running_loop().create_future()
        note_failure(operations_of(self._runs), "slow")
        for run in self._runs:
            self._advance(run, None, StillComputing(self._wait))

    async def _wait(self, _: Any) -> Any:
        assert self._outcome is not None, "plans wait again only after soft_timeout"
        return await asyncio.shield(self._outcome)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
