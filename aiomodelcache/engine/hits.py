"""The path of a hit: lookups that one read answers, without a plan.

A lookup that this read does not answer continues as a plan, with the bytes that were read. Must not know how plans
proceed: ``start`` is handed in.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.encoding.together import KnownKeys, ReadTogether
from aiomodelcache.engine.batch_read import EntriesByKey, ReadBatcher, Unread
from aiomodelcache.engine.loader import can_share_statement
from aiomodelcache.engine.observing import note_read
from aiomodelcache.engine.relayed import Claims, Relayed
from aiomodelcache.engine.run import DoneCallback, resolve_future
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.events import Lookup
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.plans.absent import rows_of_absent
from aiomodelcache.plans.requests import FastLookup, Missed, Plan, Read

SLICING_THRESHOLD: Final = 128
"""Maximum number of lookups of one read that are answered in one turn of the event loop.

Beyond it, they are answered in slices.
"""
SLICE_SIZE: Final = 32
"""Number of lookups in one slice. Between two slices the event loop runs other tasks."""
ROWS_IN_SLICE: Final = 100
"""Number of items in lists and dicts after which a slice ends.

So callers use and drop the rows of some lists before those of others exist. If all lists of a read were in memory at
once, the garbage collector would visit each of their objects several times. It would visit everything else in the
process, too.
"""
_PLURALS: Final = frozenset({list, dict})


Missing = tuple[FastLookup, Any]
"""A lookup that its read does not answer, and its waiter."""
Group = dict[bytes, tuple[Missed, FastLookup, Any]]
"""Lookups that one plan answers, and their waiters, by key."""


class StartPlan(Protocol):
    """A function that starts a plan. ``first``: the answer to the plan's first ``Read``, if already yielded."""

    def __call__(
        self,
        plan: Plan[Any],
        done: DoneCallback,
        *,
        only_cache: bool,
        first: Any = None,
        operation: Lookup | None,
        relay_lost: bool = False,
        unread: bool = False,
    ) -> None: ...


class PendingLookups:
    """Lookups that are read together, and the waiter of each.

    One object for all lookups of a tick, because each pending object adds GC pressure.
    """

    __slots__ = ("claims", "context", "lookups", "only_cache", "resolve", "waiters")
    claims: Claims
    """The claims of relays that were known before the read, if there are relayed tables."""

    def __init__(
        self, context: Any, resolve: Callable[[Any, Any, BaseException | None], None], *, only_cache: bool = False
    ) -> None:
        self.context = context
        self.resolve = resolve
        """A callback for a waiter, the result and the exception. Idempotent: closing the cache calls it again."""
        self.only_cache = only_cache
        self.lookups: list[FastLookup] = []
        self.waiters: list[Any] = []

    @property
    def operations(self) -> Sequence[Lookup]:
        """The lookups, as far as observers are told of them."""
        return [lookup.lookup_event for lookup in self.lookups if lookup.lookup_event is not None]


class HitPath:
    """The lookups in flight that have no plan, answered from what one read returns or from near entries."""

    def __init__(self, guarded: GuardedBackend, reads: ReadBatcher, start: StartPlan) -> None:
        self._guarded = guarded
        self._near = guarded.near
        self._reads = reads
        self._start = start
        self.relayed: Relayed | None = None
        """The tables whose entries answer only while a relay lives, or None if there are none."""
        self._in_flight: set[PendingLookups] = set()
        self._joinable: PendingLookups | None = None
        """The lookups of this tick that callers await one by one, while more lookups can join them."""

    @property
    def busy(self) -> bool:
        """True if a lookup is in flight."""
        return bool(self._in_flight)

    def start_lookup(self, lookup: FastLookup, context: Any, future: "asyncio.Future[Any]") -> None:
        """Starts a lookup and resolves ``future`` with its outcome."""
        joinable = self._joinable
        if joinable is None:
            joinable = PendingLookups(context, resolve_future)
        if (self._near.on or not self._guarded.healthy) and self._answer_now(lookup, joinable, future):
            return
        joinable.lookups.append(lookup)
        joinable.waiters.append(future)
        if self._joinable is None:
            self._joinable = joinable
            self._queue(joinable)

    def start_lookups(self, pending: PendingLookups) -> None:
        """Starts several lookups."""
        if self._near.on or not self._guarded.healthy:
            pairs = list(zip(pending.lookups, pending.waiters, strict=True))
            unanswered = [(lookup, waiter) for lookup, waiter in pairs if not self._answer_now(lookup, pending, waiter)]
            pending.lookups, pending.waiters = (
                [lookup for lookup, _ in unanswered],
                [waiter for _, waiter in unanswered],
            )
        if pending.lookups:
            self._queue(pending)

    def find_near(self, lookup: FastLookup, context: Any) -> Any:
        """Returns the result of a lookup if near entries answer it, else a miss."""
        if not self._near.on or not self._guarded.healthy:  # only a request shows that the store works again
            return NoValue.MISS
        keys: dict[bytes, None] = {}
        lookup.collect_keys(context, keys)
        entries = self._near.find(keys)
        if entries is None or (self.relayed is not None and self.relayed.refuses(keys, self.relayed.claims)):
            return NoValue.MISS
        result = lookup.try_hit(context, entries)
        if result is not NoValue.MISS:
            self._near.counters.hits += 1
        return result

    def find_near_row(self, rows: RowEntries, epoch_key: bytes, key: bytes, pk: Any) -> RowValues | None:
        """Returns the row with this key as ``RowEntries.hit`` does, if near entries hold it, else None.

        If any table is relayed, ``find_near`` answers.
        """
        found = self._near.find_two(epoch_key, key)
        if found is None or self.relayed is not None or not self._guarded.healthy:
            return None
        row = rows.hit(found[1], found[0], pk)
        if row is not None:
            self._near.counters.hits += 1
        return row

    def fail(self, error: Exception) -> None:
        """Fails every lookup that is still in flight."""
        in_flight, self._in_flight, self._joinable = self._in_flight, set(), None
        for pending in in_flight:
            for waiter in pending.waiters:
                pending.resolve(waiter, None, error)

    def _queue(self, pending: PendingLookups) -> None:
        self._in_flight.add(pending)
        self._reads.add(partial(self._collect_keys, pending), partial(self._answer, pending), pending)

    def _answer_now(self, lookup: FastLookup, pending: PendingLookups, waiter: Any) -> bool:
        """Answers a lookup from near entries, or starts its plan if the store must not be used.

        Returns True if it did either.
        """
        if not self._guarded.healthy:
            plan = lookup.start_plan(pending.context)
            done = partial(pending.resolve, waiter)
            self._start(plan, done, only_cache=pending.only_cache, operation=lookup.lookup_event)
            return True
        keys: dict[bytes, None] = {}
        lookup.collect_keys(pending.context, keys)
        entries = self._near.find(keys) if self._near.on else None
        if entries is None or (self.relayed is not None and self.relayed.refuses(keys, self.relayed.claims)):
            return False
        self._near.counters.hits += 1
        if lookup.lookup_event is not None:
            lookup.lookup_event.outcome = "near"
        alone = PendingLookups(pending.context, pending.resolve, only_cache=pending.only_cache)
        alone.lookups, alone.waiters = [lookup], [waiter]
        self._deliver(alone, entries)
        return True

    def _collect_keys(self, pending: PendingLookups, wanted: dict[bytes, None]) -> KnownKeys | None:
        """Adds the keys that the lookups need. From then on no lookup can join them. Returns what the first returns."""
        if pending is self._joinable:
            self._joinable = None
        context = pending.context
        relayed = self.relayed
        if relayed is not None:
            claims = pending.claims = relayed.claims
            if relayed.clock() >= claims.until:  # as ``expired``, written out
                self._part_with_lost(pending, relayed)
        known = None
        for lookup in pending.lookups:
            known = lookup.collect_keys(context, wanted) or known
        return known

    def _answer(self, pending: PendingLookups, entries: EntriesByKey, unread: Unread) -> Iterator[None]:
        """Gives each lookup the entries that were read, in slices if there are many lookups."""
        if unread and pending in self._in_flight:
            self._part(pending, lambda keys: not keys.keys().isdisjoint(unread), unread=True)
        relayed = self.relayed
        if relayed is not None and relayed.clock() >= pending.claims.until and not relayed.serves:
            if pending not in self._in_flight:  # failed in the meantime
                return
            self._part_with_lost(pending, relayed)
        sliced = len(pending.lookups) > SLICING_THRESHOLD
        while pending in self._in_flight:  # else failed in the meantime
            number = self._deliver(pending, entries, sliced)
            if not number:
                self._in_flight.discard(pending)
                return
            del pending.lookups[:number], pending.waiters[:number]  # with their results
            yield

    def _deliver(self, pending: PendingLookups, entries: EntriesByKey, sliced: bool = False) -> int:
        """Answers lookups, or starts their plans, until the slice is full. Returns their number, or 0 for all."""
        lookups, waiters, number, rows = pending.lookups, pending.waiters, 0, 0
        if sliced and len(lookups) > SLICE_SIZE:
            number, lookups = SLICE_SIZE, lookups[:SLICE_SIZE]
        missing: list[Missing] = []
        context, resolve = pending.context, pending.resolve
        for lookup, waiter in zip(lookups, waiters, strict=False):
            try:
                result = lookup.try_hit(context, entries)
            except Exception as error:
                resolve(waiter, None, error)
                continue
            if result is NoValue.MISS:
                missing.append((lookup, waiter))
                continue
            resolve(waiter, result, None)
            if result.__class__ in _PLURALS:
                rows += len(result)
                if rows >= ROWS_IN_SLICE:
                    number = (waiters.index(waiter) + 1) % len(waiters)
                    break
        if missing:
            self._start_missing(pending, missing, entries)
        return number

    def _start_missing(self, pending: PendingLookups, missing: Sequence[Missing], entries: EntriesByKey) -> None:
        """Starts one plan for all lookups of one entry set whose entries are absent, and a plan for each other."""
        shared: dict[Any, Group] = {}
        for lookup, waiter in missing:
            missed = None if len(missing) == 1 or pending.only_cache else getattr(lookup, "missed", _none)(entries)
            group: Group = {} if missed is None else shared.setdefault(missed.entry_set, {})
            if missed is None or missed.key in group:  # each caller gets instances of its own
                self._start_alone(pending, lookup, waiter, entries)
            else:
                group[missed.key] = missed, lookup, waiter
        for entry_set, group in shared.items():
            if len(group) > 1 and can_share_statement(entry_set):
                plan = rows_of_absent([missed for missed, _, _ in group.values()])
                self._start(plan, partial(self._share_out, pending, group), only_cache=False, operation=None)
            else:
                for _, lookup, waiter in group.values():
                    self._start_alone(pending, lookup, waiter, entries)

    def _share_out(
        self, pending: PendingLookups, group: Group, found: dict[bytes, list[Any]] | None, error: BaseException | None
    ) -> None:
        """Resolves lookups with what one plan has found for them. Leaves the others to plans of their own."""
        for key, (missed, lookup, waiter) in group.items():
            result, failure = None, error
            if found is not None:
                if key not in found:
                    self._start_alone(pending, lookup, waiter, {})
                    continue
                try:
                    result = missed.finish(found[key])
                except Exception as wrong:
                    failure = wrong
            pending.resolve(waiter, result, failure)

    def _start_alone(self, pending: PendingLookups, lookup: FastLookup, waiter: Any, entries: EntriesByKey) -> None:
        """Starts the plan of a lookup. Its first ``Read`` is answered from ``entries``, if they hold all of it."""
        plan = lookup.start_plan(pending.context)
        keys = cast("Read", plan.send(None)).keys
        first: Any
        try:
            together = type(entries) is ReadTogether and entries.known is keys
            first = cast("ReadTogether", entries).values_read if together else list(map(entries.__getitem__, keys))
        except KeyError:  # the prediction has changed since the keys were collected
            plan, first = lookup.start_plan(pending.context), None
        operation = lookup.lookup_event
        if operation is not None and first is not None:
            note_read(operation, keys, first, near=operation.outcome == "near")
        done = partial(pending.resolve, waiter)
        self._start(plan, done, only_cache=pending.only_cache, first=first, operation=operation)

    def _part_with_lost(self, pending: PendingLookups, relayed: Relayed) -> None:
        self._part(pending, lambda keys: relayed.refuses(keys, pending.claims), relay_lost=True)

    def _part(self, pending: PendingLookups, refuses: Callable[[dict[bytes, None]], bool], **reason: bool) -> None:
        """Starts the plans of lookups whose entries must not answer. The others stay pending.

        ``reason``: as ``start`` takes it.
        """
        pairs = list(zip(pending.lookups, pending.waiters, strict=True))
        pending.lookups, pending.waiters = [], []
        for lookup, waiter in pairs:
            keys: dict[bytes, None] = {}
            lookup.collect_keys(pending.context, keys)
            if refuses(keys):
                plan, done = lookup.start_plan(pending.context), partial(pending.resolve, waiter)
                operation = lookup.lookup_event
                self._start(plan, done, only_cache=pending.only_cache, operation=operation, **reason)
            else:
                pending.lookups.append(lookup)
                pending.waiters.append(waiter)


def _none(_: EntriesByKey) -> None:
    """Returns None, as a lookup that shares its plan with no other one."""
