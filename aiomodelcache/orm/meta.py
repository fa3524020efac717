"""Access to Tortoise's private ``_meta``, in one place to check for each new release of Tortoise.

Knows fields, columns and managers. ``relations`` and ``schema`` build on it.
"""

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from pypika_tortoise.enums import Order
from tortoise.fields.relational import RelationalField
from tortoise.manager import Manager
from tortoise.models import Model

Values = tuple[Any, ...]
"""The values of a key's fields, in the order of the fields, as an instance would hold them."""

RowValues = dict[str, Any]
"""The column values of a row, by attribute name."""


def meta_of(model: type[Model]) -> Any:
    """Returns Tortoise's description of a model, untyped because most of its attributes are."""
    return cast("Any", model)._meta


def full_name(model: type[Model]) -> str:
    """Returns a model's name with its app, like ``shop.Order``, because classes and tables may share their names."""
    return str(meta_of(model).full_name)


def is_abstract(model: type[Model]) -> bool:
    """Returns True if the model is abstract: only a base of other models."""
    return bool(meta_of(model).abstract)


def field_names(model: type[Model]) -> set[str]:
    """Returns the names of all fields of a model, relations of all kinds included."""
    return set(meta_of(model).fields_map)


def pk_of(model: type[Model]) -> str:
    """Returns the attribute that holds the primary key."""
    return str(meta_of(model).pk_attr)


def attributes_of(model: type[Model], fields: Iterable[str]) -> tuple[str, ...]:
    """Returns the attributes of these fields' columns, like ``organizer_id`` for the relation ``organizer``."""
    meta = meta_of(model)
    relations = meta.fk_fields | meta.o2o_fields
    names = [meta.pk_attr if field == "pk" else field for field in fields]
    return tuple([meta.fields_map[name].source_field if name in relations else name for name in names])


def default_ordering(model: type[Model]) -> tuple[str, ...]:
    """Returns the ``Meta.ordering`` of a model, with a ``-`` before names in descending order."""
    return tuple(["-" * (order is Order.desc) + name for name, order in meta_of(model)._default_ordering])


def ordering_attributes(model: type[Model], orderings: Iterable[str]) -> list[str]:
    """Returns the columns of the model's own table that an ordering depends on."""
    return list(attributes_of(model, [ordering.lstrip("-").split("__")[0] for ordering in orderings]))


def column_attribute(model: type[Model], column: str) -> str | None:
    """Returns the attribute that holds a column of the model's own table; None if it has no such column."""
    attribute: str | None = meta_of(model).fields_db_projection_reverse.get(column)
    return attribute


def field_class(model: type[Model], attribute: str) -> type[object]:
    """Returns the class of the field behind an attribute, such as ``IntField``."""
    field: object = meta_of(model).fields_map[attribute]
    return type(field)


def columns_of(model: type[Model], attributes: Iterable[str]) -> dict[str, str]:
    """Returns the column name of each attribute."""
    return {name: meta_of(model).fields_db_projection[name] for name in attributes}


def column_names(model: type[Model]) -> list[str]:
    """Returns the attributes of all columns."""
    return list(meta_of(model).fields_db_projection)


def is_relation(model: type[Model], field: str) -> bool:
    """Returns True if ``field`` is a relation of any kind."""
    return isinstance(meta_of(model).fields_map.get(field), RelationalField)


def enum_fields(model: type[Model]) -> dict[str, type[enum.Enum]]:
    """Returns the enums of the fields whose values are members of an enum, by the fields' names."""
    fields = meta_of(model).fields_map
    return {name: field.enum_type for name, field in fields.items() if hasattr(field, "enum_type")}


def has_own_rows(model: type[Model]) -> bool:
    """Returns True if the model's manager may hide rows."""
    return meta_of(model).manager.__class__.get_queryset is not cast("Any", Manager).get_queryset


def related_model(model: type[Model], relation: str) -> type[Model]:
    """Returns the model at the other end of a relation. Raises ``KeyError`` for an unknown name."""
    related: type[Model] = meta_of(model).fields_map[relation].related_model
    return related


def unique_attributes(model: type[Model]) -> list[str]:
    """Returns the attributes whose values are unique, except the primary key. Relations may refer to them."""
    fields = meta_of(model).fields_map
    return [name for name in meta_of(model).fields_db_projection if fields[name].unique and not fields[name].pk]


def joins_nothing(model: type[Model], condition: str) -> bool:
    """Returns True if a condition of a queryset, such as ``level__gt``, joins no table."""
    found = meta_of(model).filters.get(condition)
    return "table" not in found if found is not None else condition in meta_of(model).fk_fields


def table_of(model: type[Model]) -> str:
    """Returns the name of a model's table, without its schema."""
    return str(meta_of(model).db_table)


def schema_of(model: type[Model]) -> str | None:
    """Returns the schema of PostgreSQL, or the database of MySQL, that a model names."""
    schema: str | None = meta_of(model).schema
    return schema or None


def unique_keys(model: type[Model]) -> set[frozenset[str]]:
    """Returns the sets of attributes whose values belong to at most one row: single ones, and ``unique_together``."""
    together = [frozenset(attributes_of(model, names)) for names in meta_of(model).unique_together]
    return {frozenset([pk_of(model)]), *[frozenset([name]) for name in unique_attributes(model)], *together}


def shapes_of(model: type[Model]) -> list[tuple[str, str, str, str]]:
    """Returns the names, classes and columns of a model's fields, and the models that relations lead to."""
    meta = meta_of(model)
    return [
        (name, type(field).__qualname__, str(field.source_field), str(getattr(field, "related_model", "")))
        for name, field in sorted(meta.fields_map.items())
    ] + [("", str(meta.db_table), str(meta.schema), str(meta.pk_attr))]


def managers_of(model: type[Model]) -> list[Any]:
    """Returns the model's default manager and the managers that are attributes of its class."""
    attributes = [value for cls in model.__mro__ for value in vars(cls).values() if isinstance(value, Manager)]
    return list({id(manager): manager for manager in [meta_of(model).manager, *attributes]}.values())


def python_values(model: type[Model], row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of a driver's row by attribute, converted as Tortoise would convert them."""
    fields = meta_of(model).fields_map
    return {name: fields[name].to_python_value(row[column]) for name, column in columns.items()}


def value_converters(model: type[Model], attributes: Iterable[str]) -> dict[str, Callable[[Any], Any] | None]:
    """Returns the conversions that ``values()`` of a queryset applies to what the driver returns; None for none."""
    meta = meta_of(model)
    native = {name for _, name, _ in meta.db_native_fields}
    return {name: None if name in native else meta.fields_map[name].to_python_value for name in attributes}


def is_partial(instance: Model) -> bool:
    """Returns True if the instance was loaded without some of its columns (a manager's ``.only()``)."""
    return bool(cast("Any", instance)._partial)


STALE_MARK: Final = "_aiomodelcache_stale"
"""The attribute that instances of a stale copy have. No field's name begins like this."""
CHANGED_MARK: Final = "_aiomodelcache_changed"
"""The attribute that instances have whose key columns were changed and not saved. See ``changes``."""
READ_ONLY_MARK: Final = "_aiomodelcache_read_only"
"""The attribute that read-only instances have. See ``frozen``."""
INTERNAL_ATTRIBUTES: Final = frozenset(
    {"_saved_in_db", "_custom_generated_pk", "_await_when_save", "_partial", STALE_MARK, CHANGED_MARK, READ_ONLY_MARK}
)
"""The attributes of instances that are neither columns nor relations."""


def mark_stale(values: RowValues) -> None:
    """Marks the values of a stale copy, which become the attributes of an instance."""
    values[STALE_MARK] = True


def mark_fresh(instance: Model) -> None:
    """Removes the mark of a stale copy, because all columns were read from the database."""
    vars(instance).pop(STALE_MARK, None)


def is_stale(instance: Model) -> bool:
    """Returns True if the instance was made of a stale copy and not refreshed since."""
    return STALE_MARK in vars(instance)


def is_saved(instance: Model) -> bool:
    """Returns True if Tortoise takes the instance for a row of the database."""
    return bool(cast("Any", instance)._saved_in_db)
