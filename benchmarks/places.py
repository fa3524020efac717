"""Where a run takes place: private servers, a database with the catalogue, an event loop."""

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
"""For those whose every lookup needs one: with redis-py's own defaults, a thousand lookups at a time fail."""
MODELS: Final = "benchmarks.models"


@dataclass(frozen=True, slots=True)
class Place:
    """One combination of loop and database, with a Redis of its own."""

    loop: LoopName
    database: DatabaseName
    redis: RedisServer
    url: DatabaseUrl

    def __str__(self) -> str:
        return f"{self.loop} loop, {self.database}"

    @property
    def new_loop(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """Makes the event loop. Raises ``ImportError`` if there is no uvloop."""
        if self.loop == "default":
            return asyncio.new_event_loop
        import uvloop

        return uvloop.new_event_loop

    def redis_url(self, database: int) -> str:
        """One of the numbered databases of the Redis, so that contestants do not delete each other's keys."""
        return f"{self.redis.url.rpartition('/')[0]}/{database}"

    @asynccontextmanager
    async def catalogue(self, *, create: bool = True) -> AsyncIterator[None]:
        """Opens Tortoise; creates and fills the tables, unless another process did so."""
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
    """What Redis says that a key and its value take, in bytes."""
    return int(await client.memory_usage(key, samples=0) or 0)
