"""Plans of lookups of computed results, by the same protocol as rows and indexes."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.encoding.layout import CREATED, HEADER, LEASE, PREFIX_SIZE, VALUE, is_lease, with_created
from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.encoding.together import ReadTogether
from aiomodelcache.encoding.values import InstanceReference
from aiomodelcache.entries.base import VALUE_BYTE, Miss, NoValue, count_undecodable, is_version, now_ms
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue, KnownDependencies, pack_dependencies
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.raised import Raised
from aiomodelcache.entries.resilience import is_failure
from aiomodelcache.entries.results import Compute, ResultEntries, map_nested, references_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.computing import compute_or_release, refuse_cycle
from aiomodelcache.plans.last_good import LastGood, copies_to_lease
from aiomodelcache.plans.refresh import refresh_request
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Attempt,
    Computed,
    LeaseResult,
    Plan,
    PlannedFill,
    Read,
    Spawn,
    StillComputing,
    StoreFills,
)
from aiomodelcache.plans.rows import rows_by_pk
from aiomodelcache.plans.steps import is_being_filled, replaceable_prefix, wait_for_leases, with_prefetched
from aiomodelcache.scopes.tracking import Tracker


def result_at(
    result: ResultEntries,
    key: bytes,
    compute: Compute,
    predictions: Predictions,
    *,
    forced: bool = False,
) -> Plan[Any]:
    """Finds a result, or computes and stores it. ``forced``: always computes it.

    Raises ``CacheError`` if the computation of the result looks up the same result, which would wait for itself, and
    the exception that is the result.
    """
    refuse_cycle(result, key)
    value = yield from _find_or_compute(result, key, compute, predictions, forced=forced)
    if type(value) is Raised:
        raise value.error
    return value


def _find_or_compute(
    result: ResultEntries, key: bytes, compute: Compute, predictions: Predictions, *, forced: bool
) -> Plan[Any]:
    prediction = predictions.predict(key)
    values = yield Read(prediction.together or [result.epoch_of(key), key, *prediction.keys])
    epoch, entry = values[:2]
    if not forced and entry is not None:
        found = dict(zip(prediction.keys, values[2:], strict=True))
        if isinstance(result, DerivedEntries) and result.may_be_younger(entry, prediction):
            found = {}
        value = yield from _read_value(result, key, entry, epoch, found, predictions)
        if value is not NoValue.MISS:
            if result.lifetimes.is_due(entry):
                if result.resilience.sliding and entry[:1] == VALUE and type(value) is not Raised:
                    yield Spawn(key + entry[:PREFIX_SIZE], _extend(result, key, entry, value), result.counters)
                    return value
                yield refresh_request(
                    result,
                    key,
                    entry,
                    [result.epoch_of(key)],
                    partial(_recompute, result, key, compute),
                    result.lease_ttl,
                )
            return value
    result.counters.misses += 1
    if not result.cacheable:
        result.counters.unfillable += 1
        return (yield from compute_or_release(key, compute, (), counters=result.counters)).take()
    tables = result.tables_to_read if isinstance(result, DerivedEntries) else ()
    acquired: LeaseResult = yield AcquireLeases(
        [(key, replaceable_prefix(entry)), *copies_to_lease(result, key)],
        [result.epoch_of(key), *tables],
        None,
        result.lease_ttl,
        anew=True,
    )
    granted = acquired.values[0] == LEASE + acquired.attempt.token
    last_good = LastGood(result, key, acquired)
    soft_timeout = None if forced else last_good.soft_timeout
    if not granted and is_being_filled(acquired.values[0]) and not forced:
        yield from wait_for_leases([key], acquired.values[:1], soft_timeout or result.lease_ttl)
        epoch, entry = yield Read([result.epoch_of(key), key])
        value = yield from _read_value(result, key, entry, epoch, {}, predictions)
        if value is NoValue.MISS and soft_timeout is not None and is_lease(entry):
            value = yield from last_good.answer()
            result.counters.stale_if_slow += value is not NoValue.MISS
        if value is not NoValue.MISS:
            yield from last_good.release()
            return value
    if tables:
        read = zip(tables, acquired.versions[1:], strict=True)
        known = [(table, version) for table, version in read if is_version(version)]
        compute = partial(cast("Any", compute), versions=known)
    releases = [*([(acquired.attempt, key, b"", 1)] if granted else []), *last_good.fills()]
    outcome: Computed | StillComputing
    try:
        outcome = yield from compute_or_release(key, compute, releases, soft_timeout, counters=result.counters)
    except StillComputing as late:
        outcome = late
    except Exception as error:
        value = (yield from last_good.answer()) if is_failure(error) and not forced else NoValue.MISS
        if value is NoValue.MISS:
            raise
        result.counters.stale_if_error += 1
        result.counters.warn_once(
            "failed", "aiomodelcache: %s failed, so its last good value answers: %s", result.name, safe_reason(error)
        )
        return value
    keep = partial(_keep, result, key, acquired, last_good, predictions)
    if not isinstance(outcome, StillComputing):
        return (yield from keep(outcome))
    value = yield from last_good.answer()
    finish = _finish(key, outcome, releases, keep)
    if value is NoValue.MISS:
        return (yield from finish)
    result.counters.stale_if_slow += 1
    yield Spawn(key + acquired.attempt.token, finish, result.counters)
    return value


def _finish(
    key: bytes, late: StillComputing, releases: list[PlannedFill], keep: Callable[[Computed], Plan[Any]]
) -> Plan[Any]:
    """Waits for the end of a computation, and stores its value, for which a caller may wait no more."""
    return (yield from keep((yield from compute_or_release(key, late.outcome, releases, counters=None))))


def _keep(
    result: ResultEntries,
    key: bytes,
    acquired: LeaseResult,
    last_good: LastGood,
    predictions: Predictions,
    computed: Computed,
) -> Plan[Any]:
    """Stores a computed value under the lease, if it was granted, and a copy of it. Returns the caller's own value."""
    granted = acquired.values[0] == LEASE + acquired.attempt.token
    known = predictions.get(key)
    keys, dependencies = _dependencies(computed.tracker, known)
    entry, ttl = _entry(result, acquired.attempt.token, acquired.versions[0], computed, dependencies)
    own = [(acquired.attempt, key, entry, ttl)] if granted else []
    fills = [*own, *last_good.fills(entry, computed.value, ttl)]
    result.counters.warned.discard("failed")
    if fills:
        stored = yield StoreFills(fills)
        if entry and granted:
            result.counters.fills += stored[0]
            result.counters.refused += not stored[0]
    if granted and keys is not None and computed.tracker is not None:
        if not isinstance(known, KnownDependencies):
            predictions.learn_keys(key, known := KnownDependencies(keys))
        elif known.keys[: known.number] != keys:
            rows = known.keys[known.number :]
            known = KnownDependencies(list(dict.fromkeys([*keys, *rows])), len(keys))
            predictions.learn_keys(key, known)
        known.learn_order(computed.tracker.recorded, dependencies)
    return computed.take()


def refill_result(result: ResultEntries, values: Values, predictions: Predictions) -> Plan[Any]:
    """Finds the result for these values after a write, without a caller that asked for it."""
    assert result.compute_for is not None, "a value that depends on no model is not invalidated by writes"
    return (yield from result_at(result, result.key(values), result.compute_for(values), predictions))


def _recompute(
    result: ResultEntries, key: bytes, compute: Compute, acquired: LeaseResult, attempt: Attempt
) -> Plan[list[PlannedFill]]:
    last_good: LastGood | None = None
    if copies := copies_to_lease(result, key):
        of_copy: LeaseResult = yield AcquireLeases(
            copies, [result.epoch_of(key)], acquired.attempt.deadline, result.lease_ttl
        )
        last_good = LastGood(result, key, of_copy)
    releases = last_good.fills() if last_good is not None else ()
    computed = yield from compute_or_release(key, compute, releases, counters=result.counters)
    _, dependencies = _dependencies(computed.tracker)
    entry, ttl = _entry(result, attempt.token, acquired.versions[0], computed, dependencies)
    if last_good is not None and (fills := last_good.fills(entry, computed.value, ttl)):
        yield StoreFills(fills)
    return [(attempt, key, entry, ttl)] if entry else []


def _extend(result: ResultEntries, key: bytes, entry: bytes, value: Any) -> Plan[bool]:
    """Stores a current entry once more, with a full life, if it is still there.

    Its token stays, because derived results depend on it. A writer that came in between has removed the entry.
    """
    attempt = Attempt(b"", math.inf, entry[:PREFIX_SIZE])
    again, ttl = with_created(entry, now_ms()), result.ttl(value)
    copies: list[PlannedFill] = []
    if wanted := copies_to_lease(result, key):
        copies = LastGood(result, key, (yield AcquireLeases(wanted, [result.epoch_of(key)]))).fills(again, value, ttl)
    stored = yield StoreFills([(attempt, key, again, ttl), *copies])
    result.counters.extended += stored[0]
    return True


def _dependencies(tracker: Tracker | None, known: Prediction | None = None) -> tuple[list[bytes] | None, bytes]:
    """Returns the keys of the dependencies, or None if they are as ``known``, and all of them as they are stored."""
    if tracker is None:
        return None, b""
    if isinstance(known, KnownDependencies) and (packed := known.pack(tracker.recorded)):
        return None, packed
    return pack_dependencies(tracker.recorded)


def _entry(
    result: ResultEntries, token: bytes, epoch: bytes | None, computed: Computed, dependencies: bytes
) -> tuple[bytes, int]:
    """Returns the entry of a computed value and its lifetime in milliseconds. Empty if it must not be stored."""
    ttl = result.ttl(computed.value) if computed.storable else 0
    if not ttl:
        return b"", 1
    return result.entry(token, epoch, computed.value, dependencies), ttl


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
        predictions.discard(key)
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
            wanted.update(dict.fromkeys([*rows.partitions.epochs_of(pks), *pks]))
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
        known = KnownDependencies(list(wanted), len(derived.keys) if derived is not None else 0)
        predictions.learn_keys(key, known)
    if entry is not None and derived is not None and isinstance(known, KnownDependencies):
        known.seen = entry[HEADER]
        if not referred:
            known.learn(entry, derived.tokens, derived.start)
    result.counters.hits += 1
    return value


def result_hit(
    result: ResultEntries,
    epoch_key: bytes,
    key: bytes,
    prediction: Prediction,
    entries: Mapping[bytes, bytes | None],
) -> Any | Miss:
    """Returns the value of an entry that is not due and refers to no rows, if ``entries`` hold all that it depends on.

    A derived entry must depend on the first keys of the ``prediction``. Else a miss: the plan tells the cases apart.
    """
    together = entries if type(entries) is ReadTogether and entries.known is prediction.together else None
    epoch, entry = together.values_read[:2] if together is not None else (entries[epoch_key], entries[key])
    if not entry or epoch is None or entry[0] != VALUE_BYTE or entry[CREATED] <= result.lifetimes.due:
        return NoValue.MISS
    try:
        if isinstance(result, DerivedEntries):
            shared = result.find_unchanged(together, prediction) if together is not None else None
            if shared is not None:
                value = result.copy_of(shared)
            else:
                read = together.values_read[2:] if together is not None else map(entries.get, prediction.keys)
                value = result.derived_hit(entry, epoch, read, prediction)
                if together is not None and value is not NoValue.MISS:
                    result.keep_read(together, prediction)
        else:
            value = result.hit(entry, epoch)
    except Exception:  # damaged, or hostile
        return NoValue.MISS
    result.counters.hits += value is not NoValue.MISS
    return value


def instance_of(entry_set: RowEntries | IndexEntries, row: Any) -> Model:
    """Returns the instance for a row of a plan, which holds the columns of a row entry or a loaded instance."""
    return entry_set.schema.instance(cast("RowValues", row)) if type(row) is dict else row
