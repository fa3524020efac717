"""``Place``: the private servers, the database with the catalogue and the event loop of a run."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis.asyncio as redis

from benchmarks import data
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import PostgresServer, RedisServer

LoopName = Literal["default", "uvloop"]
DatabaseName = Literal["sqlite", "postgres"]
LOOPS: Final[tuple[LoopName, ...]] = ("default", "uvloop")
DATABASES: Final[tuple[DatabaseName, ...]] = ("sqlite", "postgres")
MANY_CONNECTIONS: Final[dict[str, Any]] = {
    "max_connections": 4_000,
    "socket_timeout": 60,
    "socket_connect_timeout": 60,
}
"""Settings for contestants that need a connection per lookup: with redis-py's defaults, 1,000 lookups at once fail."""
MODELS: Final = "benchmarks.models"


@dataclass(frozen=True, slots=True)
class Place:
    """One combination of event loop and database, with a private Redis."""

    loop: LoopName
    database: DatabaseName
    redis: RedisServer
    url: DatabaseUrl

    def __str__(self) -> str:
        return f"{self.loop} loop, {self.database}"

    @property
    def new_loop(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """The function that creates the event loop. Raises ``ImportError`` if uvloop is not installed."""
        if self.loop == "default":
            return asyncio.new_event_loop
        import uvloop

        return uvloop.new_event_loop

    def redis_url(self, database: int) -> str:
        """Returns the URL of a numbered database of the Redis, so that contestants do not delete each other's keys."""
        return f"{self.redis.url.rpartition('/')[0]}/{database}"

    @asynccontextmanager
    async def catalogue(self, *, create: bool = True) -> AsyncIterator[None]:
        """Opens Tortoise. With ``create``, it creates and fills the tables; without, another process has done so."""
        async with tortoise_on(self.url, MODELS, create=create):
            if create:
                self.redis.flush()
                await data.fill_database()
            yield


@contextmanager
def open_place(loop: LoopName, database: DatabaseName) -> Iterator[Place]:
    """Starts servers for one combination and ends them. Raises ``tests.support.servers.ServerMissing``."""
    with ExitStack() as stack:
        store = stack.enter_context(RedisServer())
        if database == "postgres":
            url = stack.enter_context(stack.enter_context(PostgresServer()).database())
        else:
            url = f"sqlite://{stack.enter_context(tempfile.TemporaryDirectory())}/catalogue.sqlite3"
        yield Place(loop, database, store, DatabaseUrl(url, database))


async def memory_usage(client: "redis.Redis", key: bytes | str) -> int:
    """Returns the memory that Redis reports for a key and its value, in bytes."""
    return int(await client.memory_usage(key, samples=0) or 0)
