"""Computations of results in plans: those around a caller, and the leases that a failed one gives back."""

from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.entries.results import Compute, ResultEntries
from aiomodelcache.exceptions import CacheError
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import Computed, ComputeValue, Plan, PlannedFill, StillComputing, StoreFills


class _Computation:
    """A computation in progress, and the computation that started it."""

    __slots__ = ("finished", "key", "parent")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.parent = _current.get()
        self.finished = False


def refuse_cycle(result: ResultEntries, key: bytes) -> None:
    """Raises ``CacheError`` if the caller computes this result, so that awaiting the result would wait for itself."""
    parent = _current.get()
    while parent is not None:
        if parent.key == key and not parent.finished:
            raise CacheError(f"{result.name} is computed by awaiting itself, with the same arguments: break the cycle.")
        parent = parent.parent


_current: Final[ContextVar[_Computation | None]] = ContextVar("aiomodelcache_computing", default=None)


@contextmanager
def also_computing(keys: Iterable[bytes]) -> Generator[None]:
    """A block that computes the results under these keys, too. Awaiting one of them inside raises ``CacheError``."""
    before = _current.get()
    computations: list[_Computation] = []
    for key in keys:
        computations.append(_Computation(key))
        _current.set(computations[-1])
    try:
        yield
    finally:
        for computation in computations:
            computation.finished = True
        _current.set(before)


async def _run_computation(
    key: bytes, compute: Compute, counters: Counters | None, client: BaseDBAsyncClient | None
) -> Any:
    own = _Computation(key)
    token = _current.set(own)
    started = perf_counter()
    try:
        return await compute(client)
    finally:
        if counters is not None:
            counters.seconds += perf_counter() - started
        own.finished = True  # tasks that outlive the computation may look up the same result
        _current.reset(token)


def compute_or_release(
    key: bytes,
    compute: Compute,
    releases: Collection[PlannedFill],
    soft_timeout: float | None = None,
    *,
    counters: Counters | None,
) -> Plan[Computed]:
    """Computes. If that fails, releases the leases at once instead of letting them expire.

    ``counters``: those to which the time is added, or None if it is added already.
    """
    try:
        computed: Computed = yield ComputeValue(key, partial(_run_computation, key, compute, counters), soft_timeout)
    except StillComputing:
        raise
    except Exception:
        if releases:
            yield StoreFills([*releases])
        raise
    return computed
