"""The lookups that observers are told of: which work was done for which of them, and where their answers came from."""

import asyncio
from collections.abc import Awaitable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.protocol import LateFill
from aiomodelcache.encoding.layout import ABSENT, STALE
from aiomodelcache.engine.run import NotCached, RunningPlan
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.copies import COPY_SUFFIX
from aiomodelcache.observe.events import Computation, Fill, Lookup, Refusal, Statement
from aiomodelcache.observe.observers import Observers
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.refresh import ELECTION_SUFFIX
from aiomodelcache.plans.requests import FastLookup, Plan, PlannedFill, T

BESIDE: Final = (ELECTION_SUFFIX, COPY_SUFFIX)
"""The ends of keys that lie beside those of entries."""


class HasOperations(Protocol):
    """A plan in flight, or lookups that are read together."""

    @property
    def operations(self) -> Sequence[Lookup]:
        """The lookups that observers are told of."""
        ...


def operations_of(sources: Iterable[HasOperations]) -> Iterator[Lookup]:
    """Iterates over the lookups for which work is done together."""
    for source in sources:
        yield from source.operations


class ObservedLookup:
    """A lookup without a plan, that notes where its answer came from."""

    __slots__ = ("_keys", "_lookup", "lookup_event")

    def __init__(self, lookup: FastLookup, operation: Lookup) -> None:
        self._lookup = lookup
        self._keys: dict[bytes, None] = {}
        self.lookup_event: Lookup | None = operation

    def collect_keys(self, context: Any, wanted: dict[bytes, None], /) -> None:
        """See ``FastLookup``."""
        self._keys = {}
        self._lookup.collect_keys(context, self._keys)
        wanted.update(self._keys)

    def try_hit(self, context: Any, entries: Mapping[bytes, bytes | None], /) -> Any:
        """See ``FastLookup``."""
        result = None
        try:
            result = self._lookup.try_hit(context, entries)
        finally:  # an exception is a result, too
            if result is not NoValue.MISS and self.lookup_event is not None:
                self.lookup_event.outcome = self.lookup_event.outcome or "hit"
                self.lookup_event.size += sum(len(entries.get(key) or b"") for key in self._keys)
        return result

    def start_plan(self, context: Any, /) -> Plan[Any]:
        """See ``FastLookup``."""
        return self._lookup.start_plan(context)


def observe_refresh(observers: Observers, run: RunningPlan, name: str) -> None:
    """Tells the observers that a lookup without a caller begins, and later that it has ended."""
    operation = run.operation = Lookup(cache=name, kind="refresh", background=True)
    done = run.done
    observers.begin(operation)

    def end(result: Any, error: BaseException | None) -> None:
        note_end(operation, error)
        observers.end(operation, error)
        done(result, error)

    run.done = end


def note_read(operation: Lookup, keys: Sequence[bytes], values: Sequence[bytes | None], *, near: bool = False) -> None:
    """Notes what a plan has read. It is the answer, unless the plan goes on to the database."""
    operation.size += sum(len(value or b"") for value in values)
    if operation.outcome in ("bypass", "fault", "miss"):
        return
    states = {key: value[:1] for key, value in zip(keys, values, strict=True) if value}
    if STALE in states.values():
        operation.outcome = "stale"
    elif len(operation.keys) == 1 and states.get(operation.keys[0]) == ABSENT:
        operation.outcome = "absent"
    elif operation.outcome != "waited":
        operation.outcome = "near" if near else "hit"


def note_database(operations: Iterable[Lookup]) -> None:
    """Notes that the database answers, or that a value is computed."""
    for operation in operations:
        if operation.outcome not in ("bypass", "fault"):
            operation.outcome, operation.reason = "miss", None


def note_failure(operations: Iterable[Lookup], reason: Literal["failed", "slow"]) -> None:
    """Notes that a value could not be computed, or not soon. An answer that the lookup has all the same is stale."""
    for operation in operations:
        operation.reason = operation.reason or reason


def note_end(operation: Lookup, error: BaseException | None) -> None:
    """Notes that a lookup has ended."""
    if isinstance(error, NotCached):
        operation.outcome, operation.reason = "miss", "only_cache"
    elif operation.outcome is None and error is None:  # in the background: another reader does it
        operation.outcome = "waited"
    elif operation.outcome is None:
        operation.outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
    elif operation.outcome == "miss" and error is None and operation.reason in ("failed", "slow"):
        operation.outcome = "stale"


def note_bypass(operation: Lookup, reason: str) -> None:
    """Notes that a plan does without the store."""
    if operation.outcome != "fault":
        operation.outcome, operation.reason = "bypass", reason


def note_fills(
    observers: Observers,
    operation: Lookup,
    planned: Iterable[PlannedFill],
    sent: Container[tuple[bytes, bytes]] | None = None,
    stored: Mapping[tuple[bytes, bytes], bool] | None = None,
) -> None:
    """Tells the observers which of a lookup's fills were stored, and why the others were not.

    ``sent``: the keys and tokens of the fills that were sent, or None if the store must not be used. ``stored``: the
    answers of the store.
    """
    for attempt, key, value, _ in planned:
        if key.endswith(BESIDE) or (not value and (attempt.replaces or not attempt.token)):
            continue  # no fill: an election, a copy of another fill, or the removal of an entry
        place = key, attempt.token
        reason: Refusal | None = None
        if not value:
            reason = "released"
        elif sent is None or stored is None:
            reason = "bypass"
        elif not stored.get(place, False):
            reason = "late" if place not in sent else "replaced" if place in stored else "fault"
        fill = Fill(cache=operation.cache, accepted=reason is None, reason=reason, size=len(value))
        observers.note(fill, operation.context)


def note_late_fills(
    observers: Observers, operation: Lookup, planned: Iterable[LateFill], held: Iterable[bytes | None]
) -> None:
    """Tells the observers which rows were stored without a lease, and which were not as a writer came in between."""
    for each, value in zip(planned, held, strict=True):
        if not value:
            stored = value is None
            reason: Refusal | None = None if stored else "released"
            fill = Fill(cache=operation.cache, accepted=stored, reason=reason, size=len(each.value) if stored else 0)
            observers.note(fill, operation.context)


async def observe_statement(
    observers: Observers,
    schema: ModelSchema,
    client: BaseDBAsyncClient,
    operations: tuple[Lookup, ...],
    keys: int,
    work: Awaitable[T],
) -> T:
    """Awaits a statement of lookups."""
    statement = Statement(
        context=operations[0].context,
        model=schema.name,
        table=schema.table,
        connection=client.connection_name,
        dialect=client.capabilities.dialect,
        keys=keys,
        lookups=operations,
    )
    return await observers.around(statement, work)


async def observe_computation(observers: Observers, operations: tuple[Lookup, ...], work: Awaitable[T]) -> T:
    """Awaits the computation of a value."""
    note_database(operations)
    first = operations[0]
    return await observers.around(Computation(context=first.context, cache=first.cache, lookups=operations), work)
