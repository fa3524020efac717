"""The URL of a test's database, and Tortoise opened on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext


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
