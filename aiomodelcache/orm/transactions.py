"""Transactions of the library's own, which may be cancelled at any await.

Tortoise's own context manager leaves a cancelled BEGIN as it is. The connection is not given back to its pool, and the
context still names the transaction. So later writes of the task join a transaction that is never committed. Its exit
stops half-way if it is cancelled. Here the context is reset, and the connection is given back or closed, always.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, cast

import anyio
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient, TransactionContextPooled
from tortoise.connection import get_connections
from tortoise.exceptions import TransactionManagementError

CLEANUP_LIMIT: Final = 10.0
"""Maximum seconds to end a transaction whose caller was cancelled. Beyond it, the connection is closed."""
SETTLE_LIMIT: Final = 2.0
"""Maximum seconds that a cancelled write waits for its outcome. Beyond it, its intent expires by itself."""


_REPEATABLE_READ: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


@asynccontextmanager
async def transaction(client: BaseDBAsyncClient) -> AsyncGenerator[BaseDBAsyncClient, None]:
    """Enters the transaction that ``client`` is in, or one of its own. A finished one cannot contain another."""
    if isinstance(client, TransactionalDBClient):
        yield client
    else:
        async with _safe(cast("Any", client)._in_transaction()) as own:
            yield own


@asynccontextmanager
async def snapshot_transaction(client: BaseDBAsyncClient) -> AsyncGenerator[BaseDBAsyncClient, None]:
    """Enters a transaction whose reads all see the database at one moment."""
    dialect = client.capabilities.dialect
    own: Any = _safe(cast("Any", client)._in_transaction(), _REPEATABLE_READ if dialect == "mysql" else None)
    async with own as snapshot:
        if dialect == "postgres":
            await snapshot.execute_script(_REPEATABLE_READ)
        yield snapshot


def _safe(manager: Any, before: str | None = None) -> AbstractAsyncContextManager[BaseDBAsyncClient]:
    if isinstance(manager, TransactionContextPooled):
        return SafeTransaction(_PooledConnection(manager), before)
    from tortoise.backends.sqlite.client import SqliteTransactionContext  # imports the driver

    if isinstance(manager, SqliteTransactionContext):
        return SafeTransaction(_OnlyConnection(manager))
    return cast("AbstractAsyncContextManager[BaseDBAsyncClient]", manager)


class _PooledConnection:
    """A connection of a pool (PostgreSQL, MySQL)."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.client = manager.client

    async def acquire(self) -> None:
        await self._manager.ensure_connection()
        self.client._connection = await self.client._parent._pool.acquire()

    async def release(self, *, intact: bool) -> None:
        """Returns the connection to the pool; closes it before, unless its state is known."""
        connection, pool = self.client._connection, self.client._parent._pool
        if not intact:
            close: Any = getattr(connection, "terminate", connection.close)  # asyncpg's close waits for the server
            close()
        if pool:
            await pool.release(connection)


class _OnlyConnection:
    """The only connection of a SQLite database, which a lock guards."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.client = manager.connection

    async def acquire(self) -> None:
        await self._manager._trxlock.acquire()
        try:
            await to_its_end(self._manager.ensure_connection())
        except BaseException:
            self._manager._trxlock.release()
            raise

    async def release(self, *, intact: bool) -> None:
        """Releases the lock; rolls back before, unless the transaction has ended."""
        try:
            if not (intact and self.client._finalized):
                await self.client._connection.rollback()  # runs after the statements that were sent, in their thread
        finally:
            self._manager._trxlock.release()


class SafeTransaction:
    """BEGIN to COMMIT or ROLLBACK on a connection that is taken before and given back after it."""

    def __init__(self, connection: _PooledConnection | _OnlyConnection, before: str | None = None) -> None:
        self._connection = connection
        self._client = connection.client
        self._before = before
        """A statement to send before BEGIN."""

    async def __aenter__(self) -> BaseDBAsyncClient:
        await self._connection.acquire()
        self._token = get_connections().set(self._client.connection_name, self._client)
        try:
            if self._before is not None:
                await self._client.execute_query(self._before)
            await self._client.begin()
        except BaseException as error:
            await self._leave(intact=False, cancelled=isinstance(error, asyncio.CancelledError))
            raise
        return cast("BaseDBAsyncClient", self._client)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        intact, cancelled = False, isinstance(error, asyncio.CancelledError)
        try:
            if not self._client._finalized:
                if error is None:
                    await self._client.commit()
                elif kind is not TransactionManagementError:  # the database has rolled back already
                    with suppress(Exception):  # asyncmy has closed a connection whose statement was cancelled
                        await to_its_end(self._client.rollback(), cancelled=cancelled)
            intact = True
        except asyncio.CancelledError:
            cancelled = True
            raise
        except Exception:
            intact = True  # the driver resets a connection whose statement was answered with an error
            raise
        finally:
            await self._leave(intact=intact, cancelled=cancelled)

    async def _leave(self, *, intact: bool, cancelled: bool) -> None:
        get_connections().reset(self._token)
        await to_its_end(self._connection.release(intact=intact), cancelled=cancelled)


async def settled(work: Coroutine[Any, Any, Any]) -> None:
    """Awaits a write, and if the caller is cancelled, its outcome for at most ``SETTLE_LIMIT`` seconds.

    Then raises the cancellation, if there was one, or what the write raised. Past the limit the write is cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def notify(_: object = None) -> None:
        if not done.done():  # the waiter may have been cancelled
            done.set_result(None)

    async def run() -> None:
        try:
            await work
        finally:
            notify()  # one turn of the event loop earlier than a callback of the task

    task = loop.create_task(run())
    task.add_done_callback(notify)  # a task that is cancelled before it begins runs nothing
    try:
        await done
    except asyncio.CancelledError:
        with suppress(BaseException):
            await to_its_end(task, SETTLE_LIMIT, cancelled=True)
        raise
    task.result()


async def to_its_end(work: Awaitable[Any], limit: float | None = None, *, cancelled: bool = False) -> None:
    """Awaits ``work`` to its end, also if the caller is cancelled meanwhile.

    Then raises the cancellation, if there was one, or what ``work`` raised. A cancelled caller waits for at most
    ``limit`` seconds (by default ``CLEANUP_LIMIT``), then ``work`` is cancelled. ``cancelled``: the caller is already.
    """
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    now = asyncio.get_running_loop().time
    seconds = CLEANUP_LIMIT if limit is None else limit
    until = now() + seconds if cancelled else None
    cancellation: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            if until is not None and now() >= until:
                task.cancel()
            try:
                await asyncio.wait([task], timeout=None if until is None else max(until - now(), 1.0))
            except asyncio.CancelledError as error:
                cancellation = error
                until = now() + seconds if until is None else until
    if cancellation is None:
        task.result()
        return
    with suppress(BaseException):
        task.result()
    raise cancellation
