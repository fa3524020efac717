"""SQLite as a database with a pool of connections, each statement a step of a schedule.

Each transaction has a connection of its own, as with asyncpg or asyncmy, so that others go on beside it. Reads see
committed rows. Writes wait for each other, from a transaction's first write to its end. Statements run in the event
loop itself, because a thread would decide about the order. This module is a Tortoise engine.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from tortoise.backends.base.client import (
    NestedTransactionContext,
    TransactionalDBClient,
    TransactionContext,
    TransactionContextPooled,
)
from tortoise.backends.sqlite.client import SqliteClient
from tortoise.exceptions import IntegrityError, OperationalError, TransactionManagementError

from tests.protocol.interleavings.schedule import Scheduler

T = TypeVar("T")
Rows = tuple[tuple[Any, ...], ...]
CONNECTION = "scheduled"
"""What Tortoise calls it."""
WRITES = ("INSERT", "UPDATE", "DELETE")


class Pool:
    """What all connections to one database share."""

    scheduler: ClassVar = Scheduler()
    """Of the stage that is open. A Tortoise client cannot be given one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.writing: object = None
        """Whose transaction has written something."""
        self.open: set[PooledTransaction] = set()
        """Transactions that have not ended. One that stays here has left a connection in the middle of it."""
        self.taken: set[sqlite3.Connection] = set()
        """Connections that were acquired and not released. One that stays here has leaked."""
        self.half_done = 0
        """Connections that the library gave back in the middle of a transaction."""
        self.scheduled = True
        """False while Tortoise's own context manager enters: it does not survive a cancellation there."""
        self._scheduled: set[sqlite3.Connection] = set()
        self._free: list[sqlite3.Connection] = []
        self.committed: Callable[[], None] = lambda: None
        """Is called in the very step in which something is committed."""
        self.catch_up: Callable[[], None] = lambda: None
        """Is called in the step of each statement, before it."""

    async def acquire(self) -> sqlite3.Connection:
        """Takes a connection, in a step that no other actor takes part in. Cancelled, a driver keeps none."""
        connection = self._free.pop() if self._free else self.connect()

        async def take() -> None:
            self.taken.add(connection)

        if self.scheduled:
            self._scheduled.add(connection)
            try:
                await self.scheduler.step("ACQUIRE", take, local=True)
            except asyncio.CancelledError:
                self._scheduled.discard(connection)
                await self.release(connection)
                raise
        else:
            await take()
        return connection

    async def release(self, connection: sqlite3.Connection) -> None:
        """Takes a connection back.

        Some drivers reset one that is in the middle of a transaction, others do not notice: only users' own
        transactions, which Tortoise ends, may rely on that.
        """
        own = connection in self._scheduled
        self._scheduled.discard(connection)

        async def give_back() -> None:
            self.taken.discard(connection)
            left = [transaction for transaction in self.open if transaction._connection is connection]
            for transaction in left:
                self.end(transaction)
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.ProgrammingError:  # closed
                return
            self.half_done += own and bool(left)
            self._free.append(connection)

        if own:
            await self.scheduler.step("RELEASE", give_back, local=True)
        else:
            await give_back()

    async def begin(self, transaction: "PooledTransaction") -> None:
        """Begins a transaction on its connection, in a step that no other actor takes part in."""

        async def begin() -> None:
            self.open.add(transaction)

        if transaction._connection in self._scheduled:
            await self.scheduler.step("BEGIN", begin, local=True)
        else:
            await begin()

    def end(self, transaction: object) -> None:
        """Notes the end of a transaction."""
        self.open.discard(transaction)
        if self.writing is transaction:
            self.writing = None

    def close(self) -> None:
        for connection in self._free:
            connection.close()
        self._free.clear()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=0)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection


class PooledClient(SqliteClient):
    """In autocommit mode."""

    def __init__(self, file_path: str, **kwargs: Any) -> None:
        super().__init__(file_path, **kwargs)
        self.pool = Pool(file_path)
        self._pool = self.pool
        self._connection: Any = None

    async def create_connection(self, with_db: bool) -> None:
        if self._connection is None:
            self._connection = self.pool.connect()
            await self._post_connect()

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.pool.close()

    def _in_transaction(self) -> TransactionContext:
        return PooledContext(PooledTransaction(self), asyncio.Lock())

    async def send(self, query: str, run: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a statement when its turn has come."""
        await self.create_connection(with_db=True)
        connection: sqlite3.Connection = self._connection

        async def execute() -> T:
            self.pool.catch_up()
            try:
                answer = run(connection)
            except sqlite3.OperationalError as error:
                raise OperationalError(error) from error
            except sqlite3.IntegrityError as error:
                raise IntegrityError(error) from error
            if query.startswith((*WRITES, "COMMIT")):
                self.wrote()
            return answer

        return await self.pool.scheduler.step(query.split(maxsplit=1)[0], execute, lambda: self.may(query))

    def may(self, query: str) -> bool:
        """True if a statement can be executed; False if it must wait for another transaction."""
        return self.pool.writing in (None, self) or not query.startswith(WRITES)

    def wrote(self) -> None:
        self.pool.committed()

    async def execute_insert(self, query: str, values: list[Any]) -> int:
        return (await self.send(query, lambda connection: connection.execute(query, values).lastrowid)) or 0

    async def execute_many(self, query: str, values: list[list[Any]]) -> None:
        await self.send(query, lambda connection: connection.executemany(query, values))

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, Sequence[Any]]:
        def run(connection: sqlite3.Connection) -> tuple[int, Sequence[Any]]:
            before = connection.total_changes
            rows = connection.execute(query, values or []).fetchall()
            return (connection.total_changes - before) or len(rows), rows

        return await self.send(query, run)

    async def execute_query_dict(self, query: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        return [dict(row) for row in (await self.execute_query(query, values))[1]]

    async def execute_script(self, query: str) -> None:
        await self.send(query, lambda connection: connection.executescript(query))


class PooledTransaction(PooledClient, TransactionalDBClient):
    """A transaction, or a savepoint in one."""

    def __init__(self, parent: Any) -> None:
        self.capabilities = parent.capabilities
        self.connection_name = parent.connection_name
        self.log = parent.log
        self.fetch_inserted = parent.fetch_inserted
        self.pool = parent.pool
        self._connection = parent._connection if isinstance(parent, PooledTransaction) else None
        self._parent = parent
        self._outer: PooledTransaction = parent._outer if isinstance(parent, PooledTransaction) else self
        self._finalized = False
        self._savepoint: str | None = None

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(PooledTransaction(self))

    async def create_connection(self, with_db: bool) -> None:
        assert self._connection is not None, "the connection is acquired before it is used"

    def may(self, query: str) -> bool:
        if self.pool.writing not in (None, self._outer):
            return not query.startswith(WRITES)
        return True

    async def send(self, query: str, run: Callable[[sqlite3.Connection], T]) -> T:
        def begun(connection: sqlite3.Connection) -> T:
            if query.startswith((*WRITES, "SAVEPOINT")) and not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
                self.pool.writing = self._outer
            return run(connection)

        return await super().send(query, begun)

    def wrote(self) -> None:
        if not self._connection.in_transaction:
            self.pool.committed()  # it is over, and this was in autocommit mode

    async def begin(self) -> None:
        await self.pool.begin(self)

    async def commit(self) -> None:
        await self._end("COMMIT")

    async def rollback(self) -> None:
        await self._end("ROLLBACK")

    async def _end(self, command: str) -> None:
        if self._finalized:
            raise TransactionManagementError("Transaction already finalised")

        def end(connection: sqlite3.Connection) -> None:
            if connection.in_transaction:
                connection.execute(command)
            self.pool.end(self)
            if command == "COMMIT":
                self.pool.committed()

        await self.send(command, end)
        self._finalized = True

    async def savepoint(self) -> None:
        self._savepoint = f"savepoint_{id(self)}"
        await self.execute_query(f"SAVEPOINT {self._savepoint}")

    async def savepoint_rollback(self) -> None:
        await self.execute_query(f"ROLLBACK TO {self._savepoint}")

    async def release_savepoint(self) -> None:
        await self.execute_query(f"RELEASE {self._savepoint}")


class Replica:
    """A copy of a database that lags behind it, by ``lag`` seconds at most."""

    def __init__(self, primary: sqlite3.Connection, pool: Pool, lag: float) -> None:
        self._connection = pool.connect()
        self._connection.execute("PRAGMA foreign_keys=OFF")
        self._lag = lag
        self._place = -1
        for [table] in primary.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name != 'sqlite_sequence'"
        ):
            self._connection.execute(table)

    def forget(self) -> None:
        self._place = -1

    def catch_up(self, states: Sequence[Mapping[str, Rows]], times: Sequence[float], now: float) -> None:
        """Takes over what was committed so long ago that it has arrived by now."""
        self.reach(states, max([place for place, time in enumerate(times) if time <= now - self._lag], default=0))

    def reach(self, states: Sequence[Mapping[str, Rows]], place: int) -> None:
        """Takes over what was committed up to that place."""
        if place <= self._place:
            return
        self._place = place
        for table, rows in states[place].items():
            self._connection.execute(f"DELETE FROM {table}")
            if rows:
                self._connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' for _ in rows[0])})", rows)

    def close(self) -> None:
        self._connection.close()


class PooledContext(TransactionContextPooled):
    """Tortoise's own context manager. It is not cancelled while it takes or gives back its connection."""

    async def ensure_connection(self) -> None:
        """The pool is there."""

    async def __aenter__(self) -> Any:
        self.client.pool.scheduled = False
        try:
            return await super().__aenter__()
        finally:
            self.client.pool.scheduled = True


client_class = PooledClient
