"""Rows of the database as instances, built without the work that Tortoise needs only for queries of several tables.

A query for all columns of one model and nothing else is sent as Tortoise would send it. Its rows are converted as
Tortoise would convert them, by the model's own fields. Every other query is left to Tortoise.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, cast

from tortoise.backends.base.executor import BaseExecutor
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.orm.changes import is_noting
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema

_queryset: Final[Any] = QuerySet
_model: Final[Any] = Model
_new: Final = object.__new__
_assign: Final = object.__setattr__
_executor: Final[Any] = BaseExecutor
_CHUNK_SIZE: Final = 1_000
"""The number of rows that are converted before the event loop runs other tasks."""
_UNSUPPORTED: Final = (
    "_annotations",
    "_fields_for_select",
    "_select_related",
    "_prefetch_map",
    "_prefetch_queries",
    "_single",
)
"""The attributes of a query for more than rows. If one of them is set, Tortoise runs the query."""
_KNOWN_SLOTS: Final = [
    "_annotations",
    "_capabilities",
    "_custom_filters",
    "_db",
    "_distinct",
    "_fields_for_select",
    "_filter_kwargs",
    "_force_indexes",
    "_group_bys",
    "_having",
    "_joined_tables",
    "_limit",
    "_offset",
    "_orderings",
    "_prefetch_map",
    "_prefetch_queries",
    "_q_objects",
    "_raise_does_not_exist",
    "_select_for_update",
    "_select_for_update_no_key",
    "_select_for_update_nowait",
    "_select_for_update_of",
    "_select_for_update_skip_locked",
    "_select_related",
    "_select_related_idx",
    "_single",
    "_use_indexes",
    "fields",
    "model",
    "query",
]
_has_known_slots: Final = {slot for kind in _queryset.__mro__ for slot in getattr(kind, "__slots__", ())} <= set(
    _KNOWN_SLOTS
)
"""True if queries have only the attributes that this module was written for.

A new release of Tortoise may add others, which only Tortoise can interpret. Then Tortoise runs every query.
"""


async def fetch_instances(schema: ModelSchema, query: QuerySet[Any]) -> list[Model]:
    """Returns the instances that a query for the schema's model selects. Raises the database's errors."""
    select: Any = query
    if not is_plain_select(schema, query):
        return await query
    select._make_query()
    sql, parameters = select.query.get_parameterized_sql()
    return await fetch_rows(schema, select._db, sql, parameters, row_converter(schema.model))


RowConverter = Callable[[Sequence[Any]], list[dict[str, Any]]]
"""A function that converts rows of the driver to their values by attribute."""


async def fetch_rows(
    schema: ModelSchema, client: Any, sql: str, parameters: list[Any], convert: RowConverter
) -> list[Model]:
    """Returns the instances of the rows that a statement selects. Raises the database's errors."""
    _, rows = await client.execute_query(sql, parameters)
    instances: list[Model] = []
    for start in range(0, len(rows), _CHUNK_SIZE):
        if start:
            await asyncio.sleep(0)
        instances += instances_of(schema, convert(rows[start : start + _CHUNK_SIZE]))
    return instances


def instances_of(schema: ModelSchema, rows: list[dict[str, Any]]) -> list[Model]:
    """Returns the instances of rows as ``ModelSchema.instance`` does, at less cost for each."""
    loaded = schema.loaded
    for values in rows:
        values.update(loaded)
    return adopt_all(schema, rows)


def adopt(schema: ModelSchema, values: dict[str, Any]) -> Model:
    """Returns an instance whose ``__dict__`` is ``values``: all columns, and ``ModelSchema.loaded``."""
    values["_await_when_save"] = {}
    instance = _new(schema.model)
    _assign(instance, "__dict__", values)
    return instance


def adopt_all(schema: ModelSchema, rows: list[dict[str, Any]]) -> list[Model]:
    """Returns the instances of rows as ``adopt`` does, at less cost for each."""
    for values in rows:
        values["_await_when_save"] = {}
    instances = list(map(_new, repeat(schema.model, len(rows))))
    deque(map(_assign, instances, repeat("__dict__"), rows), maxlen=0)
    return instances


def is_plain_select(schema: ModelSchema, query: QuerySet[Any]) -> bool:
    """Returns True for a query for rows of the schema's model alone, whose instances Tortoise would build."""
    select: Any = query
    return select.model is schema.model and _is_plain(select) and is_built_by_tortoise(schema.model, select._db)


def _is_plain(query: Any) -> bool:
    """Returns True for a query for rows of one model alone, of a class that does not override its execution."""
    kind = cast("Any", type(query))
    methods = ("_make_query", "_execute", "__await__")
    overridden = any(getattr(kind, name) is not getattr(_queryset, name) for name in methods)
    return _has_known_slots and not overridden and not any(getattr(query, name) for name in _UNSUPPORTED)


def is_built_by_tortoise(model: Any, client: Any) -> bool:
    """Returns True if neither the model nor the client overrides how Tortoise builds instances from rows."""
    return (
        model._init_from_db.__func__ is _model._init_from_db.__func__
        and model.__new__ is _model.__new__
        and (model.__setattr__ is _model.__setattr__ or is_noting(model.__setattr__))
        and client.executor_class.execute_select is _executor.execute_select
    )


def row_converter(model: type[Model]) -> RowConverter:
    """Returns a function that converts rows of the driver, all of one statement, to their values by attribute."""
    meta = meta_of(model)
    attributes = {
        key: name for key, name, _ in [*meta.db_native_fields, *meta.db_default_fields, *meta.db_complex_fields]
    }
    default = [(name, field.field_type) for _, name, field in meta.db_default_fields]
    others = [(name, field.to_python_value) for _, name, field in meta.db_complex_fields]

    def convert(rows: Sequence[Any]) -> list[dict[str, Any]]:
        if not rows:
            return []
        try:
            names = list(map(attributes.__getitem__, rows[0].keys()))
        except KeyError:  # SQLite returns the names as the table has them, and finds them in any case
            converted = [{name: row[key] for key, name in attributes.items()} for row in rows]
        else:
            # A row is a dict or, of some drivers, a sequence with keys.
            values_of: Any = cast("Any", dict).values if type(rows[0]) is dict else iter
            converted = [dict(zip(names, values_of(row), strict=True)) for row in rows]
        for name, kind in default:
            for values in converted:
                value = values[name]
                values[name] = None if value is None else kind(value)
        for name, to_python in others:
            for values in converted:
                values[name] = to_python(values[name])
        return converted

    return convert
