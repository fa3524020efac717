"""Another program at the test's database: a connection of a driver, without Tortoise."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiosqlite
import asyncmy
import asyncpg  # type: ignore[import-untyped]

Run = Callable[[str], Awaitable[Any]]
"""Runs a statement, and returns its rows."""


@asynccontextmanager
async def other_program(url: str, user: str | None = None) -> AsyncIterator[Run]:
    """Connects to a database in autocommit mode. Yields a function that runs statements."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = url.removeprefix("sqlite://").partition("?")[0]
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            await connection.execute("PRAGMA foreign_keys = ON")
            yield connection.execute_fetchall
        return
    place: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port,
        "user": user or parts.username,
        "database": parts.path.strip("/"),
    }
    if parts.scheme == "asyncpg":
        driver = await asyncpg.connect(**place)
        try:
            yield driver.fetch
        finally:
            await driver.close()
        return
    async with asyncmy.connect(**place, charset="utf8mb4", autocommit=True) as mysql:

        async def run(statement: str) -> Any:
            async with mysql.cursor() as cursor:
                await cursor.execute(statement)
                return await cursor.fetchall()

        yield run
