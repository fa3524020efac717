"""SELECT statements that writers need, for models that are cached and for models that are not."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from pypika_tortoise.queries import Table
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import Q
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.orm.key_values import distinct, identity
from aiomodelcache.orm.meta import Values, meta_of, pk_of
from aiomodelcache.orm.relations import ManyToMany
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.snapshots import locked_if_needed, newest_values

T = TypeVar("T")


MAX_IN_VALUES: Final = 10_000
"""Maximum number of values in one statement. More values are sent in further statements.

The databases allow about three times as many.
"""


def chunks(values: Sequence[T], size: int = MAX_IN_VALUES) -> list[Sequence[T]]:
    """Splits the values into chunks that fit in one statement."""
    return [values[start : start + size] for start in range(0, len(values), size)]


async def select_values(
    model: type[Model], client: BaseDBAsyncClient, attribute: str, values: Sequence[Any], wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of all rows, hidden rows too, whose ``attribute`` is one of ``values``.

    In a transaction, the rows are as new as ``newest_values`` returns them.
    """
    rows: list[dict[str, Any]] = []
    for chunk in chunks(values):
        query: Any = QuerySet(model).using_db(client).filter(in_condition(attribute, chunk))
        rows += await newest_values(query, wanted)
    return rows


async def select_matching(
    model: type[Model],
    client: BaseDBAsyncClient,
    attributes: Sequence[str],
    combinations: Sequence[Values],
    wanted: Iterable[str],
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of the rows with these combinations of values, hidden rows too.

    The rows may include others, because each column is compared by itself.
    """
    rows: list[dict[str, Any]] = []
    for chunk in chunks(combinations):
        query: Any = QuerySet(model).using_db(client)
        for at, attribute in enumerate(attributes):
            query = query.filter(in_condition(attribute, distinct([values[at] for values in chunk])))
        rows += await query.values(*dict.fromkeys(wanted))
    return rows


async def last_pk(model: type[Model], client: BaseDBAsyncClient) -> Any:
    """Returns the highest primary key that a transaction sees; None if there is no row."""
    pk = pk_of(model)
    return await QuerySet(model).using_db(client).order_by(f"-{pk}").first().values_list(pk, flat=True)


async def select_after(
    model: type[Model], client: BaseDBAsyncClient, last: Any, wanted: Iterable[str], limit: int
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of the rows that were inserted since ``last`` was the highest primary key.

    Requires a primary key that the database counts up. Returns at most ``limit + 1`` rows.
    """
    query: Any = QuerySet(model).using_db(client)
    if last is not None:
        conditions = {f"{pk_of(model)}__gt": last}
        query = query.filter(**conditions)
    rows: list[dict[str, Any]] = await query.limit(limit + 1).values(*dict.fromkeys(wanted))
    return rows


async def select_locked(
    model: type[Model],
    client: BaseDBAsyncClient,
    attribute: str,
    values: Sequence[Any],
    wanted: Iterable[str],
    limit: int,
) -> list[dict[str, Any]]:
    """Locks the rows that ``select_values`` returns, and returns at most ``limit + 1`` of them."""
    names = list(dict.fromkeys(wanted))
    rows: list[dict[str, Any]] = []
    for chunk in chunks(values):
        query: Any = QuerySet(model).using_db(client).filter(in_condition(attribute, chunk)).only(*names)
        query = query.order_by(pk_of(model)).limit(limit + 1 - len(rows)).select_for_update()
        instances: list[Model] = await query
        rows += [{name: vars(instance)[name] for name in names} for instance in instances]
        if len(rows) > limit:
            break
    return rows


async def rows_matching(
    schema: ModelSchema, client: BaseDBAsyncClient, attributes: Sequence[str], values: Values, wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Returns the ``wanted`` columns of all rows, hidden rows too, that have these values."""
    query: Any = QuerySet(schema.model).using_db(client).filter(schema.having(attributes, values))
    return await newest_values(query, wanted)


async def linked_to(
    relation: ManyToMany, owner: ModelSchema, pks: Sequence[Any], client: BaseDBAsyncClient, limit: int
) -> list[Any]:
    """Returns the primary keys of ``owner`` that a relation links to the rows with the primary keys ``pks``.

    If there are more than ``limit``, the result may be incomplete, but is longer than ``limit``.
    """
    schema, _, name = relation.table.rpartition(".")
    table: Any = Table(name, schema=schema or None)
    connection: Any = client
    field = meta_of(relation.related).pk
    owners: dict[Any, Any] = {}
    for chunk in chunks([field.to_db_value(pk, relation.related) for pk in pks]):
        query = connection.query_class.from_(table).select(relation.own_column).distinct()
        query = query.where(table[relation.other_column].isin(list(chunk))).limit(limit + 1)
        query = locked_if_needed(query, client)
        rows: list[dict[str, Any]] = await connection.execute_query_dict(*query.get_parameterized_sql())
        found = [owner.normalise(owner.pk, row[relation.own_column]) for row in rows]
        owners.update({identity(pk): pk for pk in found})
    return list(owners.values())


def in_condition(attribute: str, values: Sequence[Any]) -> Q:
    """Returns the condition that a column has one of these values."""
    conditions: dict[str, Any] = {f"{attribute}__in": list(values)}
    return Q(**conditions)
