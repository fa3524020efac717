"""Extensions of Tortoise's executor on one connection, which see the statement of a save, or change it."""

import functools
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model


@asynccontextmanager
async def extended(
    connection: AbstractAsyncContextManager[BaseDBAsyncClient], extensions: Iterable[type[Any]]
) -> AsyncGenerator[BaseDBAsyncClient, None]:
    """Returns a connection whose executor class derives from ``extensions``, which override its methods."""
    async with connection as client:
        for extension in extensions:
            extend(client, extension)
        yield client


def extend(client: BaseDBAsyncClient, extension: type[Any]) -> None:
    """Makes the executor class of a connection derive from ``extension``. Idempotent."""
    executor = client.executor_class
    if not issubclass(executor, extension):
        client.executor_class = _extended(cast("Any", executor), cast("Any", extension))


@functools.cache
def _extended(executor: type[Any], extension: type[Any]) -> type[Any]:
    return type(executor.__name__, (extension, executor), {"__module__": executor.__module__})


class StatementConnection:
    """A connection for one statement of an instance. Classes override the methods of the client that send it."""

    def __init__(self, client: Any, instance: Model) -> None:
        self._client = client
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def on_connection(executor: Any, connection: StatementConnection) -> Any:
    """Returns a copy of an executor that sends its statement through ``connection``."""
    copied: Any = object.__new__(cast("Any", type(executor)))  # several times as fast as ``copy``
    copied.__dict__ = {**vars(executor), "db": connection}
    return copied
