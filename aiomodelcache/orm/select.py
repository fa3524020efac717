"""What writers need to know of models: who refers to whom, which managers there are, values by SQL.

Like ``schema``, it knows nothing of entries or Redis; unlike it, it also serves models that are not cached.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

from pypika_tortoise.queries import Table
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import Q
from tortoise.fields.base import DatabaseDefault, OnDelete
from tortoise.fields.db_defaults import SqlDefault
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.entries.many_to_many import Through
from aiomodelcache.orm.schema import ModelSchema, Values, meta_of

T = TypeVar("T")


class Reference(NamedTuple):
    """A foreign key that the database enforces: ``child.attribute`` refers to ``parent.to_field``."""

    parent: type[Model]
    child: type[Model]
    attribute: str
    to_field: str
    on_delete: OnDelete
    left: Any
    """What SET NULL or SET DEFAULT leaves in ``attribute``; a ``DatabaseDefault`` if only the database knows."""


def references(models: Iterable[type[Model]]) -> list[Reference]:
    """All foreign keys between these models that the database enforces."""
    found: list[Reference] = []
    for child in models:
        meta = meta_of(child)
        for field in [meta.fields_map[name] for name in sorted(meta.fk_fields | meta.o2o_fields)]:
            if field.db_constraint:
                to_field = field.to_field_instance.model_field_name
                on_delete = OnDelete(field.on_delete)  # may be given as a string
                left = _left(field) if on_delete is OnDelete.SET_DEFAULT else None
                found.append(Reference(field.related_model, child, field.source_field, to_field, on_delete, left))
    return found


def _left(field: Any) -> Any:
    # A `default` is Python's own; the column may have another one, or none.
    known = field.has_db_default() and not isinstance(field.db_default, SqlDefault)
    return field.db_default if known else DatabaseDefault(field)


SOME: Final = 10_000
"""Values in one statement, at most; the databases allow about three times as many."""


def portions(values: Sequence[T], size: int = SOME) -> list[Sequence[T]]:
    """The values in portions that fit one statement."""
    return [values[start : start + size] for start in range(0, len(values), size)]


async def select_values(
    model: type[Model], client: BaseDBAsyncClient, attribute: str, values: Sequence[Any], wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of all rows, hidden ones too, whose ``attribute`` is one of ``values``."""
    found: list[dict[str, Any]] = []
    for some in portions(values):
        query: Any = QuerySet(model).using_db(client).filter(one_of(attribute, some))
        found += await query.values(*dict.fromkeys(wanted))
    return found


async def select_matching(
    model: type[Model],
    client: BaseDBAsyncClient,
    attributes: Sequence[str],
    combinations: Sequence[Values],
    wanted: Iterable[str],
) -> list[dict[str, Any]]:
    """Like ``select_values``, by combinations of values; other rows may be among them."""
    found: list[dict[str, Any]] = []
    for some in portions(combinations):
        query: Any = QuerySet(model).using_db(client)
        for at, attribute in enumerate(attributes):
            query = query.filter(one_of(attribute, list({values[at]: None for values in some})))
        found += await query.values(*dict.fromkeys(wanted))
    return found


async def last_pk(model: type[Model], client: BaseDBAsyncClient) -> Any:
    """The highest primary key that a transaction sees; None if there is no row."""
    pk = pk_of(model)
    return await QuerySet(model).using_db(client).order_by(f"-{pk}").first().values_list(pk, flat=True)


async def select_after(
    model: type[Model], client: BaseDBAsyncClient, last: Any, wanted: Iterable[str], limit: int
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of the rows that came to be since ``last`` was the highest primary key.

    The database counts its keys up. If the rows are more than ``limit``: one more than that.
    """
    query: Any = QuerySet(model).using_db(client)
    if last is not None:
        conditions = {f"{pk_of(model)}__gt": last}
        query = query.filter(**conditions)
    found: list[dict[str, Any]] = await query.limit(limit + 1).values(*dict.fromkeys(wanted))
    return found


async def select_locked(
    model: type[Model],
    client: BaseDBAsyncClient,
    attribute: str,
    values: Sequence[Any],
    wanted: Iterable[str],
    limit: int,
) -> list[dict[str, Any]]:
    """Like ``select_values``, and locks the rows. If they are more than ``limit``: one more than that."""
    names = list(dict.fromkeys(wanted))
    found: list[dict[str, Any]] = []
    for some in portions(values):
        query: Any = QuerySet(model).using_db(client).filter(one_of(attribute, some)).only(*names)
        query = query.order_by(pk_of(model)).limit(limit + 1 - len(found)).select_for_update()
        rows: list[Model] = await query
        found += [{name: vars(row)[name] for name in names} for row in rows]
        if len(found) > limit:
            break
    return found


async def rows_matching(
    schema: ModelSchema, client: BaseDBAsyncClient, attributes: Sequence[str], values: Values, wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of all rows, hidden ones too, that have these values."""
    query: Any = QuerySet(schema.model).using_db(client).filter(schema.matching(attributes, [values]))
    found: list[dict[str, Any]] = await query.values(*dict.fromkeys(wanted))
    return found


async def linked_to(through: Through, pks: Sequence[Any], client: BaseDBAsyncClient, limit: int) -> list[Any]:
    """Returns the owners of the many-to-many lists that these rows are in; of too many, more than ``limit``."""
    relation = through.relation
    schema, _, name = relation.table.rpartition(".")
    table: Any = Table(name, schema=schema or None)
    connection: Any = client
    field = meta_of(relation.related).pk
    found: dict[Any, None] = {}
    for some in portions([field.to_db_value(pk, relation.related) for pk in pks]):
        query = connection.query_class.from_(table).select(relation.own_column).distinct()
        query = query.where(table[relation.other_column].isin(list(some))).limit(limit + 1)
        rows: list[dict[str, Any]] = await connection.execute_query_dict(*query.get_parameterized_sql())
        found.update({through.owner_value(row[relation.own_column]): None for row in rows})
    return list(found)


def one_of(attribute: str, values: Sequence[Any]) -> Q:
    """The condition that a column has one of these values."""
    conditions: dict[str, Any] = {f"{attribute}__in": list(values)}
    return Q(**conditions)


def managers(model: type[Model]) -> list[Any]:
    """The model's own manager and those that it has as attributes."""
    named = [value for cls in model.__mro__ for value in vars(cls).values() if isinstance(value, Manager)]
    return list({id(each): each for each in [meta_of(model).manager, *named]}.values())


def columns_of(model: type[Model], attributes: Iterable[str]) -> dict[str, str]:
    """Attribute -> column name."""
    return {name: meta_of(model).fields_db_projection[name] for name in attributes}


def python_values(model: type[Model], row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row as the driver returned it, by attribute and converted as Tortoise would."""
    fields = meta_of(model).fields_map
    return {name: fields[name].to_python_value(row[column]) for name, column in columns.items()}


def pk_of(model: type[Model]) -> str:
    """The attribute that holds the primary key."""
    return str(meta_of(model).pk_attr)


def relation_client(model: type[Model]) -> BaseDBAsyncClient:
    """The connection that a many-to-many write goes to now, which asks no router."""
    return cast("BaseDBAsyncClient", meta_of(model).db)


def write_client(model: type[Model]) -> BaseDBAsyncClient:
    """The connection that a write of the model goes to now: an open transaction's, if there is one."""
    return cast("BaseDBAsyncClient", cast("Any", model)._choose_db(True))
