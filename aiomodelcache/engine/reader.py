"""The driver of plans: merges the requests of all plans in one tick, and answers them.

All ``Read``s of a tick become one MGET, all ``AcquireLeases`` one pipeline, all ``Load``s of one key one SQL statement,
all ``StoreFills`` one pipeline. A single lookup, a gather and a batch are the same code path. Knows when requests are
sent and what happens if that fails; ``plans`` knows what a lookup means.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.admission import Admissions
from aiomodelcache.engine.background import BackgroundPlans
from aiomodelcache.engine.batch_read import EntriesByKey, ReadBatcher, Unread
from aiomodelcache.engine.computations import Computations
from aiomodelcache.engine.direct import DirectRuns
from aiomodelcache.engine.hits import HitPath
from aiomodelcache.engine.leases import Leases
from aiomodelcache.engine.observing import (
    note_bypass,
    note_fills,
    note_read,
    observe_refresh,
)
from aiomodelcache.engine.relayed import RELAY_LOST, Claims, Relayed
from aiomodelcache.engine.run import DoneCallback, NotCached, RunningPlan
from aiomodelcache.engine.sampling import SampledReads, Sampler
from aiomodelcache.engine.statements import Statements, Waiter
from aiomodelcache.engine.tasks import CLOSED_DURING_LOOKUP_MESSAGE, BackgroundTasks
from aiomodelcache.engine.witness import CheckCaller, WitnessedHits, witnessed
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import (
    AcquireLeases,
    ComputeValue,
    Load,
    Plan,
    Read,
    Spawn,
    StoreFills,
    Wait,
)
from aiomodelcache.plans.steps import answer_without_store
from aiomodelcache.scopes.bypass import BypassFlag

T = TypeVar("T")


class Reader:
    """The lookups of one open cache."""

    def __init__(
        self,
        guarded: GuardedBackend,
        config: CacheConfig,
        tasks: BackgroundTasks,
        bypass: BypassFlag,
        admissions: Admissions[Waiter],
        lifetimes: Iterable[Lifetimes] = (),
        check_context: Callable[[], None] | None = None,
    ) -> None:
        self.check_context = check_context or (lambda: None)
        """Raises an exception in a context in which the database must not be queried for these lookups."""
        self._guarded = guarded
        self._near = guarded.near
        self._config = config
        self._tasks = tasks
        self._running: set[RunningPlan] = set()
        self.background = BackgroundPlans(self._start_in_background, lifetimes, guarded.find_observers)
        self._near.tick = self.background.refresh_thresholds
        self._reads = ReadBatcher(guarded, tasks, self.background.refresh_thresholds)
        self.hits = HitPath(guarded, self._reads, self.start)
        self.relayed: Relayed | None = None
        """The tables whose entries answer only while a relay lives, or None if there are none."""
        self._check_caller: CheckCaller | None = None
        self._leases = Leases(guarded, config, tasks, self._advance)
        self._leases.saturated = admissions.saturated
        self._statements = Statements(
            guarded, config, tasks, self._advance, self.check_context, self._leases.late_deadline, admissions
        )
        self.overloads = self._statements.overloads
        self._computations = Computations(guarded, tasks, bypass, self._advance, self.check_context)
        self.direct = DirectRuns(self._statements, self._computations, self._near)
        tasks.on_failure = self.fail

    @property
    def busy(self) -> bool:
        """True if any lookup is in flight, background plans included."""
        return bool(self._running) or self.hits.busy

    def reads_apart(self) -> bool:
        """True if the values that lookups get now may not be of one moment. False once they have ended."""
        return self._reads.reads_apart() or self._near.tracked_slot is not None

    def sample(self, fraction: float, chosen: Callable[[bytes], None]) -> None:
        """Calls ``chosen`` with the key of this fraction of the entries that are read from now on."""
        reads = SampledReads(self._guarded, self._tasks, self.background.refresh_thresholds)
        reads.sampler = Sampler(fraction, chosen)
        self._reads = reads
        self._use(HitPath(self._guarded, reads, self.start))

    def require_relay(self, relayed: Relayed) -> None:
        """Reads entries of relayed tables only while a relay lives. Else their lookups bypass the store."""
        self.relayed = self.hits.relayed = relayed

    def _use(self, hits: HitPath) -> None:
        self.hits = hits
        hits.relayed = self.relayed

    def compare_callers(self, check: CheckCaller) -> None:
        """Calls ``check`` with the context of a lookup's caller before each query of the database."""
        self._check_caller = check
        hits = WitnessedHits(self._guarded, self._reads, self.start)
        hits.check = check
        self._use(hits)

    def of_caller(self, plan: Plan[T]) -> Plan[T]:
        """Returns a plan of the caller, that compares the caller's context if callers are compared."""
        return plan if self._check_caller is None else witnessed(plan, self._check_caller)

    # Driving -------------------------------------------------------------------------------------

    def start(
        self,
        plan: Plan[Any],
        done: DoneCallback,
        *,
        only_cache: bool = False,
        bypass: bool = False,
        near: bool = True,
        first: Any = None,
        operation: Lookup | None = None,
        relay_lost: bool = False,
        unread: bool = False,
    ) -> None:
        """Runs a plan together with all other plans of this tick. ``done`` is called with its outcome.

        ``only_cache``: without the database. ``bypass``: without the store. ``near``: near entries may answer.
        ``first``: the answer to the plan's first request, if the plan has yielded it already. ``operation``: the lookup
        as observers are told of it. ``relay_lost``: without the store, as no relay lives.
        ``unread``: without the store, as one of the keys could not be read.
        """
        run = RunningPlan(plan, done, only_cache, bypass)
        run.near = near and first is None
        run.operation = operation
        if relay_lost:
            self._bypass(run)
        if unread:
            run.bypass = run.unread = True
        self._running.add(run)
        self._advance(run, first)

    def _start_in_background(self, plan: Plan[Any], done: DoneCallback, name: str) -> None:
        run = RunningPlan(plan, done, background=True)
        if self._guarded.observers is not None:
            observe_refresh(self._guarded.observers, run, name)
        self._running.add(run)
        self._advance(run, None)

    def _advance(self, run: RunningPlan, answer: Any, failure: Exception | None = None) -> None:
        """Sends a plan its answer, or throws the failure into it, and queues the request that it yields next."""
        try:
            request = run.plan.send(answer) if failure is None else run.plan.throw(failure)
            while True:
                if type(request) is Read:
                    relayed = self.relayed
                    if relayed is not None and self._lacks_relay(run, request.keys, relayed.claims):
                        pass
                    elif not run.bypass and self._guarded.allow_read():
                        entries = self._near.find(request.keys) if self._near.on and run.near else None
                        if entries is None:
                            keys, run.near = request.keys, False
                            claims = None if relayed is None or relayed.serves else relayed.claims
                            self._reads.add(partial(_add_keys, keys), partial(self._resume, run, keys, claims), run)
                            return
                        self._near.counters.hits += 1
                        values = [entries[key] for key in request.keys]
                        if run.operation is not None:
                            note_read(run.operation, request.keys, values, near=True)
                        request = run.plan.send(values)
                        continue
                    else:
                        self._guarded.stats.bypassed += 1
                        if run.operation is not None:
                            reason = "unreachable" if run.unread else self._guarded.unavailable_reason or "disabled"
                            note_bypass(run.operation, reason)
                elif type(request) is Spawn:
                    if run.only_cache:  # a refresh would query the database
                        request.plan.close()
                    else:
                        self.background.start(request.plan, request.counters, request.entry)
                elif run.only_cache:
                    raise NotCached
                elif type(request) is Load:
                    run.near = False
                    self._statements.load.add((run, request))
                    return
                elif type(request) is ComputeValue:
                    run.near = False
                    self._computations.compute.add((run, request))
                    return
                elif type(request) is Wait:
                    if run.operation is not None:
                        run.operation.outcome = "waited"
                    self._leases.wait.add((run, request))
                    return
                elif type(request) is AcquireLeases:
                    if not run.bypass and self._guarded.allow_read():
                        self._leases.acquire.add((run, request))
                        return
                    if run.background and request.deadline is None:  # else the plan has leases to release
                        raise NotCached
                elif type(request) is StoreFills:
                    if not run.bypass and self._guarded.allow_read():
                        self._leases.store.add((run, request))
                        return
                    self._leases.end_flights(key for attempt, key, _, _ in request.fills if not attempt.replaces)
                    if self._guarded.observers is not None and run.operation is not None:
                        note_fills(self._guarded.observers, run.operation, request.fills)
                request = run.plan.send(answer_without_store(request))
        except StopIteration as stop:
            self._end(run, stop.value, None)
        except Exception as error:
            self._end(run, None, error)

    def _resume(
        self, run: RunningPlan, keys: list[bytes], claims: Claims | None, entries: EntriesByKey, unread: Unread
    ) -> Iterator[None]:
        """Gives a plan the entries that were read. ``claims``: those that were known before, if they matter."""
        if claims is not None and self._lacks_relay(run, keys, claims):
            self._advance(run, [None] * len(keys))
            return iter(())
        values = [entries[key] for key in keys]
        if unread and any(key in unread for key in keys):
            run.bypass = run.unread = True
            self._guarded.stats.bypassed += 1
            values = [None] * len(keys)
            if run.operation is not None:
                note_bypass(run.operation, "unreachable")
        elif run.operation is not None:
            note_read(run.operation, keys, values)
        self._advance(run, values)
        return iter(())

    def _lacks_relay(self, run: RunningPlan, keys: list[bytes], claims: Claims) -> bool:
        """Returns True if a plan must not believe entries, as no relay lives. It goes on as without a store then."""
        if not run.bypass and self.relayed is not None and self.relayed.refuses(keys, claims):
            self._bypass(run)
        return run.relay_lost

    def _bypass(self, run: RunningPlan) -> None:
        run.bypass = run.relay_lost = True
        self._guarded.stats.relay_bypassed += 1
        if run.operation is not None:
            note_bypass(run.operation, RELAY_LOST)

    def _end(self, run: RunningPlan, result: Any, error: Exception | None) -> None:
        try:
            self._running.remove(run)
        except KeyError:  # it has failed in the meantime
            return
        if run.loaded is not None:
            self._near.require(run.loaded)
        run.done(result, error)

    def fail(self, error: Exception) -> None:
        """Fails every lookup that is still in flight, so that no caller waits forever."""
        for run in list(self._running):
            run.plan.close()
            self._end(run, None, error)
        self.hits.fail(error)

    def close(self) -> None:
        """Fails the lookups that are still in flight when the cache has closed."""
        self.fail(CacheNotOpen(CLOSED_DURING_LOOKUP_MESSAGE))


def _add_keys(keys: list[bytes], wanted: dict[bytes, None]) -> None:
    for key in keys:
        wanted[key] = None
