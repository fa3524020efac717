"""Connections of other programs to the databases of a soak: bare drivers, and plain SQL."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import aiosqlite
import asyncmy
import asyncmy.errors
import asyncpg  # type: ignore[import-untyped]

LOCK_TIMEOUT = 3
"""Maximum seconds that a statement waits for a lock, because a waiting TRUNCATE holds up all others."""


class Connection(abc.ABC):
    """A connection in autocommit mode. ``BEGIN``, ``COMMIT`` and ``SAVEPOINT`` are statements like others."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """Errors of the driver."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    @classmethod
    @abc.abstractmethod
    async def open(cls, url: str) -> Self:
        """Connects to the database at a Tortoise URL."""

    @abc.abstractmethod
    async def execute(self, statement: str) -> int:
        """Executes a statement. Returns the number of rows that it has changed."""

    @abc.abstractmethod
    async def fetch(self, statement: str) -> Sequence[Sequence[Any]]:
        """Executes a query. Returns its rows."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Ends the connection, also if it is broken."""

    @abc.abstractmethod
    def is_taken(self, error: BaseException) -> bool:
        """Returns True for the error of a statement that would have made a key twice."""

    @abc.abstractmethod
    def is_refusal(self, error: BaseException) -> bool:
        """Returns True for the error of a statement that has changed nothing, on a connection that works on."""


class PostgresConnection(Connection):
    """A connection of asyncpg."""

    errors = (asyncpg.PostgresError, asyncpg.InterfaceError)

    @classmethod
    async def open(cls, url: str) -> Self:
        self = cls(await asyncpg.connect(url.replace("asyncpg://", "postgresql://").partition("?")[0]))
        await self.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
        return self

    async def execute(self, statement: str) -> int:
        status: str = await self.driver.execute(statement)
        number = status.rpartition(" ")[2]
        return int(number) if number.isdigit() else 0

    async def fetch(self, statement: str) -> Sequence[Sequence[Any]]:
        return [tuple(row) for row in await self.driver.fetch(statement)]

    async def close(self) -> None:
        self.driver.terminate()

    def is_taken(self, error: BaseException) -> bool:
        return isinstance(error, asyncpg.UniqueViolationError)

    def is_refusal(self, error: BaseException) -> bool:
        locked = asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError
        return isinstance(error, (asyncpg.IntegrityConstraintViolationError, *locked))


class MariaDBConnection(Connection):
    """A connection of asyncmy."""

    errors = (asyncmy.errors.MySQLError,)

    @classmethod
    async def open(cls, url: str) -> Self:
        parts = urlsplit(url)
        self = cls(
            await asyncmy.connect(
                host=parts.hostname,
                port=parts.port,
                user=parts.username,
                database=parts.path.strip("/"),
                charset="utf8mb4",
                autocommit=True,
            )
        )
        await self.execute(f"SET lock_wait_timeout = {LOCK_TIMEOUT}, innodb_lock_wait_timeout = {LOCK_TIMEOUT}")
        return self

    async def execute(self, statement: str) -> int:
        async with self.driver.cursor() as cursor:
            return int(await cursor.execute(statement) or 0)

    async def fetch(self, statement: str) -> Sequence[Sequence[Any]]:
        async with self.driver.cursor() as cursor:
            await cursor.execute(statement)
            rows: Sequence[Sequence[Any]] = await cursor.fetchall()
            return rows

    async def close(self) -> None:
        self.driver.close()

    def is_taken(self, error: BaseException) -> bool:
        return isinstance(error, asyncmy.errors.IntegrityError) and error.args[0] == 1062

    def is_refusal(self, error: BaseException) -> bool:
        """Returns True for a key that is taken, a lock that was waited for too long, and a deadlock."""
        is_error = isinstance(error, asyncmy.errors.MySQLError)
        return isinstance(error, asyncmy.errors.IntegrityError) or (is_error and error.args[0] in (1205, 1213))


class SQLiteConnection(Connection):
    """A connection of sqlite3, in a thread of its own."""

    errors = (aiosqlite.Error,)

    @classmethod
    async def open(cls, url: str) -> Self:
        path = url.removeprefix("sqlite://").partition("?")[0]
        self = cls(await aiosqlite.connect(path, isolation_level=None, timeout=LOCK_TIMEOUT))
        await self.execute("PRAGMA foreign_keys = ON")
        await self.execute("PRAGMA synchronous = OFF")
        return self

    async def execute(self, statement: str) -> int:
        async with self.driver.execute(statement) as cursor:
            changed: int = cursor.rowcount
            return max(changed, 0)

    async def fetch(self, statement: str) -> Sequence[Sequence[Any]]:
        return list(await self.driver.execute_fetchall(statement))

    async def close(self) -> None:
        await self.driver.close()

    def is_taken(self, error: BaseException) -> bool:
        return isinstance(error, aiosqlite.IntegrityError)

    def is_refusal(self, error: BaseException) -> bool:
        return isinstance(error, aiosqlite.IntegrityError) or "locked" in str(error)


CONNECTIONS: dict[str, type[Connection]] = {
    "asyncpg": PostgresConnection,
    "mysql": MariaDBConnection,
    "sqlite": SQLiteConnection,
}
"""Connections by the scheme of a Tortoise URL."""


async def connect(url: str) -> Connection:
    """Opens a connection, separate from Tortoise's, to the database at a Tortoise URL."""
    return await CONNECTIONS[url.partition(":")[0]].open(url)
