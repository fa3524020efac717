"""The statement of a save or delete in autocommit mode: it waits for the mark, and the clear follows it at once.

The mark is under way while Tortoise makes the statement. asyncpg resets a connection that it takes back, which is one
more round trip. By then the statement is committed, so the clear is sent before the reset and not after it.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.models import Model

from aiomodelcache.write.calls import WriteCall, current_write
from aiomodelcache.write.executors import StatementConnection, extend, on_connection

_lending: Final[ContextVar["_Gate | None"]] = ContextVar("aiomodelcache_lending", default=None)
"""The gate whose statement is sent now, for which Tortoise takes a connection."""


def gate_connection(client: BaseDBAsyncClient) -> None:
    """Makes the saves and deletes on a connection in autocommit mode wait for their marks. Idempotent."""
    if not issubclass(client.executor_class, _GatedExecutor):
        extend(client, _GatedExecutor)
        if _resets_connections(client):
            lend: Any = getattr(client, "acquire_connection")  # noqa: B009
            setattr(client, "acquire_connection", _lending_to_gates(lend))  # noqa: B010


def is_gated(client: BaseDBAsyncClient) -> bool:
    """Returns True if statements on this connection wait for their marks."""
    return issubclass(client.executor_class, _GatedExecutor) and not isinstance(client, TransactionalDBClient)


def _resets_connections(client: BaseDBAsyncClient) -> bool:
    """Returns True for asyncpg, whose pool resets each connection that it takes back."""
    module: Any = sys.modules.get("tortoise.backends.asyncpg.client")
    return module is not None and isinstance(client, module.AsyncpgDBClient)


class _GatedExecutor:
    """An executor of Tortoise's whose statement for an instance waits until its keys are marked."""

    async def execute_insert(self: Any, instance: Any) -> None:
        """See ``BaseExecutor.execute_insert``. The row's values are not all known before its answer."""
        await cast("Any", super(_GatedExecutor, _gated(self, instance, None))).execute_insert(instance)

    async def execute_update(self: Any, instance: Any, update_fields: Iterable[str] | None) -> int:
        """See ``BaseExecutor.execute_update``."""
        executor: Any = super(_GatedExecutor, _gated(self, instance, "UPDATE "))
        return cast("int", await executor.execute_update(instance, update_fields))

    async def execute_delete(self: Any, instance: Any) -> int:
        """See ``BaseExecutor.execute_delete``."""
        return cast(
            "int", await cast("Any", super(_GatedExecutor, _gated(self, instance, "DELETE "))).execute_delete(instance)
        )


def _gated(executor: Any, instance: Model, status: str | None) -> Any:
    write = current_write(instance)
    if write is None or isinstance(executor.db, TransactionalDBClient):
        return executor
    return on_connection(executor, _Gate(executor.db, instance, write, status))


class _Gate(StatementConnection):
    """A connection for one statement, which waits until the keys of its write are marked."""

    def __init__(self, client: Any, instance: Model, write: WriteCall, status: str | None) -> None:
        super().__init__(client, instance)
        self._write = write
        self._status = status
        """The beginning of the answer to the statement, if the clear may follow at once."""

    async def execute_query(self, sql: str, values: list[Any] | None = None) -> Any:
        return await self._send(self._client.execute_query, sql, values)

    async def execute_insert(self, sql: str, values: list[Any]) -> Any:
        return await self._send(self._client.execute_insert, sql, values)

    async def _send(self, execute: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        await self._write.marked()
        if self._status is None:
            return await execute(*arguments)
        token = _lending.set(self)
        try:
            return await execute(*arguments)
        finally:
            _lending.reset(token)

    def acknowledge(self, answer: object) -> None:
        """Starts the clear, if the answer says that the statement has written the row."""
        if isinstance(answer, str) and answer.startswith(self._status or " ") and not answer.endswith(" 0"):
            self._write.acknowledge()


def _lending_to_gates(lend: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(lend)
    def acquire_connection() -> Any:
        gate = _lending.get()
        return lend() if gate is None else _Lent(lend(), gate)

    return acquire_connection


class _Lent:
    """A connection of asyncpg's pool for one statement. Its gate is told the answer before the connection is reset."""

    def __init__(self, lender: Any, gate: _Gate) -> None:
        self._lender = lender
        self._gate = gate
        self._answer: object = None

    async def __aenter__(self) -> "_Lent":
        self._connection = await self._lender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._gate.acknowledge(self._answer)
        await self._lender.__aexit__(kind, error, trace)

    async def execute(self, *arguments: Any) -> Any:
        self._answer = await self._connection.execute(*arguments)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
