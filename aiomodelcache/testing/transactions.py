"""``transaction_as_autocommit``: commits inside tests whose transaction is rolled back at the end.

Inside a transaction reads go to the database, and writes invalidate at a COMMIT that never comes in such a test. So
the test's transaction is put behind a connection that looks like one in autocommit mode. Each statement and each
transaction on it is a savepoint. Nothing is patched: the connection is an instance of a subclass of the real
connection's class. It takes the place of the real connection in the way in which Tortoise sets transactions.
"""

import asyncio
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from types import TracebackType
from typing import Any, Final, cast

from tortoise.backends.base.client import (
    BaseDBAsyncClient,
    ConnectionWrapper,
    TransactionalDBClient,
    TransactionContext,
)
from tortoise.connection import ConnectionHandler
from tortoise.context import get_current_context

from aiomodelcache.exceptions import CacheConfigurationError, CacheError
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.orm.observed import REPLACED


@contextmanager
def transaction_as_autocommit() -> Generator[None, None, None]:
    """Makes the transaction that the test runs in look like a connection in autocommit mode.

    Use it for tests whose transaction is rolled back at the end. In the block, caches work as in production.
    ``in_transaction()`` returns a transaction that can be committed and rolled back, and a write outside of one seems
    to be committed at once. It applies to all connections that are in a transaction, and to the current task and the
    tasks that it starts. Open and close caches inside the block.

    As with SQLite, there is one connection: while a transaction is open in one task, the statements of others wait.

    Raises ``CacheError`` if no transaction is open, or if a cache is open already.

    >>> async with in_transaction() as transaction:
    ...     with transaction_as_autocommit():
    ...         async with ModelCache("memory://"):
    ...             await Event.cache.get(slug="pycon")
    ...     await transaction.rollback()
    """
    handler, transactions = _connections(), open_transactions()
    if not transactions:
        raise CacheError("transaction_as_autocommit: no transaction is open: begin one around the block.")
    if default_cache_or_none() is not None:
        raise CacheError(
            "transaction_as_autocommit: a cache is open, and reads the database outside of this transaction: open it "
            "inside the block, for one test alone."
        )
    with ExitStack() as stack:
        for transaction in transactions:
            token = handler.set(transaction.connection_name, _autocommit(transaction))
            stack.callback(handler.reset, token)
        yield


def open_transactions() -> list[TransactionalDBClient]:
    """Returns the transactions in which queries of the current task run, of all connections."""
    handler = _connections()
    clients = [handler.get(name) for name in handler.db_config]
    return [client for client in clients if isinstance(client, TransactionalDBClient)]


def _connections() -> ConnectionHandler:
    context = get_current_context()
    if context is None:
        raise CacheConfigurationError(
            "Tortoise is not initialised: await Tortoise.init(...) first, in pytest by a fixture that your override of "
            "model_cache_database depends on."
        )
    return context.connections


def _autocommit(transaction: Any) -> BaseDBAsyncClient:
    parent: Any = transaction
    while isinstance(parent, TransactionalDBClient):
        parent = cast("Any", parent)._parent
    client = object.__new__(_subclass(AutocommitClient, cast("Any", type(parent))))
    own: dict[str, Any] = {"_connection": transaction._connection, "_lock": asyncio.Lock(), "_transaction": transaction}
    attributes: dict[str, Any] = {**vars(parent), **own}
    for name in REPLACED:
        attributes.pop(name, None)  # an open cache has replaced it on the parent
    client.__dict__ = attributes
    for name in STATEMENTS:
        setattr(client, name, partial(_execute, client, transaction, getattr(transaction, name)))
    return cast("BaseDBAsyncClient", client)


STATEMENTS: Final = ("execute_insert", "execute_many", "execute_query", "execute_query_dict", "execute_script")


async def _execute(client: Any, transaction: Any, execute: Any, *arguments: Any) -> Any:
    # With a savepoint, because PostgreSQL refuses all statements after one that failed.
    async with client._lock, transaction._in_transaction():
        return await execute(*arguments)


@cache
def _subclass(first: Any, second: Any) -> Any:
    """Returns a class derived from both. It is of the driver's module, by which the library recognises the driver."""
    return type(first.__name__, (first, second), {"__module__": second.__module__, "__doc__": first.__doc__})


class AutocommitClient:
    """The part of a connection that makes a transaction look like autocommit mode."""

    _transaction: TransactionalDBClient

    def acquire_connection(self) -> ConnectionWrapper[Any]:
        """Lends the transaction's connection to one task at a time."""
        own: Any = self
        return ConnectionWrapper(own._lock, own)

    def _in_transaction(self) -> TransactionContext:
        return SavepointContext(self, self._transaction)

    async def close(self) -> None:
        """Does nothing, because the connection belongs to the surrounding transaction."""


class SavepointContext(TransactionContext):
    """A savepoint that looks like a transaction. ``in_transaction()`` returns it in the block."""

    def __init__(self, parent: Any, transaction: Any) -> None:
        self._parent = parent
        kind = cast("Any", type(transaction))
        # Some drivers turn a transaction that begins inside another one into a savepoint by themselves.
        self.client = (_subclass(_Savepoint, kind) if hasattr(transaction, "_savepoint") else kind)(parent)

    async def __aenter__(self) -> TransactionalDBClient:
        await self._parent._lock.acquire()
        try:
            await self.client.begin()
        except BaseException:
            self._parent._lock.release()
            raise
        self._token = _connections().set(self.client.connection_name, self.client)
        return self.client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not cast("Any", self.client)._finalized:
                if kind is None:
                    await self.client.commit()
                else:
                    await self.client.rollback()
        finally:
            _connections().reset(self._token)
            self._parent._lock.release()


class _Savepoint:
    """The part of a transaction's client that makes a savepoint look like a transaction."""

    async def begin(self: Any) -> None:
        await self.savepoint()

    async def commit(self: Any) -> None:
        await self.release_savepoint()
        self._finalized = True

    async def rollback(self: Any) -> None:
        await self.savepoint_rollback()
        self._finalized = True
