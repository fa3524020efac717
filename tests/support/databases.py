"""Where a test's database is, and Tortoise opened on it."""

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
    """Opens Tortoise on ``url`` with the models of ``modules`` and, if asked to, creates their tables.

    The app is called ``app``. The connection is called by the dialect, because Tortoise keeps the SQL that it
    builds by the names of connection and table: two dialects under one name would share it. So would models
    of two modules with one table name, which is why that store is emptied here.
    Yields that connection; closes it in the end, and leaves dropping the database to its owner.
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
