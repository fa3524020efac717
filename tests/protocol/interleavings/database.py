"""SQLite as a database with a pool of connections, each statement a step of a schedule.

Each transaction has a connection of its own, as with asyncpg or asyncmy, so that others go on beside it: reads see what
is committed, writes wait for each other from a transaction's first write to its end. Statements run in the event
loop itself, because a thread would decide about the order. This module is a Tortoise engine.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from tortoise.backends.base.client import NestedTransactionContext, TransactionalDBClient, TransactionContext
from tortoise.backends.sqlite.client import SqliteClient
from tortoise.connection import get_connections
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
        self.open: set[object] = set()
        """Transactions that have not ended. One that stays here has left a connection in the middle of it."""
        self._free: list[sqlite3.Connection] = []
        self.committed: Callable[[], None] = lambda: None
        """Is called in the very step in which something is committed."""
        self.catch_up: Callable[[], None] = lambda: None
        """Is called in the step of each statement, before it."""

    def acquire(self) -> sqlite3.Connection:
        return self._free.pop() if self._free else self.connect()

    def release(self, transaction: object, connection: sqlite3.Connection) -> None:
        self.open.discard(transaction)
        if self.writing is transaction:
            self.writing = None
        self._free.append(connection)

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
        self.connection: sqlite3.Connection | None = None

    async def create_connection(self, with_db: bool) -> None:
        if self.connection is None:
            self.connection = self.pool.connect()
            await self._post_connect()

    async def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.pool.close()

    def _in_transaction(self) -> TransactionContext:
        return PooledContext(PooledTransaction(self))

    async def send(self, query: str, run: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a statement when its turn has come."""
        await self.create_connection(with_db=True)
        connection = self.connection
        assert connection is not None

        async def execute() -> T:
            self.pool.catch_up()
            try:
                answer = run(connection)
            except sqlite3.OperationalError as error:
                raise OperationalError(error) from error
            except sqlite3.IntegrityError as error:
                raise IntegrityError(error) from error
            if query.startswith(WRITES):
                self.wrote()
            return answer

        return await self.pool.scheduler.step(query.split(maxsplit=1)[0], execute, lambda: self.may(query))

    def may(self, query: str) -> bool:
        """Whether a statement can be executed, or has to wait for somebody's transaction."""
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
        self.connection = parent.connection if isinstance(parent, PooledTransaction) else None
        self._connection = None
        self._parent = parent
        self._outer: PooledTransaction = parent._outer if isinstance(parent, PooledTransaction) else self
        self._finalized = False
        self._savepoint: str | None = None
        self._ending = False

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(PooledTransaction(self))

    async def create_connection(self, with_db: bool) -> None:
        if self.connection is None:
            self.connection = self.pool.acquire()

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
        if self.connection is not None and not self.connection.in_transaction:
            self.pool.committed()  # it is over, and this was in autocommit mode

    async def begin(self) -> None:
        await self.create_connection(with_db=True)
        self.pool.open.add(self)

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
            self.pool.release(self, connection)
            if command == "COMMIT":
                self.pool.committed()

        self._ending = True
        await self.send(command, end)
        self._finalized = True

    def leave(self) -> None:
        """The end of its block. A driver resets a connection whose COMMIT or ROLLBACK was interrupted."""
        if self._ending and self in self.pool.open and self.connection is not None:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self.pool.release(self, self.connection)

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


class PooledContext(TransactionContext):
    """As ``TransactionContextPooled``."""

    def __init__(self, client: PooledTransaction) -> None:
        self.client: Any = client
        self.connection_name = client.connection_name

    async def __aenter__(self) -> Any:
        self.token = get_connections().set(self.connection_name, self.client)
        await self.client.begin()
        return self.client

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        try:
            if not self.client._finalized:
                if exc_type:
                    if exc_type is not TransactionManagementError:
                        await self.client.rollback()
                else:
                    await self.client.commit()
        finally:
            self.client.leave()
            get_connections().reset(self.token)


client_class = PooledClient
