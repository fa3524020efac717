"""Cache keys that a written row affects.

These are the row's own key, every index key under its *new* values, and every computed result under its new and its
*old* values. Index keys under old values need no invalidation, because readers check every row that an index leads to.
Readers cannot check which rows a result was computed from.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from operator import is_
from typing import Any, Final, NamedTuple

from pypika_tortoise.terms import Term
from tortoise.expressions import Expression
from tortoise.fields.base import DatabaseDefault

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.encoding.codec import NATIVE, EncodeError
from aiomodelcache.encoding.layout import new_token
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency, IndexEntries
from aiomodelcache.entries.many_to_many import ThroughModelDependency
from aiomodelcache.entries.model import AffectedEntries, DependentEntries, ModelEntries
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.indexes import rows_at
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import refill_result
from aiomodelcache.plans.rows import row_by_pk

MAX_COLUMN_SETS: Final = 1_000
"""Maximum number of column sets per model whose affected entries are remembered. At the limit, all are discarded."""

_UNKNOWN: Final = object()
_DATABASE_COMPUTED: Final = (Expression, Term, DatabaseDefault)
"""Types of values that stand for a value computed by the database."""

_IMMUTABLE: Final = NATIVE | {type(None)}


class AllBut(NamedTuple):
    """All attributes are written, but some get the values that the row has already."""

    unmoved: frozenset[str]


ChangedColumns = Collection[str] | AllBut | None
"""The attributes that a write changes. None means all of them."""
KeySnapshot = tuple[ChangedColumns, list[Any]]
"""The attributes that a write changes, and the values that the row's keys are made of, the primary key first."""


def collect_affected_keys(
    intent: Intent,
    entries: ModelEntries,
    row: RowValues,
    changed: ChangedColumns,
    *,
    exists: bool,
    final: bool = True,
    manual: bool = False,
) -> bool:
    """Adds the keys of one row to an intent, from the row's values after the write.

    Classes whose invalidation is ``OFF`` are left out. Returns True if the values determine all keys.

    ``exists``: the row exists after the write, so unique index keys may be left leading to it. ``final``: the values
    are those in the database. A key that they do not determine is then known to the database only, so everything
    about the model is added. Before the write, such a key is skipped. ``manual``: the user invalidates the row, which
    includes ``OFF`` classes and permits no stale copies.
    """
    schema, rows = entries.schema, entries.rows
    pk = row.get(schema.pk)
    pk = None if isinstance(pk, DatabaseDefault) else schema.normalise(schema.pk, pk)
    all_known = pk is not None
    if pk is None and final:
        collect_model_key(intent, entries)
    clears: list[Clear] = []
    if pk is not None and (manual or not rows.policy.off):
        clears.append(Clear(rows.key(pk)))
        _apply_policy(intent, rows, clears[-1], (pk,), manual=manual)
    for index in affected_entries(entries, changed, manual=manual).indexes:
        values = _key_values(index, row)
        if values is not None:
            clears.append(_index_clear(index, values, pk if exists else None))
            _apply_policy(intent, index, clears[-1], values, manual=manual)
        else:
            all_known = False
            if final and exists:
                intent.add_model(rows)
    if not exists and pk is not None:
        clears += [Clear(through.key((pk,))) for through in entries.owned]
    intent.add(rows, clears)
    if rows.table_key is not None:
        intent.add_tables([rows.table_key] if exists and _is_ignored(rows, changed) else rows.version_keys)
    if entries.results:
        changed = changed if exists else None
        all_known &= collect_result_keys(intent, entries, row, changed, final=final and exists, manual=manual)
    return all_known


def collect_stored_key(intent: Intent, entries: ModelEntries, row: RowValues, *, deleted: bool) -> None:
    """Adds the key of a row by its primary key in the database, which may not be spelled as the writer spells it."""
    if entries.rows.compares_loosely:
        collect_affected_keys(intent, entries, row, (), exists=not deleted, final=False)


def collect_result_keys(
    intent: Intent,
    entries: ModelEntries,
    row: RowValues,
    changed: ChangedColumns,
    *,
    final: bool = True,
    manual: bool = False,
) -> bool:
    """Adds the keys of the results that are computed from a row with these values, before or after the write.

    Returns True if the values determine all keys. ``final``: no later call adds a key that these values do not
    determine, so everything about the model is added instead.
    """
    all_known = True
    for result in affected_entries(entries, changed, manual=manual).results:
        values = _key_values(result, row)
        if values is not None:
            clear = Clear(result.key(values))
            intent.add(entries.rows, [clear])
            if not isinstance(result, ThroughModelDependency | GroupVersions):
                entry_set = result.index if isinstance(result, ExactListDependency) else result
                _apply_policy(intent, entry_set, clear, values, manual=manual)
        else:
            all_known = False
            if final:
                intent.add_model(entries.rows)
    return all_known


def written_columns(update_fields: Iterable[str] | None) -> Collection[str] | None:
    """Returns the columns that a save writes, or None for all. An iterator is not consumed: the statement needs it."""
    return set(update_fields) if isinstance(update_fields, Collection) else None


def key_snapshot(entries: ModelEntries, row: RowValues, changed: ChangedColumns) -> KeySnapshot:
    """Returns the values that a row's keys are made of. Equal snapshots mean equal keys: see ``same_keys``."""
    attributes = affected_entries(entries, changed).attributes
    return changed, [row.get(name, _UNKNOWN) for name in (entries.schema.pk, *attributes)]


def same_keys(before: KeySnapshot | None, after: KeySnapshot) -> bool:
    """Returns True if both snapshots certainly have the same keys.

    They must hold the very same objects, of immutable types, so that no code can have changed the values in between.
    """
    return (
        before is not None
        and before[0] == after[0]
        and all(map(is_, before[1], after[1]))
        and _IMMUTABLE.issuperset(map(type, after[1]))
    )


def collect_model_keys(intent: Intent, models: Iterable[ModelEntries]) -> None:
    """Adds everything about several models. See ``collect_model_key``."""
    for entries in models:
        collect_model_key(intent, entries)


def collect_model_key(intent: Intent, entries: ModelEntries) -> None:
    """Adds everything about a model; if all of its classes are ``OFF``, the table's versions only."""
    if not entries.off:
        intent.add_model(entries.rows)
    else:
        intent.add_tables(entries.rows.version_keys)


def _is_ignored(rows: RowEntries, changed: ChangedColumns) -> bool:
    """Returns True if queries of the table ignore all columns that a write changes."""
    return not isinstance(changed, AllBut | None) and rows.queries_ignore.issuperset(changed)


def _look_up(entry_set: RowEntries | IndexEntries, values: Values, predictions: Predictions) -> Plan[list[Any]]:
    """Finds the rows with these values of a key."""
    if isinstance(entry_set, RowEntries):
        return row_by_pk(entry_set, values[0], entry_set.key(values[0]))
    return rows_at(entry_set, values, entry_set.key(values), predictions)


def _apply_policy(
    intent: Intent, entry_set: RowEntries | IndexEntries | ResultEntries, clear: Clear, values: Values, *, manual: bool
) -> None:
    """Notes the refill (``RESET``) or the stale copy (``DYNAMIC``) that the class of an entry asks for."""
    if entry_set.policy.invalidation is InvalidationType.RESET:
        refill: Callable[[Predictions], Plan[Any]]
        if isinstance(entry_set, ResultEntries):
            refill, is_cacheable = partial(refill_result, entry_set, values), entry_set.cacheable
        else:
            refill, is_cacheable = (
                partial(_look_up, entry_set, values),
                isinstance(entry_set, RowEntries) or entry_set.cacheable(values),
            )
        if is_cacheable:
            intent.refills[clear.key] = (refill, entry_set.counters)
    if manual:
        intent.allowed.pop(clear.key, None)
    elif entry_set.policy.allow_ms and not (
        isinstance(entry_set, IndexEntries) and entry_set.unique
    ):  # a unique index leaves a hint instead of a stale copy
        intent.allowed[clear.key] = entry_set.policy.allow_ms


def affected_entries(entries: ModelEntries, changed: ChangedColumns, *, manual: bool = False) -> AffectedEntries:
    """Returns the entries that a change of these attributes affects.

    None as ``changed`` stands for a row that is inserted, deleted or written as a whole.
    """
    columns = changed if changed is None or isinstance(changed, AllBut) else frozenset(changed)
    known = entries.affected.get((columns, manual))
    if known is None:
        if len(entries.affected) >= MAX_COLUMN_SETS:
            entries.affected.clear()
        known = entries.affected[columns, manual] = _compute_affected(entries, columns, manual=manual)
    return known


def _compute_affected(entries: ModelEntries, changed: ChangedColumns, *, manual: bool) -> AffectedEntries:
    indexes = _affected_indexes(entries, changed, manual=manual)
    results = _affected_results(entries, changed, manual=manual)
    leavable = [
        result
        for result in results
        if isinstance(changed, AllBut | None) or not frozenset(result.attributes).isdisjoint(changed)
    ]
    attributes = dict.fromkeys(name for entry_set in [*indexes, *results] for name in entry_set.attributes)
    attributes.pop(entries.schema.pk, None)
    old = dict.fromkeys(name for result in leavable for name in result.attributes)
    return AffectedEntries(indexes, results, list(attributes), list(old))


def _affected_indexes(entries: ModelEntries, changed: ChangedColumns, *, manual: bool) -> list[IndexEntries]:
    """Returns the indexes that a change affects.

    With a manager that hides rows, a change of any column may bring a row back into any index.
    """
    indexes = entries.indexes if manual else [index for index in entries.indexes if not index.policy.off]
    if changed is None or (changed and entries.schema.hides_rows):
        return indexes
    if isinstance(changed, AllBut):
        unmoved = changed.unmoved | {entries.schema.pk}
        return [index for index in indexes if index.compares_loosely or not index.watched <= unmoved]
    return [index for index in indexes if not index.watched.isdisjoint(changed)]


def _affected_results(entries: ModelEntries, changed: ChangedColumns, *, manual: bool) -> list[DependentEntries]:
    results = entries.results if manual else [result for result in entries.results if not result.policy.off]
    if changed is None:
        return results
    if isinstance(changed, AllBut):
        unmoved = changed.unmoved | {entries.schema.pk}
        return [each for each in results if not (isinstance(each, ExactListDependency) and each.watched <= unmoved)]
    return [result for result in results if result.watched is None or not result.watched.isdisjoint(changed)]


def affected_columns(entries: ModelEntries, changed: ChangedColumns, *, manual: bool = False) -> list[str]:
    """Returns the attributes that determine all keys affected by a change, the primary key first."""
    return [entries.schema.pk, *affected_entries(entries, changed, manual=manual).attributes]


def result_columns(entries: ModelEntries) -> list[str]:
    """Returns the attributes that determine all results that a deleted row was part of."""
    return affected_entries(entries, None).old_value_columns


def old_value_columns(entries: ModelEntries, changed: ChangedColumns) -> list[str]:
    """Returns the attributes whose old values determine the results that a row leaves. Empty if it leaves none."""
    return affected_entries(entries, changed).old_value_columns


def unknown_columns(entries: ModelEntries, row: RowValues, changed: ChangedColumns) -> list[str]:
    """Returns the attributes of affected keys whose values an instance does not reliably hold.

    These are columns that were not part of the write: the instance may be partial, changed but not saved, or older
    than the row. They are also expressions, defaults of the database, and values that the database will change.
    """
    schema = entries.schema
    needed = affected_entries(entries, changed).attributes
    return [
        name
        for name in needed
        if not (isinstance(changed, AllBut | None) or name in changed) or not _is_known(schema, row, name)
    ]


def _is_known(schema: ModelSchema, row: RowValues, name: str) -> bool:
    value = row.get(name, _UNKNOWN)
    if type(value) not in NATIVE and (value is _UNKNOWN or isinstance(value, _DATABASE_COMPUTED)):
        return False
    return schema.kept(name, value)


def _key_values(index: IndexEntries | DependentEntries, row: RowValues) -> Values | None:
    """Returns a key's values, or None if the row lacks one: not loaded, left to the database, or not valid."""
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


def _index_clear(index: IndexEntries, values: Values, pk: Any) -> Clear:
    """Returns how to clear an index key.

    A unique index key is left leading to the row if the primary key is known and no value is NULL.
    """
    key = index.key(values)
    if pk is None or not index.unique or None in values:
        return Clear(key)
    try:
        entry = index.entry(new_token(), b"", [pk])  # entries of a unique index carry no epoch
    except EncodeError:
        return Clear(key)
    return Clear(key, entry, index.lifetimes.ttl_ms(entry[:1]))
