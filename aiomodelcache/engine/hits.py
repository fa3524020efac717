"""The path of a hit: lookups that one read answers, without a plan.

A lookup that this read does not answer goes on as a plan, with the bytes that were read. Must not know how plans
proceed: ``start`` is handed in.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, cast

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.engine.batch_read import EntriesByKey, ReadBatcher
from aiomodelcache.engine.run import Done, resolve
from aiomodelcache.entries.base import NoValue
from aiomodelcache.plans.requests import FastLookup, Plan, Read

SLICING_THRESHOLD: Final = 128
"""Lookups of one read that are answered in one turn of the event loop. Beyond it they are answered in slices."""
SLICE_SIZE: Final = 32
"""Lookups of one slice. Between two slices the event loop runs other tasks."""


class StartPlan(Protocol):
    """Starts a plan. ``first``: the answer to its first ``Read``, which it has yielded already."""

    def __call__(self, plan: Plan[Any], done: Done, *, only_cache: bool, first: Any = None) -> None: ...


class PendingLookups:
    """Lookups that are read together, and the waiter of each.

    One object for all lookups of a tick, because each pending object adds GC pressure.
    """

    __slots__ = ("context", "lookups", "only_cache", "resolve", "waiters")

    def __init__(
        self, context: Any, resolve: Callable[[Any, Any, BaseException | None], None], *, only_cache: bool = False
    ) -> None:
        self.context = context
        self.resolve = resolve
        """Called with a waiter, the result and the exception. Idempotent: closing the cache calls it again."""
        self.only_cache = only_cache
        self.lookups: list[FastLookup] = []
        self.waiters: list[Any] = []


class HitPath:
    """Answers lookups from what one read returns, or from near entries."""

    def __init__(self, guarded: GuardedBackend, reads: ReadBatcher, start: StartPlan) -> None:
        self._guarded = guarded
        self._near = guarded.near
        self._reads = reads
        self._start = start
        self._reading: set[PendingLookups] = set()
        self._awaited: PendingLookups | None = None
        """The lookups of this tick that callers await one by one, while more of them can join."""

    @property
    def busy(self) -> bool:
        """Whether a lookup is in flight."""
        return bool(self._reading)

    def start_lookup(self, lookup: FastLookup, context: Any, future: "asyncio.Future[Any]") -> None:
        """Starts a lookup and resolves ``future`` with its outcome."""
        awaited = self._awaited
        if awaited is None:
            awaited = PendingLookups(context, resolve)
        if (self._near.on or not self._guarded.healthy) and self._answer_now(lookup, awaited, future):
            return
        awaited.lookups.append(lookup)
        awaited.waiters.append(future)
        if self._awaited is None:
            self._awaited = awaited
            self._queue(awaited)

    def start_lookups(self, pending: PendingLookups) -> None:
        """Starts several lookups."""
        if self._near.on or not self._guarded.healthy:
            both = list(zip(pending.lookups, pending.waiters, strict=True))
            left = [(lookup, waiter) for lookup, waiter in both if not self._answer_now(lookup, pending, waiter)]
            pending.lookups, pending.waiters = [lookup for lookup, _ in left], [waiter for _, waiter in left]
        if pending.lookups:
            self._queue(pending)

    def near_answer(self, lookup: FastLookup, context: Any) -> Any:
        """Returns the result of a lookup if near entries answer it, else a miss."""
        if not self._near.on or not self._guarded.healthy:  # only a request finds out whether the store works again
            return NoValue.MISS
        keys: dict[bytes, None] = {}
        lookup.collect_keys(context, keys)
        found = self._near.find(keys)
        result = NoValue.MISS if found is None else lookup.try_hit(context, found)
        if result is not NoValue.MISS:
            self._near.counters.hits += 1
        return result

    def fail(self, error: Exception) -> None:
        """Fails every lookup that is still in flight."""
        reading, self._reading, self._awaited = self._reading, set(), None
        for pending in reading:
            for waiter in pending.waiters:
                pending.resolve(waiter, None, error)

    def _queue(self, pending: PendingLookups) -> None:
        self._reading.add(pending)
        self._reads.add(partial(self._collect_keys, pending), partial(self._answer, pending))

    def _answer_now(self, lookup: FastLookup, pending: PendingLookups, waiter: Any) -> bool:
        """Answers a lookup from near entries, or starts its plan if the store must not be used. Returns whether."""
        if not self._guarded.healthy:
            plan = lookup.start_plan(pending.context)
            self._start(plan, partial(pending.resolve, waiter), only_cache=pending.only_cache)
            return True
        keys: dict[bytes, None] = {}
        lookup.collect_keys(pending.context, keys)
        found = self._near.find(keys) if self._near.on else None
        if found is None:
            return False
        self._near.counters.hits += 1
        self._give(lookup, pending, waiter, found)
        return True

    def _collect_keys(self, pending: PendingLookups, wanted: dict[bytes, None]) -> None:
        """Adds the keys that the lookups need. From then on no lookup can join them."""
        if pending is self._awaited:
            self._awaited = None
        context = pending.context
        for lookup in pending.lookups:
            lookup.collect_keys(context, wanted)

    def _answer(self, pending: PendingLookups, found: EntriesByKey) -> Iterator[None]:
        """Gives each lookup the entries that were read, in slices if there are many lookups."""
        size = SLICE_SIZE if len(pending.lookups) > SLICING_THRESHOLD else len(pending.lookups)
        for at, (lookup, waiter) in enumerate(zip(pending.lookups, pending.waiters, strict=True)):
            if at % size == 0:
                if at:
                    yield
                if pending not in self._reading:  # failed meanwhile
                    return
            self._give(lookup, pending, waiter, found)
        self._reading.discard(pending)

    def _give(self, lookup: FastLookup, pending: PendingLookups, waiter: Any, found: EntriesByKey) -> None:
        try:
            result = lookup.try_hit(pending.context, found)
        except Exception as error:
            pending.resolve(waiter, None, error)
            return
        if result is not NoValue.MISS:
            pending.resolve(waiter, result, None)
            return
        plan, first = lookup.start_plan(pending.context), None
        keys = cast("Read", plan.send(None)).keys
        if found.keys() >= set(keys):
            first = [found[key] for key in keys]
        else:  # the prediction has changed since
            plan = lookup.start_plan(pending.context)
        self._start(plan, partial(pending.resolve, waiter), only_cache=pending.only_cache, first=first)
