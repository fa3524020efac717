"""Which cache keys a written row touches.

The row's own key, every index key under its *new* values, and every computed result by its new values and by the
*old* ones. What left an index need not be named: readers check every row that an index leads to. What a result
was computed from nobody can check.
"""

from collections.abc import Callable, Collection
from functools import partial
from operator import is_
from typing import Any, Final

from pypika_tortoise.terms import Term
from tortoise.expressions import Expression
from tortoise.fields.base import DatabaseDefault

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.config import InvalidationType
from aiomodelcache.encoding.codec import NATIVE, EncodeError
from aiomodelcache.encoding.layout import new_token
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ThroughModelDependency
from aiomodelcache.entries.model import AffectedEntries, ModelEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.indexes import look_up
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import refill_result

MOST_AFFECTED: Final = 1_000
"""Of how many choices of columns it is remembered what a write of these affects."""

_UNKNOWN: Final = object()
_LATER: Final = (Expression, Term, DatabaseDefault)
"""What stands for a value that the database computes."""

_IMMUTABLE: Final = NATIVE | {type(None)}

Changed = Collection[str] | None
"""The attributes that a write changes; None: all of them."""
Naming = tuple[Changed, list[Any]]
"""What a write changes, and the values that it names keys by."""


def collect_affected_keys(
    intent: Intent,
    entries: ModelEntries,
    row: RowValues,
    changed: Changed,
    *,
    exists: bool,
    final: bool = True,
    by_hand: bool = False,
) -> bool:
    """Adds the keys of one row, given its values after the write; of classes that writes are to touch.

    ``exists``: the row is there afterwards; unique index keys may be left leading to it. ``final``: these are
    the values as written; a key that they do not tell is known to the database only, and everything about
    the model is added. Before the write such a key is passed over. ``by_hand``: the user says so, and means all
    classes, now. Returns whether the values tell all keys.
    """
    schema, rows = entries.schema, entries.rows
    pk = row.get(schema.pk)
    pk = None if isinstance(pk, DatabaseDefault) else schema.normalise(schema.pk, pk)
    all_known = pk is not None
    if pk is None and final:
        collect_model_key(intent, entries)
    clears: list[Clear] = []
    if pk is not None and (by_hand or not rows.policy.off):
        clears.append(Clear(rows.key(pk)))
        _follow_policy(intent, rows, clears[-1], (pk,), by_hand=by_hand)
    for index in affected(entries, changed, by_hand=by_hand).indexes:
        values = _values(index, row)
        if values is not None:
            clears.append(_clear(index, values, pk if exists else None))
            _follow_policy(intent, index, clears[-1], values, by_hand=by_hand)
        else:
            all_known = False
            if final and exists:
                intent.add_model(rows)
    if not exists and pk is not None:
        clears += [Clear(through.key((pk,))) for through in entries.owned]
    intent.add(rows, clears)
    if entries.results:
        changed = changed if exists else None
        all_known &= collect_result_keys(intent, entries, row, changed, final=final and exists, by_hand=by_hand)
    return all_known


def collect_result_keys(
    intent: Intent,
    entries: ModelEntries,
    row: RowValues,
    changed: Changed,
    *,
    final: bool = True,
    by_hand: bool = False,
) -> bool:
    """Adds the keys of the results that are computed from a row with these values, before or after the write.

    ``final``: a key that the values do not tell is not named otherwise, and everything about the model is added.
    Returns whether the values tell all keys.
    """
    all_known = True
    for result in affected(entries, changed, by_hand=by_hand).results:
        values = _values(result, row)
        if values is not None:
            clear = Clear(result.key(values))
            intent.add(entries.rows, [clear])
            if not isinstance(result, ThroughModelDependency):
                _follow_policy(intent, result, clear, values, by_hand=by_hand)
        else:
            all_known = False
            if final:
                intent.add_model(entries.rows)
    return all_known


def naming(entries: ModelEntries, row: RowValues, changed: Changed) -> Naming:
    """What the keys of a row are named by; the same again as long as the keys are."""
    attributes = affected(entries, changed).attributes
    return changed, [row.get(name, _UNKNOWN) for name in (entries.schema.pk, *attributes)]


def same_names(one: Naming | None, other: Naming) -> bool:
    """Whether the keys are surely the same: by the very same values, which nobody can have changed meanwhile."""
    return (
        one is not None
        and one[0] == other[0]
        and all(map(is_, one[1], other[1]))
        and _IMMUTABLE.issuperset(map(type, other[1]))
    )


def collect_model_key(intent: Intent, entries: ModelEntries) -> None:
    """Adds everything about a model, if writes are to touch anything of it."""
    if not entries.off:
        intent.add_model(entries.rows)


def _follow_policy(
    intent: Intent, entry_set: RowEntries | IndexEntries | ResultEntries, clear: Clear, values: Values, *, by_hand: bool
) -> None:
    """Notes what is to become of an entry, beside that it is not true any more."""
    if entry_set.policy.invalidation is InvalidationType.RESET:
        refill: Callable[[Predictions], Plan[Any]]
        if isinstance(entry_set, ResultEntries):
            refill, kept = partial(refill_result, entry_set, values), entry_set.cacheable
        else:
            refill, kept = (
                partial(look_up, entry_set, values),
                isinstance(entry_set, RowEntries) or entry_set.cacheable(values),
            )
        if kept:
            intent.refills[clear.key] = (refill, entry_set.counters)
    if by_hand:
        intent.allowed.pop(clear.key, None)
    elif entry_set.policy.allow_ms and not (
        isinstance(entry_set, IndexEntries) and entry_set.unique
    ):  # which leave a hint
        intent.allowed[clear.key] = entry_set.policy.allow_ms


def affected(entries: ModelEntries, changed: Changed, *, by_hand: bool = False) -> AffectedEntries:
    """What a change of these attributes may change; None: what a row may that comes or goes, or is written whole."""
    columns = None if changed is None else frozenset(changed)
    known = entries.affected.get((columns, by_hand))
    if known is None:
        if len(entries.affected) >= MOST_AFFECTED:
            entries.affected.clear()
        known = entries.affected[columns, by_hand] = _affected(entries, columns, by_hand=by_hand)
    return known


def _affected(entries: ModelEntries, changed: Changed, *, by_hand: bool) -> AffectedEntries:
    indexes = _affected_indexes(entries, changed, by_hand=by_hand)
    results = _affected_results(entries, changed, by_hand=by_hand)
    left = [each for each in results if changed is None or not frozenset(each.attributes).isdisjoint(changed)]
    named = dict.fromkeys(name for each in [*indexes, *results] for name in each.attributes)
    named.pop(entries.schema.pk, None)
    old = dict.fromkeys(name for each in left for name in each.attributes)
    return AffectedEntries(indexes, results, list(named), list(old))


def _affected_indexes(entries: ModelEntries, changed: Changed, *, by_hand: bool) -> list[IndexEntries]:
    """A manager that hides rows may bring one back into any index, by a change of any column."""
    indexes = entries.indexes if by_hand else [index for index in entries.indexes if not index.policy.off]
    if changed is None or (changed and entries.schema.hides_rows):
        return indexes
    return [index for index in indexes if not index.watched.isdisjoint(changed)]


def _affected_results(
    entries: ModelEntries, changed: Changed, *, by_hand: bool
) -> list[ResultEntries | ThroughModelDependency]:
    results = entries.results if by_hand else [result for result in entries.results if not result.policy.off]
    if changed is None:
        return results
    return [result for result in results if result.watched is None or not result.watched.isdisjoint(changed)]


def affected_columns(entries: ModelEntries, changed: Changed, *, by_hand: bool = False) -> list[str]:
    """The attributes needed to name all keys that a change touches, the primary key first."""
    return [entries.schema.pk, *affected(entries, changed, by_hand=by_hand).attributes]


def result_attributes(entries: ModelEntries) -> list[str]:
    """The attributes needed to name all results that a row which goes has been part of."""
    return affected(entries, None).old_value_columns


def old_attributes(entries: ModelEntries, changed: Changed) -> list[str]:
    """The attributes whose old values are needed to name the results that a row leaves. Empty if it leaves none."""
    return affected(entries, changed).old_value_columns


def unknown_columns(entries: ModelEntries, row: RowValues, changed: Changed) -> list[str]:
    """The attributes of touched keys that an instance does not tell for sure.

    Columns that were not part of the write, in which it may be partial, changed but not saved, or older
    than the row; expressions and the database's own defaults; values that the database will change.
    """
    schema = entries.schema
    needed = affected(entries, changed).attributes
    return [
        name for name in needed if (changed is not None and name not in changed) or not _is_known(schema, row, name)
    ]


def _is_known(schema: ModelSchema, row: RowValues, name: str) -> bool:
    value = row.get(name, _UNKNOWN)
    if type(value) not in NATIVE and (value is _UNKNOWN or isinstance(value, _LATER)):
        return False
    return schema.kept(name, value)


def _values(index: IndexEntries | ResultEntries | ThroughModelDependency, row: RowValues) -> Values | None:
    """A key's values; None where the row does not tell: not loaded, left to the database, or not valid."""
    schema = index.schema
    values: list[Any] = []
    for name in index.attributes:
        if not _is_known(schema, row, name):
            return None
        try:
            values.append(schema.normalise(name, row[name]))
        except ValueError:
            return None
    return tuple(values)


def _clear(index: IndexEntries, values: Values, pk: Any) -> Clear:
    """How to leave an index key: leading to the row, where that is known and only one row can be meant."""
    key = index.key(values)
    if pk is None or not index.unique or None in values:
        return Clear(key)
    try:
        entry = index.entry(new_token(), b"", [pk])  # of a unique index no epoch is asked for
    except EncodeError:
        return Clear(key)
    return Clear(key, entry, index.lifetimes.of(entry[:1]))
