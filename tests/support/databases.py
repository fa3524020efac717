"""A test's database: its URL, its tables, and Tortoise opened on it."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

T = TypeVar("T", list[str], set[int], set[uuid.UUID], str)


class DatabaseUrl(str):
    """A Tortoise database URL that knows its ``dialect``: sqlite, postgres or mariadb."""

    __slots__ = ("dialect",)

    dialect: str

    def __new__(cls, url: str, dialect: str) -> "DatabaseUrl":
        self = super().__new__(cls, url)
        self.dialect = dialect
        return self


@asynccontextmanager
async def tortoise_on(url: DatabaseUrl, *modules: str, create: bool = True) -> AsyncIterator[BaseDBAsyncClient]:
    """Opens Tortoise on ``url`` with the models of ``modules``, and creates their tables if ``create``.

    The app is named ``app``, and the connection after the dialect. Tortoise caches generated SQL by the names of
    connection and table, so two dialects under one connection name would share their SQL. Models of two modules with
    one table name would share it too, so this function empties that cache. Yields the connection and closes it
    afterwards. The owner of the database drops it.
    """
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:
        await context.init(
            config={
                "connections": {url.dialect: str(url)},
                "apps": {"app": {"models": list(modules), "default_connection": url.dialect}},
            }
        )
        if create:
            await context.generate_schemas(safe=False)
        yield context.connections.get(url.dialect)


async def create_tables(url: DatabaseUrl, *modules: str) -> None:
    """Creates the tables of the models of ``modules`` in an empty database."""
    async with tortoise_on(url, *modules):
        pass


class SQLiteDatabases:
    """Makes database files, of which it keeps one for each set of tables, to copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._originals: dict[tuple[str, ...], Path] = {}

    def create(self, path: Path, *modules: str) -> str:
        """Returns the URL of a database at ``path``, which has the tables of the models of ``modules``."""
        if modules:
            if modules not in self._originals:
                original = self._folder / f"{len(self._originals)}.sqlite3"
                # In a thread, because this one may be inside an event loop.
                with ThreadPoolExecutor(max_workers=1) as thread:
                    url = DatabaseUrl(self._url(original), "sqlite")
                    thread.submit(asyncio.run, create_tables(url, *modules)).result()
                self._originals[modules] = original
            shutil.copyfile(self._originals[modules], path)
        return self._url(path)

    @staticmethod
    def _url(path: Path) -> str:
        # Without the default of waiting for the disk, which has nothing to survive.
        return f"sqlite://{path}?synchronous=OFF"


def after_rollback(url: DatabaseUrl, cleared: T) -> T:
    """Returns what a rollback clears on MariaDB, where writes may survive it, and an empty one for other databases."""
    return cleared if url.dialect == "mariadb" else type(cleared)()
