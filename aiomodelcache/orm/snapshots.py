"""Reads of writers that must not be older than the rows that a statement of the same transaction acts on.

A transaction may see an older state than its statements act on. It does so by default on MySQL, with REPEATABLE READ or
SERIALIZABLE on PostgreSQL, and on SQLite until it writes. MySQL's locking reads see the newest rows. PostgreSQL and
SQLite refuse to write rows that are newer than the transaction's state.
"""

from collections.abc import Iterable
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.exceptions import OperationalError
from tortoise.models import Model
from tortoise.queryset import ValuesQuery

from aiomodelcache.orm.meta import meta_of


async def newest_values(query: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """Returns these attributes of the rows that a queryset selects. Locks the rows in a transaction on MySQL."""
    values = query.values(*dict.fromkeys(names))
    if _needs_lock(query._db):
        values.__class__ = _LockingValues
    return cast("list[dict[str, Any]]", await values)


class _LockingValues(ValuesQuery[Any]):
    """A ``values()`` query of Tortoise that locks the rows that it reads."""

    __slots__ = ()

    def _make_query(self) -> None:
        super()._make_query()
        self.query = cast("Any", self.query).for_update()


def locked_if_needed(select: Any, client: BaseDBAsyncClient) -> Any:
    """Returns a SELECT statement that sees the newest rows: it locks them in a transaction on MySQL."""
    return select.for_update() if _needs_lock(client) else select


def _needs_lock(client: BaseDBAsyncClient) -> bool:
    return isinstance(client, TransactionalDBClient) and client.capabilities.dialect == "mysql"


async def misses_inserts(client: BaseDBAsyncClient) -> bool:
    """Returns True if a transaction does not see rows that others have inserted since it began, even to lock them."""
    if not isinstance(client, TransactionalDBClient) or client.capabilities.dialect != "postgres":
        return False
    [level] = await cast("Any", client).execute_query_dict("SHOW transaction_isolation")
    return level["transaction_isolation"] in ("repeatable read", "serializable")


async def sees_newest(model: type[Model], client: BaseDBAsyncClient) -> bool:
    """Returns True if ``newest_values`` of this model is certainly not older than the last COMMIT of another writer.

    SQLite tells only by letting the transaction write, so it gets the lock of the database until it ends.
    """
    if isinstance(client, TransactionalDBClient) and client.capabilities.dialect == "sqlite":
        try:
            await lock_database(model, client)
        except OperationalError:
            return False
    return not await misses_inserts(client)


async def lock_database(model: type[Model], client: BaseDBAsyncClient) -> None:
    """Takes SQLite's write lock until the transaction ends. Raises ``OperationalError`` if that is not possible.

    Also raises it if another writer has committed since the transaction's first read, so later reads see the newest
    rows. The statement writes no row, so it fires no triggers.
    """
    meta = meta_of(model)
    column = meta.basetable[meta.db_pk_column]
    statement = cast("Any", client).query_class.update(meta.basetable).set(column, column)
    await cast("Any", client).execute_query(f"{statement.get_sql()} WHERE 0")
