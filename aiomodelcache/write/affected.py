"""Which cache keys a written row touches.

The row's own key, every index key under its *new* values, and every computed result by its new values and by the
*old* ones. What left an index need not be named: readers check every row that an index leads to. What a result
was computed from nobody can check.
"""

from collections.abc import Callable, Collection, Mapping
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
from aiomodelcache.entries.indexes import Index
from aiomodelcache.entries.many_to_many import Links
from aiomodelcache.entries.model import Affected, Binding
from aiomodelcache.entries.predictions import Guesses
from aiomodelcache.entries.results import Result
from aiomodelcache.entries.rows import Rows
from aiomodelcache.orm.meta import Values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.indexes import look_up
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import result_again

MOST_AFFECTED: Final = 1_000
"""Of how many choices of columns it is remembered what a write of these affects."""

_UNKNOWN: Final = object()
_LATER: Final = (Expression, Term, DatabaseDefault)
"""What stands for a value that the database computes."""

_IMMUTABLE: Final = NATIVE | {type(None)}

Row = Mapping[str, Any]
Changed = Collection[str] | None
"""The attributes that a write changes; None: all of them."""
Naming = tuple[Changed, list[Any]]
"""What a write changes, and the values that it names keys by."""


def touch(
    intent: Intent,
    binding: Binding,
    row: Row,
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
    schema, rows = binding.schema, binding.rows
    pk = row.get(schema.pk)
    pk = None if isinstance(pk, DatabaseDefault) else schema.normalise(schema.pk, pk)
    told = pk is not None
    if pk is None and final:
        touch_model(intent, binding)
    clears: list[Clear] = []
    if pk is not None and (by_hand or not rows.policy.off):
        clears.append(Clear(rows.key(pk)))
        _follow_policy(intent, rows, clears[-1], (pk,), by_hand=by_hand)
    for index in affected(binding, changed, by_hand=by_hand).indexes:
        values = _values(index, row)
        if values is not None:
            clears.append(_clear(index, values, pk if exists else None))
            _follow_policy(intent, index, clears[-1], values, by_hand=by_hand)
        else:
            told = False
            if final and exists:
                intent.add_model(rows)
    if not exists and pk is not None:
        clears += [Clear(through.key((pk,))) for through in binding.owned]
    intent.add(rows, clears)
    if binding.results:
        changed = changed if exists else None
        told &= touch_results(intent, binding, row, changed, final=final and exists, by_hand=by_hand)
    return told


def touch_results(
    intent: Intent, binding: Binding, row: Row, changed: Changed, *, final: bool = True, by_hand: bool = False
) -> bool:
    """Adds the keys of the results that are computed from a row with these values, before or after the write.

    ``final``: a key that the values do not tell is not named otherwise, and everything about the model is added.
    Returns whether the values tell all keys.
    """
    told = True
    for result in affected(binding, changed, by_hand=by_hand).results:
        values = _values(result, row)
        if values is not None:
            clear = Clear(result.key(values))
            intent.add(binding.rows, [clear])
            if not isinstance(result, Links):
                _follow_policy(intent, result, clear, values, by_hand=by_hand)
        else:
            told = False
            if final:
                intent.add_model(binding.rows)
    return told


def naming(binding: Binding, row: Row, changed: Changed) -> Naming:
    """What the keys of a row are named by; the same again as long as the keys are."""
    attributes = affected(binding, changed).attributes
    return changed, [row.get(name, _UNKNOWN) for name in (binding.schema.pk, *attributes)]


def same_names(one: Naming | None, other: Naming) -> bool:
    """Whether the keys are surely the same: by the very same values, which nobody can have changed meanwhile."""
    return (
        one is not None
        and one[0] == other[0]
        and all(map(is_, one[1], other[1]))
        and _IMMUTABLE.issuperset(map(type, other[1]))
    )


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


def affected(binding: Binding, changed: Changed, *, by_hand: bool = False) -> Affected:
    """What a change of these attributes may change; None: what a row may that comes or goes, or is written whole."""
    columns = None if changed is None else frozenset(changed)
    known = binding.affected.get((columns, by_hand))
    if known is None:
        if len(binding.affected) >= MOST_AFFECTED:
            binding.affected.clear()
        known = binding.affected[columns, by_hand] = _affected(binding, columns, by_hand=by_hand)
    return known


def _affected(binding: Binding, changed: Changed, *, by_hand: bool) -> Affected:
    indexes = _affected_indexes(binding, changed, by_hand=by_hand)
    results = _affected_results(binding, changed, by_hand=by_hand)
    left = [each for each in results if changed is None or not frozenset(each.attributes).isdisjoint(changed)]
    named = dict.fromkeys(name for each in [*indexes, *results] for name in each.attributes)
    named.pop(binding.schema.pk, None)
    old = dict.fromkeys(name for each in left for name in each.attributes)
    return Affected(indexes, results, list(named), list(old))


def _affected_indexes(binding: Binding, changed: Changed, *, by_hand: bool) -> list[Index]:
    """A manager that hides rows may bring one back into any index, by a change of any column."""
    indexes = binding.indexes if by_hand else [index for index in binding.indexes if not index.policy.off]
    if changed is None or (changed and binding.schema.hides_rows):
        return indexes
    return [index for index in indexes if not index.watched.isdisjoint(changed)]


def _affected_results(binding: Binding, changed: Changed, *, by_hand: bool) -> list[Result | Links]:
    results = binding.results if by_hand else [result for result in binding.results if not result.policy.off]
    if changed is None:
        return results
    return [result for result in results if result.watched is None or not result.watched.isdisjoint(changed)]


def key_attributes(binding: Binding, changed: Changed, *, by_hand: bool = False) -> list[str]:
    """The attributes needed to name all keys that a change touches, the primary key first."""
    return [binding.schema.pk, *affected(binding, changed, by_hand=by_hand).attributes]


def result_attributes(binding: Binding) -> list[str]:
    """The attributes needed to name all results that a row which goes has been part of."""
    return affected(binding, None).left


def old_attributes(binding: Binding, changed: Changed) -> list[str]:
    """The attributes whose old values are needed to name the results that a row leaves. Empty if it leaves none."""
    return affected(binding, changed).left


def untold(binding: Binding, row: Row, changed: Changed) -> list[str]:
    """The attributes of touched keys that an instance does not tell for sure.

    Columns that were not part of the write, in which it may be partial, changed but not saved, or older
    than the row; expressions and the database's own defaults; values that the database will change.
    """
    schema = binding.schema
    needed = affected(binding, changed).attributes
    return [name for name in needed if (changed is not None and name not in changed) or not _tells(schema, row, name)]


def _tells(schema: ModelSchema, row: Row, name: str) -> bool:
    value = row.get(name, _UNKNOWN)
    if type(value) not in NATIVE and (value is _UNKNOWN or isinstance(value, _LATER)):
        return False
    return schema.kept(name, value)


def _values(index: Index | Result | Links, row: Row) -> Values | None:
    """A key's values; None where the row does not tell: not loaded, left to the database, or not valid."""
    schema = index.schema
    values: list[Any] = []
    for name in index.attributes:
        if not _tells(schema, row, name):
            return None
        try:
            values.append(schema.normalise(name, row[name]))
        except ValueError:
            return None
    return tuple(values)


def _clear(index: Index, values: Values, pk: Any) -> Clear:
    """How to leave an index key: leading to the row, where that is known and only one row can be meant."""
    key = index.key(values)
    if pk is None or not index.unique or None in values:
        return Clear(key)
    try:
        entry = index.entry(new_token(), b"", [pk])  # of a unique index no epoch is asked for
    except EncodeError:
        return Clear(key)
    return Clear(key, entry, index.lifetimes.of(entry[:1]))
