"""Which cache keys a written row touches.

The row's own key, every index key under its *new* values, and every computed result by its new values and by the
*old* ones. What left an index need not be named: readers check every row that an index leads to. What a result
was computed from nobody can check.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from pypika_tortoise.terms import Term
from tortoise.expressions import Expression
from tortoise.fields.base import DatabaseDefault

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.bound import Binding
from aiomodelcache.codec import EncodeError
from aiomodelcache.config import InvalidationType
from aiomodelcache.entries import new_token, new_version
from aiomodelcache.lookups import Guesses, Index, Rows
from aiomodelcache.plans.indexes import look_up
from aiomodelcache.plans.requests import Plan
from aiomodelcache.results import Result, result_again
from aiomodelcache.schema import ModelSchema, Values
from aiomodelcache.through import Links
from aiomodelcache.writes.intents import Intent

Row = Mapping[str, Any]
Changed = Collection[str] | None
"""The attributes that a write changes; None: all of them."""


def touch(
    intent: Intent,
    binding: Binding,
    row: Row,
    changed: Changed,
    *,
    exists: bool,
    final: bool = True,
    by_hand: bool = False,
) -> None:
    """Adds the keys of one row, given its values after the write; of classes that writes are to touch.

    ``exists``: the row is there afterwards; unique index keys may be left leading to it. ``final``: these are
    the values as written; a key that they do not tell is known to the database only, and everything about
    the model is added. Before the write such a key is passed over. ``by_hand``: the user says so, and means all
    classes, now.
    """
    schema, rows = binding.schema, binding.rows
    pk = row.get(schema.pk)
    pk = None if isinstance(pk, DatabaseDefault) else schema.normalise(schema.pk, pk)
    if pk is None and final:
        touch_model(intent, binding)
    clears: list[Clear] = []
    if pk is not None and (by_hand or not rows.policy.off):
        clears.append(Clear(rows.key(pk)))
        _follow_policy(intent, rows, clears[-1], (pk,), by_hand=by_hand)
    for index in affected(binding, changed, by_hand=by_hand):
        values = _values(index, row)
        if values is not None:
            clears.append(_clear(index, values, pk if final and exists else None))
            _follow_policy(intent, index, clears[-1], values, by_hand=by_hand)
        elif final and exists:
            intent.add_model(rows)
    if not exists and pk is not None:
        clears += [Clear(through.key((pk,))) for through in binding.owned]
    intent.add(rows, clears)
    touch_results(intent, binding, row, changed if exists else None, final=final and exists, by_hand=by_hand)


def touch_results(
    intent: Intent, binding: Binding, row: Row, changed: Changed, *, final: bool = True, by_hand: bool = False
) -> None:
    """Adds the keys of the results that are computed from a row with these values, before or after the write.

    ``final``: a key that the values do not tell is not named otherwise, and everything about the model is added.
    """
    for result in affected_results(binding, changed, by_hand=by_hand):
        values = _values(result, row)
        if values is not None:
            clear = Clear(result.key(values))
            intent.add(binding.rows, [clear])
            if not isinstance(result, Links):
                _follow_policy(intent, result, clear, values, by_hand=by_hand)
        elif final:
            intent.add_model(binding.rows)


def touch_model(intent: Intent, binding: Binding) -> None:
    """Adds everything about a model, if writes are to touch anything of it."""
    if not binding.off:
        intent.add_model(binding.rows)


def _follow_policy(
    intent: Intent, source: Rows | Index | Result, clear: Clear, values: Values, *, by_hand: bool
) -> None:
    """Notes what is to become of an entry, beside that it is not true any more."""
    if source.policy.invalidation is InvalidationType.RESET:
        refill: Callable[[Guesses], Plan[Any]]
        if isinstance(source, Result):
            refill, kept = partial(result_again, source, values), source.cacheable
        else:
            refill, kept = partial(look_up, source, values), isinstance(source, Rows) or source.cacheable(values)
        if kept:
            intent.refills[clear.key] = (refill, source.counters)
    if by_hand:
        intent.allowed.pop(clear.key, None)
    elif source.policy.allow_ms and not (isinstance(source, Index) and source.unique):  # which leave a hint
        intent.allowed[clear.key] = source.policy.allow_ms


def affected(binding: Binding, changed: Changed, *, by_hand: bool = False) -> list[Index]:
    """The indexes that a change of these attributes may put a row into, or move it in.

    A manager that hides rows may bring one back into any index, by a change of any column.
    """
    indexes = binding.indexes if by_hand else [index for index in binding.indexes if not index.policy.off]
    if changed is None or (changed and binding.schema.hides_rows):
        return indexes
    return [index for index in indexes if not index.watched.isdisjoint(changed)]


def affected_results(binding: Binding, changed: Changed, *, by_hand: bool = False) -> list[Result | Links]:
    """The results that a change of these attributes may change; None: those that a row which comes or goes may."""
    results = binding.results if by_hand else [result for result in binding.results if not result.policy.off]
    if changed is None:
        return results
    return [result for result in results if result.watched is None or not result.watched.isdisjoint(changed)]


def key_attributes(binding: Binding, changed: Changed, *, by_hand: bool = False) -> list[str]:
    """The attributes needed to name all keys that a change touches, the primary key first."""
    touched: list[Index | Result | Links] = [
        *affected(binding, changed, by_hand=by_hand),
        *affected_results(binding, changed, by_hand=by_hand),
    ]
    return list(dict.fromkeys([binding.schema.pk, *(name for each in touched for name in each.attributes)]))


def result_attributes(binding: Binding) -> list[str]:
    """The attributes needed to name all results that a row which goes has been part of."""
    return list(dict.fromkeys([name for result in affected_results(binding, None) for name in result.attributes]))


def old_attributes(binding: Binding, changed: Changed) -> list[str]:
    """The attributes whose old values are needed to name the results that a row leaves. Empty if it leaves none."""
    left = [
        result
        for result in affected_results(binding, changed)
        if changed is None or not frozenset(result.attributes).isdisjoint(changed)
    ]
    return list(dict.fromkeys([name for result in left for name in result.attributes]))


def untold(binding: Binding, row: Row, changed: Changed) -> list[str]:
    """The attributes of touched keys that an instance does not tell for sure.

    Columns that were not part of the write, in which it may be partial, changed but not saved, or older
    than the row; expressions and the database's own defaults; values that the database will change.
    """
    schema = binding.schema
    needed = key_attributes(binding, changed)[1:]
    return [name for name in needed if (changed is not None and name not in changed) or not _tells(schema, row, name)]


def _tells(schema: ModelSchema, row: Row, name: str) -> bool:
    if name not in row or isinstance(row[name], Expression | Term | DatabaseDefault):
        return False
    return schema.kept(name, row[name])


def _values(index: Index | Result | Links, row: Row) -> Values | None:
    """A key's values; None where the row does not tell: not loaded, left to the database, or not valid."""
    if not all(_tells(index.schema, row, name) for name in index.attributes):
        return None
    try:
        return tuple([index.schema.normalise(name, row[name]) for name in index.attributes])
    except ValueError:
        return None


def _clear(index: Index, values: Values, pk: Any) -> Clear:
    """How to leave an index key: leading to the row, where that is known and only one row can be meant."""
    key = index.key(values)
    if pk is None or not index.unique or None in values:
        return Clear(key)
    try:
        entry = index.entry(new_token(), new_version(), [pk])
    except EncodeError:
        return Clear(key)
    return Clear(key, entry, index.lifetimes.of(entry[:1]))
