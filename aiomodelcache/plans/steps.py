"""The steps that plans of every kind share: lease, wait, load or release, store.

Decides what to do with the lease or value that a key holds. Must not know which keys belong to which kind of entry, or
what their values mean.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from aiomodelcache.encoding.layout import ABSENT, PREFIX_SIZE, STALE, VALUE, is_intent, is_lease
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Answer,
    Attempt,
    Computed,
    ComputeValue,
    LeaseResult,
    Load,
    Plan,
    PlannedFill,
    PlanRequest,
    Read,
    Spawn,
    StaleAnswer,
    StoreFills,
    T,
    Wait,
)
from aiomodelcache.scopes.bypass import BypassBlock, BypassFlag


def wait_for_leases(keys: Iterable[bytes], entries: Iterable[bytes | None], timeout: float | None = None) -> Plan[None]:
    """Waits for the keys that are leased. Keys that were filled in the meantime need no waiting."""
    leased = {key: entry for key, entry in zip(keys, entries, strict=True) if entry is not None and is_lease(entry)}
    if leased:
        yield Wait(list(leased), list(leased.values()), timeout)


def read_by_key(keys: Iterable[bytes]) -> Plan[dict[bytes, bytes | None]]:
    """Reads keys, each once. Returns by key what they hold."""
    wanted = list(dict.fromkeys(keys))
    return dict(zip(wanted, (yield Read(wanted)), strict=True))


def intercepted(plan: Plan[T], answer: Callable[[PlanRequest], Plan[Any]]) -> Plan[T]:
    """Runs a plan whose requests ``answer`` answers, itself a plan. What that raises, the plan gets."""
    step: Callable[[], PlanRequest] = partial(plan.send, None)
    while True:
        try:
            request = step()
        except StopIteration as stop:
            return cast("T", stop.value)
        try:
            answered = yield from answer(request)
        except Exception as error:
            step = partial(plan.throw, error)
        else:
            step = partial(plan.send, answered)


def with_prefetched(
    plan: Plan[T], read: dict[bytes, bytes | None], on_other_request: Callable[[], object] = lambda: None
) -> Plan[T]:
    """Runs a plan whose reads are answered from values that were read before it began. Each value is used once.

    ``on_other_request`` is called when the plan asks for anything that was not prefetched, other than a ``Spawn``.
    """

    def answer(request: PlanRequest) -> Plan[Any]:
        if type(request) is Read and all(key in read for key in request.keys):
            return [read.pop(key) for key in request.keys]
        if type(request) is not Spawn:
            on_other_request()
        return (yield request)

    return intercepted(plan, answer)


def with_refusal(plan: Plan[T]) -> Plan[tuple[T, bool]]:
    """Runs a plan. Returns its result, and True if that was computed from something that cannot be recorded."""
    refused = False

    def answer(request: PlanRequest) -> Plan[Any]:
        nonlocal refused
        answered = yield request
        if isinstance(request, ComputeValue):
            tracker = cast("Computed", answered).tracker
            refused = tracker is not None and tracker.refusal is not None
        elif isinstance(request, StaleAnswer):
            refused = True
        return answered

    result = yield from intercepted(plan, answer)
    return result, refused


def answer_without_store(request: PlanRequest) -> Any:
    """Returns the answer to a request when the store cannot be used: misses, no leases, no fills."""
    if isinstance(request, Read):
        return [None] * len(request.keys)
    if isinstance(request, AcquireLeases):
        return LeaseResult(Attempt(b"", 0.0), [b""] * len(request.keys), [None] * len(request.versions))
    if isinstance(request, StoreFills):
        return [False] * len(request.fills) + [b""] * len(request.late)
    return None


def without_store(plan: Plan[T]) -> Plan[T]:
    """Runs a plan on the database alone, although the store could be used."""

    def answer(request: PlanRequest) -> Plan[Any]:
        return (yield request) if isinstance(request, Load | ComputeValue) else answer_without_store(request)

    return intercepted(plan, answer)


def bypassing(plan: Plan[T], flag: BypassFlag) -> Plan[T]:
    """Runs a plan on the database alone. Lookups inside its computations bypass the cache, too."""

    def answer(request: PlanRequest) -> Plan[Any]:
        if isinstance(request, ComputeValue):
            request = ComputeValue(request.key + _BYPASS_SUFFIX, partial(_compute_bypassing, flag, request.compute))
        return (yield request)

    return intercepted(without_store(plan), answer)


async def _compute_bypassing(flag: BypassFlag, compute: Any, client: Any, **versions: Any) -> Any:
    with BypassBlock(flag):
        return await compute(client, **versions)


_BYPASS_SUFFIX: Final = b":-"
"""Tells a computation that bypasses the cache from others of the same key, which do not share it."""


def storing(plan: Plan[T], *, fill: bool, max_ttl_ms: int | None) -> Plan[T]:
    """Runs a plan that stores nothing, not even leases, or whose entries live at most so many milliseconds."""

    def answer(request: PlanRequest) -> Plan[Any]:
        if not fill and isinstance(request, AcquireLeases | StoreFills | Spawn):
            return answer_without_store(request)
        if max_ttl_ms is not None and isinstance(request, StoreFills):
            late = [each._replace(ttl_ms=min(each.ttl_ms, max_ttl_ms)) for each in request.late]
            request = StoreFills([(*fill[:3], min(fill[3], max_ttl_ms)) for fill in request.fills], late)
        return (yield request)

    return intercepted(plan, answer)


def checked(plan: Plan[T], check: Callable[[Load | ComputeValue], None]) -> Plan[T]:
    """Runs a plan, and calls ``check`` before each request that queries the database. What it raises, the plan gets."""

    def answer(request: PlanRequest) -> Plan[Any]:
        if isinstance(request, Load | ComputeValue):
            check(request)
        return (yield request)

    return intercepted(plan, answer)


def discard_entries(keys: list[bytes]) -> Plan[None]:
    """Deletes the entries under these keys, which may be hostile."""
    prefixes = map(replaceable_prefix, (yield Read(keys)))
    yield StoreFills(
        [(Attempt(b"", math.inf, prefix), key, b"", 1) for key, prefix in zip(keys, prefixes, strict=True) if prefix]
    )


def load_or_release(load: Load, acquired: LeaseResult | None, leased: Iterable[bytes]) -> Plan[dict[bytes, Answer]]:
    """Loads from the database. If that fails, releases the leases at once instead of letting them expire."""
    try:
        answers: dict[bytes, Answer] = yield load
    except Exception:
        if acquired is not None:
            yield StoreFills([(acquired.attempt, key, b"", 1) for key in leased])
        raise
    return answers


def store_fills(entry_set: RowEntries | IndexEntries, fills: list[PlannedFill]) -> Plan[None]:
    """Stores the fills, and counts the accepted and the refused ones."""
    stored = yield StoreFills(fills)
    counters = entry_set.counters
    for (_, _, entry, _), accepted in zip(fills, stored, strict=True):
        if entry:
            if accepted:
                counters.fills += 1
            else:
                counters.refused += 1


def replaceable_prefix(entry: bytes | None) -> bytes:
    """Returns the first bytes of an unusable entry if a lease may replace it, else empty bytes.

    Leases and intents must not be replaced.
    """
    if not entry or is_lease(entry) or is_intent(entry):
        return b""
    return entry[:PREFIX_SIZE]


def is_being_filled(entry: bytes | None) -> bool:
    """Returns True if another reader has leased the key, or has just filled it."""
    return entry is not None and (is_lease(entry) or entry[:1] in (VALUE, ABSENT, STALE))
