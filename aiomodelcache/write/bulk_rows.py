"""Collects the keys of the rows that a bulk write affects, for every open cache."""

from collections.abc import Iterable, Sequence
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import DatabaseDefault
from tortoise.models import Model

from aiomodelcache.orm.meta import RowValues, attributes_of, pk_of
from aiomodelcache.orm.select import select_matching, select_values
from aiomodelcache.write.affected import (
    ChangedColumns,
    affected_columns,
    collect_affected_keys,
    collect_model_key,
    collect_result_keys,
    old_value_columns,
    result_columns,
)
from aiomodelcache.write.cascades import collect_list_keys
from aiomodelcache.write.invalidated import caches_hiding_rows, written_entries
from aiomodelcache.write.transactions import Intents

# Columns -------------------------------------------------------------------------------------------------


def columns_after_write(model: type[Model], changed: ChangedColumns) -> list[str]:
    """Returns the attributes that determine the keys affected by a change, in any open cache."""
    names = [name for _, entries in written_entries(model) for name in affected_columns(entries, changed)]
    return list(dict.fromkeys([pk_of(model), *names]))


def columns_before_write(model: type[Model], changed: ChangedColumns) -> list[str]:
    """Returns the attributes whose old values determine the results that rows leave by a change. Usually none."""
    return [name for _, entries in written_entries(model) for name in old_value_columns(entries, changed)]


def columns_of_deleted(model: type[Model]) -> list[str]:
    """Returns the attributes that determine the rows and results that a delete affects."""
    results = [name for _, entries in written_entries(model) for name in result_columns(entries)]
    return list(dict.fromkeys([pk_of(model), *results]))


# Rows ----------------------------------------------------------------------------------------------------


def collect_rows_before(
    intents: Intents, model: type[Model], rows: Sequence[RowValues], changed: ChangedColumns
) -> None:
    """Adds the results that rows leave to the intents, from the rows' values before the write."""
    for cache, entries in written_entries(model):
        if old_value_columns(entries, changed):
            for row in rows:
                collect_result_keys(intents[cache], entries, row, changed)


def collect_rows(
    intents: Intents, model: type[Model], rows: Sequence[RowValues], changed: ChangedColumns, *, deleted: bool = False
) -> None:
    """Adds the keys of rows to the intents, from the rows' values after the write."""
    for cache, entries in written_entries(model):
        if len(rows) > cache.config.bulk_limit:
            collect_model_key(intents[cache], entries)
        else:
            for row in rows:
                collect_affected_keys(intents[cache], entries, row, changed, exists=not deleted)


async def collect_lists(
    intents: Intents, model: type[Model], client: BaseDBAsyncClient, rows: Sequence[RowValues]
) -> None:
    """Adds the many-to-many lists of rows that a manager may have hidden before the write and shows after it."""
    for cache in caches_hiding_rows(model):
        await collect_list_keys(intents[cache], cache.cascades, model, rows, client)


async def collect_rows_by_pk(
    intents: Intents, model: type[Model], client: BaseDBAsyncClient, pks: Sequence[Any], changed: ChangedColumns
) -> None:
    """Adds the keys of written rows, given their primary keys.

    Reads other columns in the transaction if needed, and primary keys that may be spelled otherwise in the database.
    """
    wanted = columns_after_write(model, changed)
    pk = pk_of(model)
    if wanted == [pk] and not any(entries.rows.compares_loosely for _, entries in written_entries(model)):
        collect_rows(intents, model, [{pk: value} for value in pks], changed)
    elif pks:
        collect_rows(intents, model, await select_values(model, client, pk, pks, wanted), changed)


async def select_by_unique_key(
    model: type[Model], client: BaseDBAsyncClient, objects: Sequence[Model], key: Iterable[str], wanted: Iterable[str]
) -> list[RowValues] | None:
    """Returns the rows that have the objects' values of a unique key, or None if some object has no such row."""
    attributes = attributes_of(model, key)
    values = [tuple([vars(instance).get(name) for name in attributes]) for instance in objects]
    if any(value is None or isinstance(value, DatabaseDefault) for combination in values for value in combination):
        return None
    rows = await select_matching(model, client, attributes, values, [*wanted, *attributes])
    by_values = {tuple([row[name] for name in attributes]): row for row in rows}
    if len(by_values) < len(rows) or not by_values.keys() >= set(values):  # some rows are equal to Python alone
        return None
    return [by_values[combination] for combination in values]
