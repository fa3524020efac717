"""The computations that plans ask for: one for all plans of a tick that want the same value.

Must not know the functions that compute, nor how plans proceed: ``advance`` is handed in.
"""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.engine.batching import TickBatcher
from aiomodelcache.engine.leases import group_requests
from aiomodelcache.engine.observing import observe_computation, operations_of
from aiomodelcache.engine.run import RunningPlan
from aiomodelcache.engine.soft_timeout import Advance, Waiting
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import ComputeValue
from aiomodelcache.scopes.bypass import BypassBlock, BypassFlag


class Computations:
    """The computations of one open cache."""

    def __init__(
        self,
        guarded: GuardedBackend,
        tasks: BackgroundTasks,
        bypass: BypassFlag,
        advance: Advance,
        check_context: Callable[[], None],
    ) -> None:
        self._guarded = guarded
        self._tasks = tasks
        self._bypass = bypass
        self._advance = advance
        self._check_context = check_context
        self.compute: TickBatcher[tuple[RunningPlan, ComputeValue]] = TickBatcher(self._compute, tasks)

    def observed(self, computation: Awaitable[Any], operations: tuple[Lookup, ...]) -> Awaitable[Any]:
        """Returns a computation of which the observers are told, if there are any."""
        observers = self._guarded.observers
        return observe_computation(observers, operations, computation) if observers and operations else computation

    async def _compute(self, requests: list[tuple[RunningPlan, ComputeValue]]) -> None:
        for bypass in (False, True):
            same_mode = [(run, request) for run, request in requests if run.bypasses_inside is bypass]
            for group in group_requests(same_mode, lambda request: request.key).values():
                self._tasks.start(self._compute_once(group, bypass))

    async def _compute_once(self, group: list[tuple[RunningPlan, ComputeValue]], bypass: bool) -> None:
        waiting = Waiting([run for run, _ in group], self._advance, group[0][1].soft_timeout)
        try:
            self._check_context()
            with BypassBlock(self._bypass) if bypass else nullcontext():  # lookups inside bypass the cache, too
                operations = tuple(operations_of(run for run, _ in group))
                returned = await self.observed(group[0][1].compute(None), operations)
        except Exception as error:
            waiting.fail(error)
        except BaseException:  # cancelled, by the user's own code or because the cache closes
            waiting.fail(self._tasks.cancellation("computation"))
            raise
        else:
            if self._guarded.near.covers(group[0][1].key):
                loaded = self._guarded.near.catch_up()
                for run, _ in group:
                    run.loaded = loaded
            waiting.resolve(returned)
