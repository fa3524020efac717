"""Reads Tortoise's private ``_meta``, so that a new Tortoise release is checked in one place.

Knows fields, columns and managers; ``relations`` and ``schema`` build on it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from tortoise.fields.relational import (
    RelationalField,
)
from tortoise.manager import Manager
from tortoise.models import Model

Values = tuple[Any, ...]
"""The values of a key's fields, in the order of its fields, as an instance would hold them."""


RowValues = dict[str, Any]
"""The column values of a row, by attribute name."""


def meta_of(model: type[Model]) -> Any:
    """Tortoise's description of a model; its type does not say much."""
    return cast("Any", model)._meta


def full_name(model: type[Model]) -> str:
    """A model's name with its app's, like ``shop.Order``: of its class or its table alone there may be another."""
    return str(meta_of(model).full_name)


def is_abstract(model: type[Model]) -> bool:
    """Whether the model is only a base of others."""
    return bool(meta_of(model).abstract)


def field_names(model: type[Model]) -> set[str]:
    """Every field of a model, relations of all kinds included."""
    return set(meta_of(model).fields_map)


def pk_of(model: type[Model]) -> str:
    """The attribute that holds the primary key."""
    return str(meta_of(model).pk_attr)


def attributes_of(model: type[Model], fields: Iterable[str]) -> tuple[str, ...]:
    """The attributes behind field names: a relation's is its column's."""
    meta = meta_of(model)
    relations = meta.fk_fields | meta.o2o_fields
    named = [meta.pk_attr if field == "pk" else field for field in fields]
    return tuple([meta.fields_map[field].source_field if field in relations else field for field in named])


def ordering_attributes(model: type[Model], orderings: Iterable[str]) -> list[str]:
    """The columns of the model's own table that an ordering depends on."""
    return list(attributes_of(model, [ordering.lstrip("-").split("__")[0] for ordering in orderings]))


def column_attribute(model: type[Model], column: str) -> str | None:
    """The attribute that holds a column of the model's own table; None if it has no such column."""
    found: str | None = meta_of(model).fields_db_projection_reverse.get(column)
    return found


def columns_of(model: type[Model], attributes: Iterable[str]) -> dict[str, str]:
    """Attribute -> column name."""
    return {name: meta_of(model).fields_db_projection[name] for name in attributes}


def is_relation(model: type[Model], field: str) -> bool:
    """Whether ``field`` is a relation of any kind."""
    return isinstance(meta_of(model).fields_map.get(field), RelationalField)


def managers(model: type[Model]) -> list[Any]:
    """The model's own manager and those that it has as attributes."""
    named = [value for cls in model.__mro__ for value in vars(cls).values() if isinstance(value, Manager)]
    return list({id(each): each for each in [meta_of(model).manager, *named]}.values())


def python_values(model: type[Model], row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row as the driver returned it, by attribute and converted as Tortoise would."""
    fields = meta_of(model).fields_map
    return {name: fields[name].to_python_value(row[column]) for name, column in columns.items()}


def is_partial(instance: Model) -> bool:
    """Whether the instance was loaded without some of its columns (a manager's ``.only()``)."""
    return bool(cast("Any", instance)._partial)


def is_saved(instance: Model) -> bool:
    """Whether the instance stands for a row of the database."""
    return bool(cast("Any", instance)._saved_in_db)
