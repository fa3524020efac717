"""Collects the keys of the rows that a bulk write writes, for every open cache."""

from collections.abc import Iterable, Sequence
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import DatabaseDefault
from tortoise.models import Model

from aiomodelcache.open_cache import bound_caches, caches_hiding_rows
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
from aiomodelcache.write.transactions import Intents

# Rows ----------------------------------------------------------------------------------------------------


def columns_after_write(model: type[Model], changed: ChangedColumns) -> list[str]:
    """The attributes that name what a change touches, in any open cache."""
    names = [name for _, entries in bound_caches(model) for name in affected_columns(entries, changed)]
    return list(dict.fromkeys(names))


def columns_before_write(model: type[Model], changed: ChangedColumns) -> list[str]:
    """The attributes whose old values name results that rows leave by a change; usually none."""
    return [name for _, entries in bound_caches(model) for name in old_value_columns(entries, changed)]


def columns_of_deleted(model: type[Model]) -> list[str]:
    """The attributes that name what rows were part of that are gone."""
    results = [name for _, entries in bound_caches(model) for name in result_columns(entries)]
    return list(dict.fromkeys([pk_of(model), *results]))


def collect_rows_before(
    intents: Intents, model: type[Model], rows: Sequence[RowValues], changed: ChangedColumns
) -> None:
    """Adds what rows leave, with their values before the write, to the intents."""
    for cache, entries in bound_caches(model):
        if old_value_columns(entries, changed):
            for row in rows:
                collect_result_keys(intents[cache], entries, row, changed)


def collect_rows(
    intents: Intents, model: type[Model], rows: Sequence[RowValues], changed: ChangedColumns, *, deleted: bool = False
) -> None:
    """Adds rows, with their values after the write, to the intents."""
    for cache, entries in bound_caches(model):
        if len(rows) > cache.config.bulk_limit:
            collect_model_key(intents[cache], entries)
        else:
            for row in rows:
                collect_affected_keys(intents[cache], entries, row, changed, exists=not deleted)


async def collect_lists(
    intents: Intents, model: type[Model], client: BaseDBAsyncClient, rows: Sequence[RowValues]
) -> None:
    """Adds the many-to-many lists that rows are in which a manager may have hidden, and shows now."""
    for cache in caches_hiding_rows(model):
        await collect_list_keys(intents[cache], cache.cascades, model, rows, client)


async def collect_rows_by_pk(
    intents: Intents, model: type[Model], client: BaseDBAsyncClient, pks: Sequence[Any], changed: ChangedColumns
) -> None:
    """Adds rows that were written, given their primary keys; other values are read from the transaction."""
    wanted = columns_after_write(model, changed)
    pk = pk_of(model)
    if wanted == [pk]:
        collect_rows(intents, model, [{pk: each} for each in pks], changed)
    elif pks:
        collect_rows(intents, model, await select_values(model, client, pk, pks, wanted), changed)


async def select_by_unique_key(
    model: type[Model], client: BaseDBAsyncClient, objects: Sequence[Model], key: Iterable[str], wanted: Iterable[str]
) -> list[RowValues] | None:
    """The rows that have the values of the objects in a unique key; None if it does not lead to each of them."""
    attributes = attributes_of(model, key)
    values = [tuple([vars(each).get(name) for name in attributes]) for each in objects]
    if any(value is None or isinstance(value, DatabaseDefault) for each in values for value in each):
        return None
    rows = await select_matching(model, client, attributes, values, [*wanted, *attributes])
    found = {tuple([row[name] for name in attributes]): row for row in rows}
    return [found[each] for each in values] if found.keys() >= set(values) else None
