"""The steps that plans of every kind share: lease, wait, load or give back, store.

Whose lease or value stands under a key, and what is to be done then, is said here once. Which keys belong to
what, and what their values mean, is in the modules of each kind.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from aiomodelcache.encoding.layout import ABSENT, PREFIX_SIZE, STALE, VALUE, is_intent, is_lease
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.requests import Answer, Filling, LeaseResult, Load, Plan, Read, Request, Spawn, Store, T, Wait


def wait(keys: Iterable[bytes], standing: Iterable[bytes | None], longest: float | None = None) -> Plan[None]:
    """Waits for the keys that are leased; those that were filled meanwhile need no waiting."""
    leased = {key: entry for key, entry in zip(keys, standing, strict=True) if entry is not None and is_lease(entry)}
    if leased:
        yield Wait(list(leased), list(leased.values()), longest)


def ahead_of(plan: Plan[T], read: dict[bytes, bytes | None], outdated: Callable[[], object] = lambda: None) -> Plan[T]:
    """Runs a plan whose reads are answered by what was read before it began, each value once.

    ``outdated`` is called when the plan has to wait for something newer.
    """
    step: Callable[[], Request] = partial(plan.send, None)
    while True:
        try:
            request = step()
        except StopIteration as stop:
            return cast("T", stop.value)
        if type(request) is Read and all(key in read for key in request.keys):
            step = partial(plan.send, [read.pop(key) for key in request.keys])
            continue
        if type(request) is not Spawn:
            outdated()
        try:
            answer = yield request
        except Exception as error:
            step = partial(plan.throw, error)
        else:
            step = partial(plan.send, answer)


def load_or_give_back(load: Load, taken: LeaseResult | None, leased: Iterable[bytes]) -> Plan[dict[Values, Answer]]:
    """Asks the database; if it fails, the leases are given back at once instead of expiring."""
    try:
        answers: dict[Values, Answer] = yield load
    except Exception:
        if taken is not None:
            yield Store([(taken.attempt, key, b"", 1) for key in leased])
        raise
    return answers


def store(entry_set: RowEntries | IndexEntries, fills: list[Filling]) -> Plan[None]:
    """Stores what was loaded, and counts what was accepted and what was not."""
    stored = yield Store(fills)
    counters = entry_set.counters
    for (_, _, entry, _), accepted in zip(fills, stored, strict=True):
        if entry:
            if accepted:
                counters.fills += 1
            else:
                counters.refused += 1


def replaceable(entry: bytes | None) -> bytes:
    """How an unusable entry begins, if a lease may replace it; else nothing (leases and intents stay)."""
    if not entry or is_lease(entry) or is_intent(entry):
        return b""
    return entry[:PREFIX_SIZE]


def filling(entry: bytes | None) -> bool:
    """Whether the key is leased by somebody, or was filled just now."""
    return entry is not None and (is_lease(entry) or entry[:1] in (VALUE, ABSENT, STALE))
