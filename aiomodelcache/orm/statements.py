"""The SQL of captured writes: statements that return the rows they wrote, or lock the rows to write.

Knows models and connections, not caches. PostgreSQL and SQLite return the rows that a statement wrote (``RETURNING``).
On MySQL the rows are locked first and then written by primary key.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException
from tortoise.models import Model
from tortoise.queryset import DeleteQuery

from aiomodelcache.orm.meta import RowValues, columns_of, meta_of, pk_of, python_values
from aiomodelcache.orm.select import chunks, in_condition
from aiomodelcache.orm.snapshots import lock_database

SQLWithParameters = tuple[str, list[Any]]
"""SQL and its parameters."""


class WriteResult(NamedTuple):
    """The result of a statement that wrote rows."""

    number: int
    """The number of rows as Tortoise counts them on this database. SQLite includes rows that a cascade deleted."""
    rows: list[RowValues]
    """The rows that the statement wrote. If they exceed the limit, perhaps only ``limit + 1`` of them."""


def can_return(client: BaseDBAsyncClient) -> bool:
    """Returns True if statements can return the rows that they wrote."""
    return bool(client.capabilities.support_returning)


async def is_atomic(model: type[Model], client: BaseDBAsyncClient) -> bool:
    """Returns True if a statement that MySQL refuses certainly writes no row of a model, by its storage engine."""
    meta = meta_of(model)
    sql = (
        "SELECT e.TRANSACTIONS AS atomic FROM information_schema.TABLES t JOIN information_schema.ENGINES e "
        "ON e.ENGINE = t.ENGINE WHERE t.TABLE_SCHEMA = COALESCE(%s, DATABASE()) AND t.TABLE_NAME = %s"
    )
    try:
        engines = await cast("Any", client).execute_query_dict(sql, [meta.schema, meta.db_table])
    except BaseORMException:
        return False
    return [row["atomic"] for row in engines] == ["YES"]


async def returning(
    model: type[Model],
    client: BaseDBAsyncClient,
    statement: SQLWithParameters,
    attributes: Sequence[str],
    limit: int,
) -> WriteResult:
    """Runs a statement that writes to the model, and returns these attributes of the rows that it wrote."""
    columns = columns_of(model, attributes)
    sql, values = statement
    returned_columns = ", ".join([f'"{column}"' for column in columns.values()])
    sql = f"{sql} RETURNING {returned_columns}"
    connection: Any = client
    if client.capabilities.dialect == "postgres":  # the LIMIT cuts the result only: all rows are written
        sql = f'WITH "_written" AS ({sql}) SELECT *, count(*) OVER () AS "_count" FROM "_written" LIMIT {limit + 1}'
        rows = await connection.execute_query_dict(sql, values)
        number = rows[0]["_count"] if rows else 0
    else:
        number, rows = await connection.execute_query(sql, values)
    return WriteResult(number, [python_values(model, row, columns) for row in rows])


async def lock_rows(query: Any, client: BaseDBAsyncClient, attributes: Sequence[str], limit: int) -> list[RowValues]:
    """Locks the rows that an update or delete query selects, and returns these attributes of them.

    If there are more than ``limit`` rows, only ``limit + 1`` are locked and returned. SQLite locks the whole database.
    """
    model, meta = query.model, meta_of(query.model)
    matching = (query._q_objects, query._annotations, query._custom_filters)
    columns = columns_of(model, attributes)
    if client.capabilities.dialect == "sqlite":
        await lock_database(model, client)
    select: Any = _LockingSelect(model, client, *matching, query._limit, query._orderings)
    select._make_query()
    select.query._delete_from = False
    sql = select.query.select(*[meta.basetable[column] for column in columns.values()])
    if client.capabilities.support_for_update:
        sql = sql.for_update()
    if not (query._limit and query._limit <= limit):
        sql = sql.limit(limit + 1)
    rows = await cast("Any", client).execute_query_dict(*sql.get_parameterized_sql())
    return [python_values(model, row, columns) for row in rows]


class _LockingSelect(DeleteQuery):
    """A delete query of Tortoise whose conditions are used for a ``SELECT ... FOR UPDATE``."""

    __slots__ = ()

    def resolve_filters(self, fields_for_select: Collection[str] | None = None) -> None:
        super().resolve_filters(fields_for_select)
        if self.capabilities.dialect == "mysql":  # a subquery without a lock would read an old snapshot
            self.query = cast("Any", self.query).for_update()


async def lock_by_pk(
    model: type[Model], client: BaseDBAsyncClient, pks: Sequence[Any], attributes: Iterable[str]
) -> list[RowValues]:
    """Locks the rows with these primary keys and returns these attributes of them."""
    query: Any = delete_by_pk(model, client, pks)
    return await lock_rows(query, client, [*dict.fromkeys(attributes)], len(pks))


def delete_by_pk(model: type[Model], client: BaseDBAsyncClient, pks: Sequence[Any]) -> Any:
    """Returns the query that deletes the rows with these primary keys."""
    return DeleteQuery(model, client, [in_condition(pk_of(model), pks)], {}, {}, None, [])


def equality_condition(instance: Model, executor: Any, attributes: Sequence[str], *, at: int) -> SQLWithParameters:
    """Returns the condition that a row has the instance's values of these attributes.

    ``executor``: that of the statement. ``at``: the number of parameters before the condition.
    """
    model, own = type(instance), [getattr(instance, name) for name in attributes]
    key: Any = (model, type(executor), tuple(attributes), tuple([value is None for value in own]), at)
    text = _equality_texts.get(key)
    if text is None:
        text = _equality_text(executor, zip(columns_of(model, attributes).values(), own, strict=True), at)
        if len(_equality_texts) < _MAX_TEXTS:
            _equality_texts[key] = text
    fields = meta_of(model).fields_map
    pairs = [(name, value) for name, value in zip(attributes, own, strict=True) if value is not None]
    return text, [fields[name].to_db_value(value, instance) for name, value in pairs]


def _equality_text(executor: Any, values: Iterable[tuple[str, Any]], at: int) -> str:
    context, places = executor.db.query_class.SQL_CONTEXT, count(at)
    conditions: list[str] = []
    for column, value in values:
        quoted = f"{context.quote_char}{column}{context.quote_char}"
        place = None if value is None else executor.parameter(next(places)).get_sql(context)
        conditions.append(f"{quoted} IS NULL" if place is None else f"{quoted}={place}")
    return " AND ".join(conditions)


_equality_texts: Final[dict[Any, str]] = {}
_MAX_TEXTS: Final = 256
"""Maximum number of remembered texts of conditions. Beyond it, they are made anew."""
MAX_PARAMETERS: Final = 30_000
"""Maximum number of parameters in one INSERT. More are sent in further statements.

PostgreSQL and SQLite allow slightly more.
"""


async def insert_rows(
    model: type[Model],
    client: BaseDBAsyncClient,
    objects: Sequence[Model],
    attributes: Sequence[str],
    wanted: Sequence[str],
    *,
    ignore_conflicts: bool,
) -> list[RowValues]:
    """Inserts these attributes of the objects, in as few statements as possible.

    Returns the ``wanted`` attributes of the rows that were written.
    """
    meta, executor = meta_of(model), cast("Any", client).executor_class(model=model, db=client)
    into: Any = cast("Any", client).query_class.into(meta.basetable)
    if not attributes:
        defaults: SQLWithParameters = (str(into.default_values()), [])
        return [row for _ in objects for row in (await returning(model, client, defaults, wanted, 1)).rows]
    into = into.columns(*columns_of(model, attributes).values())
    fields = [meta.fields_map[name] for name in attributes]
    width = len(fields)
    rows: list[RowValues] = []
    for chunk in chunks(objects, max(1, MAX_PARAMETERS // width)):
        values = [
            field.to_db_value(getattr(instance, name), instance)
            for instance in chunk
            for name, field in zip(attributes, fields, strict=True)
        ]
        parameters = [executor.parameter(position) for position in range(len(values))]
        query = into.insert(*[tuple(parameters[start : start + width]) for start in range(0, len(parameters), width)])
        if ignore_conflicts:
            query = query.on_conflict().do_nothing()
        statement = (query.get_sql(), values)
        rows += (await returning(model, client, statement, wanted, len(chunk))).rows
    return rows
