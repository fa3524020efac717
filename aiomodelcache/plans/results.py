"""Plans of lookups of computed results, by the same protocol as rows and indexes."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.layout import CREATED, LEASE
from aiomodelcache.encoding.values import InstanceReference
from aiomodelcache.entries.base import VALUE_BYTE, Miss, NoValue, count_undecodable, is_version
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue, KnownDependencies
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.results import NO_DEPENDENCIES, Compute, ResultEntries, map_nested, references_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheError
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.refresh import refresh_request
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Attempt,
    Computed,
    ComputeValue,
    LeaseResult,
    Plan,
    PlannedFill,
    Read,
    Store,
)
from aiomodelcache.plans.rows import rows_by_pk
from aiomodelcache.plans.steps import is_being_filled, replaceable_prefix, wait_for_leases, with_prefetched


def result_at(
    result: ResultEntries,
    key: bytes,
    compute: Compute,
    predictions: Predictions,
    *,
    forced: bool = False,
) -> Plan[Any]:
    """Finds a result, or computes and stores it. ``forced``: always computes it.

    Raises ``CacheError`` if the computation of the result looks up the same result, which would wait for itself.
    """
    refuse_cycle(result, key)
    prediction = predictions.predict(key)
    epoch, entry, *prefetched = yield Read([result.epoch_key, key, *prediction.keys])
    if not forced:
        value = yield from _read_value(
            result, key, entry, epoch, dict(zip(prediction.keys, prefetched, strict=True)), predictions
        )
        if value is not NoValue.MISS:
            if result.lifetimes.is_due(entry):
                yield refresh_request(
                    result, key, entry, [result.epoch_key], partial(_recompute, result, key, compute), result.lease_ttl
                )
            return value
    result.counters.misses += 1
    if not result.cacheable:
        result.counters.unfillable += 1
        return (yield from _compute_or_release(key, compute, None)).take()
    tables = result.tables_to_read if isinstance(result, DerivedEntries) else ()
    acquired: LeaseResult = yield AcquireLeases(
        [(key, replaceable_prefix(entry))], [result.epoch_key, *tables], None, result.lease_ttl
    )
    granted = acquired.values[0] == LEASE + acquired.attempt.token
    if not granted and is_being_filled(acquired.values[0]) and not forced:
        yield from wait_for_leases([key], acquired.values, result.lease_ttl)
        epoch, entry = yield Read([result.epoch_key, key])
        value = yield from _read_value(result, key, entry, epoch, {}, predictions)
        if value is not NoValue.MISS:
            return value
    if tables:
        read = zip(tables, acquired.versions[1:], strict=True)
        known = [(table, version) for table, version in read if is_version(version)]
        compute = partial(cast("Any", compute), versions=known)
    computed = yield from _compute_or_release(key, compute, acquired.attempt if granted else None)
    if granted:
        entry = _entry(result, acquired.attempt.token, acquired.versions[0], computed)
        stored = yield Store([(acquired.attempt, key, entry, result.ttl(computed.value))])
        if entry:
            result.counters.fills += stored[0]
            result.counters.refused += not stored[0]
        if computed.tracker is not None:
            keys = dict.fromkeys([*computed.tracker.dependencies, *predictions.predict(key).keys])
            predictions.learn_keys(key, KnownDependencies(list(keys)))
    return computed.take()


def refill_result(result: ResultEntries, values: Values, predictions: Predictions) -> Plan[Any]:
    """Finds the result for these values after a write, without a caller that asked for it."""
    assert result.compute_for is not None, "a value that depends on no model is not invalidated by writes"
    return (yield from result_at(result, result.key(values), result.compute_for(values), predictions))


def _recompute(
    result: ResultEntries, key: bytes, compute: Compute, acquired: LeaseResult, attempt: Attempt
) -> Plan[list[PlannedFill]]:
    computed: Computed = yield ComputeValue(key, compute)
    entry = _entry(result, attempt.token, acquired.versions[0], computed)
    return [(attempt, key, entry, result.ttl(computed.value))] if entry else []


def _entry(result: ResultEntries, token: bytes, epoch: bytes | None, computed: Computed) -> bytes:
    """Returns the entry of a computed value, empty if the value must not be stored."""
    if not computed.storable:
        return b""
    dependencies = NO_DEPENDENCIES if computed.tracker is None else computed.tracker.dependencies
    return result.entry(token, epoch, computed.value, dependencies)


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


async def _run_computation(key: bytes, compute: Compute, client: BaseDBAsyncClient | None) -> Any:
    own = _Computation(key)
    token = _current.set(own)
    try:
        return await compute(client)
    finally:
        own.finished = True  # tasks that outlive the computation may look up the same result
        _current.reset(token)


def _compute_or_release(key: bytes, compute: Compute, attempt: Attempt | None) -> Plan[Computed]:
    """Computes. If that fails, releases the lease at once instead of letting it expire."""
    try:
        computed: Computed = yield ComputeValue(key, partial(_run_computation, key, compute))
    except Exception:
        if attempt is not None:
            yield Store([(attempt, key, b"", 1)])
        raise
    return computed


def _read_value(
    result: ResultEntries,
    key: bytes,
    entry: bytes | None,
    epoch: bytes | None,
    prefetched: dict[bytes, bytes | None],
    predictions: Predictions,
) -> Plan[Any | Miss]:
    """Returns the value of an entry, with its instances. A miss if one of their rows is gone."""
    value = result.read(entry, epoch)
    if value is NoValue.MISS:
        return value
    wanted: dict[bytes, None] = {}
    derived = value if isinstance(value, DerivedValue) else None
    if derived is not None:
        wanted.update(dict.fromkeys(derived.keys))
        unread = [each for each in wanted if each not in prefetched]
        if unread:
            prefetched.update(zip(unread, (yield Read(unread)), strict=True))
        if not derived.is_current(prefetched):
            return NoValue.MISS
        value = derived.value
    try:
        references = dict.fromkeys(references_in(value)) if result.may_refer else {}
        referred = result.referred(references) if references else {}
    except Exception as error:  # bytes that this program did not store
        predictions.forget(key)
        return count_undecodable(result.counters, result.name, error)
    other_requests: list[None] = []
    if referred:
        instances: dict[InstanceReference, Any] = {}
        for rows in dict.fromkeys([rows for rows, _ in referred.values()]):
            keys = {reference: rows.key(pk) for reference, (other, pk) in referred.items() if other is rows}
            pks = {key: referred[reference][1] for reference, key in keys.items()}
            try:
                found = yield from with_prefetched(
                    rows_by_pk(rows, pks), prefetched, partial(other_requests.append, None)
                )
            except Exception:  # no row can have such a primary key, or else computing the value fails as well
                found = {}
            instances.update(
                {reference: instance_of(rows, found[key]) for reference, key in keys.items() if key in found}
            )
            wanted.update(dict.fromkeys([rows.epoch_key, *pks]))
        if len(instances) < len(referred):
            result.counters.repaired += 1
            return NoValue.MISS
        if derived is not None and other_requests:  # the rows are newer than the value, which may have changed too
            again = dict(zip(derived.keys, (yield Read(derived.keys)), strict=True))
            if not derived.is_current(again):
                return NoValue.MISS
        value = map_nested(value, InstanceReference, instances.__getitem__)
    known = predictions.predict(key)
    if known.keys != list(wanted):
        known = KnownDependencies(list(wanted))
        predictions.learn_keys(key, known)
    if entry is not None and derived is not None and not referred and isinstance(known, KnownDependencies):
        known.remember(entry, derived.tokens, derived.start)
    result.counters.hits += 1
    return value


def result_hit(
    result: ResultEntries, key: bytes, prediction: Prediction, entries: Mapping[bytes, bytes | None]
) -> Any | Miss:
    """Returns the value of an entry that is not due and refers to no rows, if ``entries`` hold all that it depends on.

    A derived entry must depend on the first keys of the ``prediction``. Else a miss: the plan tells the cases apart.
    """
    entry, epoch = entries[key], entries[result.epoch_key]
    if entry is None or epoch is None or entry[0] != VALUE_BYTE or entry[CREATED] <= result.lifetimes.due:
        return NoValue.MISS
    try:
        if isinstance(result, DerivedEntries):
            value = result.derived_hit(entry, epoch, entries, prediction)
        else:
            value = result.hit(entry, epoch)
    except Exception:  # damaged, or hostile
        return NoValue.MISS
    result.counters.hits += value is not NoValue.MISS
    return value


def instance_of(entry_set: RowEntries | IndexEntries, row: Any) -> Model:
    """Returns the instance for a row of a plan, which holds the columns of a row entry or a loaded instance."""
    return entry_set.schema.instance(cast("RowValues", row)) if type(row) is dict else row
