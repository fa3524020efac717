"""Measures what relays need: ``python -m benchmarks.relays``.

First, how long after its COMMIT another program's write is invalidated. Then, on PostgreSQL, the time of a drain that
finds no line while a long snapshot keeps many deleted lines from being vacuumed, with the watermark and without it.

On private servers, as the tests have them. The relay runs in a task of the process that waits, as in an application. A
write is invalidated when the key of its row is gone from the store, which is read all the time on a connection of its
own. Writes follow one another at random moments, so that a poll is due at any of them.
"""

import asyncio
import random
import statistics
import time
from typing import Any, Literal

from tortoise import fields

from aiomodelcache import CachedModel, ModelCache
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.relay import Relay
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.postgres_lines import PostgresLines
from aiomodelcache.relay.source import TriggerSource
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.triggers.installation import install
from tests.relay.outside import other_program
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import DatabaseServer, MariaDBServer, PostgresServer, RedisServer

Source = Literal["triggers", "pgoutput"]

WRITES = 400
"""Number of writes that are measured for each way of noticing them."""
PAUSE = 0.1
"""Maximum seconds between two writes."""
DEAD_LINES = 400_000
DRAINS = 40
"""Number of empty drains that are measured."""


class Price(CachedModel):
    """A row that another program writes."""

    id = fields.IntField(primary_key=True)
    amount = fields.IntField(default=0)

    class CacheMeta:
        relay = True


async def lateness(url: DatabaseUrl, redis_url: str, source: Source) -> list[float]:
    """Returns the milliseconds from the COMMIT of each write until its row is invalidated."""
    found: list[float] = []
    reader = RedisBackend(redis_url)
    await reader.open()
    async with (
        tortoise_on(url, __name__, create=False) as client,
        ModelCache(redis_url, namespace=f"{url.dialect} {source}", relay_source=source) as cache,
        other_program(url) as run,
    ):
        await client.execute_script("DROP TABLE IF EXISTS price")
        await client.execute_script("CREATE TABLE price (id INT PRIMARY KEY, amount INT NOT NULL)")
        tables = captured_tables(cache.open_cache)[client.connection_name]
        await install(client, tables, PUBLICATION if source == "pgoutput" else None)
        if url.dialect == "postgres":
            await run("SET synchronous_commit = on")  # only flushed changes are sent
        await run("INSERT INTO price (id, amount) VALUES (1, 0)")
        relay = Relay(cache)
        task = asyncio.create_task(relay.run())
        key = cache.open_cache.models[Price].rows.key(1)
        while not relay.statuses[0].claims:
            await asyncio.sleep(0.01)
        relays: Any = cache._views.relays
        await relays.ask()
        for _ in range(WRITES):
            await asyncio.sleep(random.random() * PAUSE)
            await Price.cache.get(id=1)
            await run("UPDATE price SET amount = amount + 1 WHERE id = 1")
            committed = time.perf_counter()
            while (await reader.read([key])) != [None]:
                pass
            found.append(1000 * (time.perf_counter() - committed))
        relay.stop()
        await task
    await reader.close()
    return found


async def empty_drains(url: DatabaseUrl) -> tuple[list[float], list[float]]:
    """Returns the milliseconds of drains that find no line among many dead ones: with the watermark, and without."""
    found: tuple[list[float], list[float]] = [], []
    async with (
        tortoise_on(url, __name__) as client,
        ModelCache("memory://") as cache,
        other_program(url) as snapshot,
        other_program(url) as run,
    ):
        tables = captured_tables(cache.open_cache)[client.connection_name]
        await install(client, tables)
        source = TriggerSource(client, tables)
        await source.check()
        await snapshot("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await snapshot("SELECT 1")
        await run(f"INSERT INTO aiomodelcache_changes (source) SELECT 'price' FROM generate_series(1, {DEAD_LINES})")
        while changes := await source.changes(20_000):
            await source.delete([change.id for change in changes])
        lines: Any = source._lines
        watermark = lines._watermark
        for _ in range(DRAINS):
            for times, start in zip(found, (watermark, 0), strict=True):
                lines._watermark, began = start, time.perf_counter()
                assert not await source.changes(1_000)
                times.append(1000 * (time.perf_counter() - began))
        await source.close()
    return found


def shown(name: str, found: list[float]) -> str:
    """Returns the percentiles of a measurement."""
    centiles = statistics.quantiles(found, n=100)
    return f"{name:24} p50 {centiles[49]:6.1f} ms   p99 {centiles[98]:6.1f} ms   max {max(found):6.1f} ms"


async def measure(server: DatabaseServer, name: str, redis_url: str, source: Source = "triggers") -> None:
    """Measures on one server, and prints the result."""
    dialect = "postgres" if isinstance(server, PostgresServer) else "mariadb"
    print(shown(name, await lateness(DatabaseUrl(server.url, dialect), redis_url, source)), flush=True)


def main() -> None:
    """Measures PostgreSQL by its WAL, with and without notifications, and MariaDB; then empty drains."""
    with RedisServer() as redis, PostgresServer() as postgres, MariaDBServer() as mariadb:
        asyncio.run(measure(postgres, "PostgreSQL, pgoutput", redis.url, "pgoutput"))
        asyncio.run(measure(postgres, "PostgreSQL, NOTIFY", redis.url))
        listener: Any = PostgresLines
        original = listener.__init__

        def polling(lines: Any, *arguments: Any) -> None:
            original(lines, *arguments)
            lines._listener._retry_at = float("inf")

        listener.__init__ = polling
        asyncio.run(measure(postgres, "PostgreSQL, polling", redis.url))
        asyncio.run(measure(mariadb, "MariaDB, polling", redis.url))
        with postgres.database() as url:
            with_watermark, without = asyncio.run(empty_drains(DatabaseUrl(url, "postgres")))
        print(shown("empty drain", with_watermark))
        print(shown("without the watermark", without))


if __name__ == "__main__":
    main()
