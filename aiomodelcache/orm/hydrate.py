"""Rows from the database as instances, without the detours that Tortoise takes for queries of more than one table.

A query that asks for all columns of one model and nothing else is sent as Tortoise would send it, and what it
returns is converted as Tortoise would convert it, by the model's own fields. Any other is left to Tortoise.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from tortoise.backends.base.executor import BaseExecutor
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema

_queryset: Final[Any] = QuerySet
_model: Final[Any] = Model
_executor: Final[Any] = BaseExecutor
_CHUNK: Final = 1_000
"""Rows that are converted without a break."""
_BEYOND: Final = (
    "_annotations",
    "_fields_for_select",
    "_select_related",
    "_prefetch_map",
    "_prefetch_queries",
    "_single",
)
"""What else a query may ask for."""
_KNOWN: Final = [
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
_familiar: Final = {name for kind in _queryset.__mro__ for name in getattr(kind, "__slots__", ())} <= set(_KNOWN)
"""Whether queries are as they were when this was written. Of what another release adds, only Tortoise knows the use."""


async def fetch(schema: ModelSchema, query: QuerySet[Any]) -> list[Model]:
    """Returns the rows of a query for the schema's model. Raises what the database raises."""
    plain: Any = query
    client = plain._db
    if plain.model is not schema.model or not (_is_plain(plain) and _is_made_by_tortoise(schema.model, client)):
        return await query
    plain._make_query()
    _, found = await client.execute_query(*plain.query.get_parameterized_sql())
    convert = _conversion(schema.model)
    instances: list[Model] = []
    for start in range(0, len(found), _CHUNK):
        if start:
            await asyncio.sleep(0)
        instances += [schema.instance(convert(row)) for row in found[start : start + _CHUNK]]
    return instances


def _is_plain(query: Any) -> bool:
    kind = cast("Any", type(query))
    own = any(getattr(kind, name) is not getattr(_queryset, name) for name in ("_make_query", "_execute", "__await__"))
    return _familiar and not own and not any(getattr(query, name) for name in _BEYOND)


def _is_made_by_tortoise(model: Any, client: Any) -> bool:
    """Whether nobody has a say in how the model's instances come from the database."""
    return (
        model._init_from_db.__func__ is _model._init_from_db.__func__
        and model.__new__ is _model.__new__
        and model.__setattr__ is _model.__setattr__
        and client.executor_class.execute_select is _executor.execute_select
    )


def _conversion(model: type[Model]) -> Callable[[Any], dict[str, Any]]:
    """Returns what makes of a row the values of its columns by attribute."""
    meta = meta_of(model)
    native = [(name, key) for key, name, _ in meta.db_native_fields]
    default = [(name, key, field.field_type) for key, name, field in meta.db_default_fields]
    others = [(name, key, field.to_python_value) for key, name, field in meta.db_complex_fields]

    def convert(row: Any) -> dict[str, Any]:
        values = {name: row[key] for name, key in native}
        for name, key, kind in default:
            value = row[key]
            values[name] = None if value is None else kind(value)
        for name, key, to_python in others:
            values[name] = to_python(row[key])
        return values

    return convert
