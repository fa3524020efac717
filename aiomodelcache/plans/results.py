"""How a lookup of a computed result proceeds, by the same protocol as rows and indexes."""

from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.layout import LEASE
from aiomodelcache.encoding.values import InstanceReference
from aiomodelcache.entries.base import Miss, NoValue, count_undecodable
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.results import Compute, ResultEntries, map_nested, references_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheError
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.refresh import renewed
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Attempt,
    Computed,
    ComputeValue,
    Filling,
    LeaseResult,
    Plan,
    Read,
    Store,
)
from aiomodelcache.plans.rows import rows_by_pk
from aiomodelcache.plans.steps import ahead_of, filling, replaceable, wait

# The plan -------------------------------------------------------------------------------------------------


def result_at(
    result: ResultEntries,
    key: bytes,
    compute: Compute,
    predictions: Predictions,
    *,
    forced: bool = False,
) -> Plan[Any]:
    """Finds a result, or has it computed and stores it. ``forced``: computes it in any case.

    Raises ``CacheError`` if it is asked for by what computes it, which would wait for itself.
    """
    around = _computing.get()
    while around is not None:
        if around.key == key and not around.over:
            raise CacheError(
                f"{result.name} is computed by awaiting itself, with the same arguments: break the circle."
            )
        around = around.around
    prediction = predictions.predict(key)
    epoch, entry, *ahead = yield Read([result.epoch_key, key, *prediction.keys])
    if not forced:
        value = yield from _answer(
            result, key, entry, epoch, dict(zip(prediction.keys, ahead, strict=True)), predictions
        )
        if value is not NoValue.MISS:
            if result.lifetimes.is_due(entry):
                yield renewed(
                    result, key, entry, [result.epoch_key], partial(_again, result, key, compute), result.lease_ttl
                )
            return value
    result.counters.misses += 1
    if not result.cacheable:
        result.counters.unfillable += 1
        return (yield from _compute(key, compute, None)).take()
    taken: LeaseResult = yield AcquireLeases([(key, replaceable(entry))], [result.epoch_key], None, result.lease_ttl)
    mine = taken.values[0] == LEASE + taken.attempt.token
    if not mine and filling(taken.values[0]) and not forced:
        yield from wait([key], taken.values, result.lease_ttl)
        epoch, entry = yield Read([result.epoch_key, key])
        value = yield from _answer(result, key, entry, epoch, {}, predictions)
        if value is not NoValue.MISS:
            return value
    found = yield from _compute(key, compute, taken.attempt if mine else None)
    if mine:
        entry = result.entry(taken.attempt.token, taken.versions[0], found.value) if found.kept else b""
        stored = yield Store([(taken.attempt, key, entry, result.ttl(found.value))])
        if entry:
            result.counters.fills += stored[0]
            result.counters.refused += not stored[0]
    return found.take()


def result_again(result: ResultEntries, values: Values, predictions: Predictions) -> Plan[Any]:
    """Finds the result for these values, where nobody has asked for it."""
    assert result.compute_for is not None, "a value that depends on no model is not invalidated by writes"
    return (yield from result_at(result, result.key(values), result.compute_for(values), predictions))


def _again(
    result: ResultEntries, key: bytes, compute: Compute, taken: LeaseResult, attempt: Attempt
) -> Plan[list[Filling]]:
    found: Computed = yield ComputeValue(key, compute)
    if not found.kept:
        return []
    entry = result.entry(attempt.token, taken.versions[0], found.value)
    return [(attempt, key, entry, result.ttl(found.value))]


class _Computing:
    """A computation under way, and the one that asked for it."""

    __slots__ = ("around", "key", "over")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.around = _computing.get()
        self.over = False


_computing: Final[ContextVar[_Computing | None]] = ContextVar("aiomodelcache_computing", default=None)


async def _computed(key: bytes, compute: Compute, client: BaseDBAsyncClient | None) -> Any:
    own = _Computing(key)
    token = _computing.set(own)
    try:
        return await compute(client)
    finally:
        own.over = True  # for tasks that outlive it
        _computing.reset(token)


def _compute(key: bytes, compute: Compute, attempt: Attempt | None) -> Plan[Computed]:
    """Computes; if that fails, the lease is given back at once instead of expiring."""
    try:
        found: Computed = yield ComputeValue(key, partial(_computed, key, compute))
    except Exception:
        if attempt is not None:
            yield Store([(attempt, key, b"", 1)])
        raise
    return found


def _answer(
    result: ResultEntries,
    key: bytes,
    entry: bytes | None,
    epoch: bytes | None,
    ahead: dict[bytes, bytes | None],
    predictions: Predictions,
) -> Plan[Any | Miss]:
    """What an entry says, with the instances in it; a miss if one of their rows is gone."""
    value = result.read(entry, epoch)
    if value is NoValue.MISS:
        return value
    references = dict.fromkeys(references_in(value))
    if references:
        try:
            referred = result.referred(references)
        except DecodeError as error:
            return count_undecodable(result.counters, result.name, error)
        found: dict[InstanceReference, Any] = {}
        read: dict[bytes, None] = {}
        for rows in dict.fromkeys([rows for rows, _ in referred.values()]):
            pks = {reference: pk for reference, (other, pk) in referred.items() if other is rows}
            by_pk = yield from ahead_of(rows_by_pk(rows, list(pks.values())), ahead)
            found.update({reference: instance_of(rows, by_pk[pk]) for reference, pk in pks.items() if pk in by_pk})
            read.update(dict.fromkeys([rows.epoch_key, *map(rows.key, pks.values())]))
        predictions.learn_keys(key, Prediction(list(referred), list(read)))
        if len(found) < len(referred):
            result.counters.repaired += 1
            return NoValue.MISS
        value = map_nested(value, InstanceReference, found.__getitem__)
    result.counters.hits += 1
    return value


def instance_of(entry_set: RowEntries | IndexEntries, row: Any) -> Model:
    """The instance of what a plan found: the columns of a row entry, or an instance from the database."""
    return entry_set.schema.instance(cast("RowValues", row)) if type(row) is dict else row
