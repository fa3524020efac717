"""``python -m soak.outage``: stops PostgreSQL for a minute under load, and counts the requests that fail.

Each request asks for a value that there was before: a cached function, a count, a whole response by ASGI, a row. Right
before the outage a write makes most of them stale, and many expire in the middle of it. With ``stale_if_error`` none of
them may fail. ``--without`` is the control: the same requests, without it.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache, cached
from aiomodelcache.contrib.http import cached_response
from soak.derived import row_by_lookup, row_by_statement, team_by_lookup, team_by_statement
from soak.model import Item
from soak.responses import Client
from tests.support.servers import PostgresServer, RedisServer

ROWS: Final = 40
TEAMS: Final = 4
TIMEOUT: Final = 5.0
"""Seconds for which half of the values live."""
ALLOWED: Final = "10m"
"""The age that an old value may have, beyond its timeout."""

Read = Callable[[int], Awaitable[Any]]


@dataclass
class RequestCounts:
    """Requests of a run, by moment."""

    requests: Counter[str] = field(default_factory=Counter[str])
    failed: Counter[str] = field(default_factory=Counter[str])
    example: str = ""
    latencies: list[float] = field(default_factory=list[float])
    """Seconds of each request during the outage."""
    stale: int = 0
    """Answers by last good values."""
    recovery: float = 0.0
    """Seconds from the start of the server until every value was the database's."""

    def __str__(self) -> str:
        latencies = sorted(self.latencies)
        median, late = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
        counts = ", ".join(
            f"{moment} the outage {number:,} requests, {self.failed[moment]:,} failed"
            for moment, number in self.requests.items()
        )
        return (
            f"{counts}{f', e.g. {self.example}' if self.example else ''}\n"
            f"{self.stale:,} answers were last good values; requests during the outage took "
            f"{1000 * median:.1f} ms (median), {1000 * late:.1f} ms (99 %), {1000 * latencies[-1]:.0f} ms (most)\n"
            f"every value was current {self.recovery:.1f} s after the server had started"
        )


def requests_of(stale_if_error: str | None, chance: random.Random) -> dict[str, Read]:
    """Returns the requests by name, each for a row or a team."""

    def cache(function: Any, timeout: float | None) -> Any:
        async def compute(number: int) -> Any:
            return await function(number)

        compute.__qualname__ = f"{function.__name__}.{timeout}.{stale_if_error}"
        return cached(timeout=timeout, stale_if_error=stale_if_error)(compute)

    functions = [row_by_lookup, row_by_statement, team_by_lookup, team_by_statement]
    found = {f"{each.__name__}, {life}": cache(each, life) for each in functions for life in (None, TIMEOUT)}
    row, team = found[f"row_by_statement, {TIMEOUT}"], found["team_by_lookup, None"]

    async def both(pk: int) -> Any:
        return [await row(pk), await team(pk % TEAMS)]

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(await row_by_statement(request.path_params["pk"]))

    async def show_nested(request: Request) -> JSONResponse:
        return JSONResponse(await row(request.path_params["pk"]))

    decorate = cached_response(stale_if_error=stale_if_error, timeout=TIMEOUT)
    routes = [Route("/show/{pk:int}", decorate(show)), Route("/nested/{pk:int}", decorate(show_nested))]
    client = Client(Starlette(routes=routes), chance)
    found |= {
        "both": cache(both, None),
        "response": lambda pk: client.get(f"/show/{pk}"),
        "response, nested": lambda pk: client.get(f"/nested/{pk}"),
    }
    return found


def key_of(name: str, pk: int) -> int:
    """Returns the argument of a request for a row."""
    return pk % TEAMS if name.startswith("team") else pk


async def outage(
    database: PostgresServer,
    redis_url: str,
    *,
    seconds: float,
    readers: int = 20,
    stale_if_error: str | None = ALLOWED,
    seed: int = 1,
) -> RequestCounts:
    """Runs the load before, during and after an outage of some seconds."""
    outcome, chance = RequestCounts(), random.Random(seed)
    async with TortoiseContext() as context:
        await context.init(db_url=database.url, modules={"app": ["soak.model"]})
        await context.generate_schemas()
        async with ModelCache(redis_url) as cache:
            await Item.bulk_create([Item(id=pk, slug=f"s{pk}", team=pk % TEAMS, nonce=1) for pk in range(ROWS)])
            reads = requests_of(stale_if_error, chance)
            for name, read in reads.items():
                for pk in range(ROWS):
                    await read(key_of(name, pk))
            over = asyncio.Event()
            moment = ["before"]
            async with asyncio.TaskGroup() as tasks:
                for number in range(readers):
                    tasks.create_task(_read(reads, random.Random(f"{seed}/{number}"), moment, over, outcome))
                await asyncio.sleep(min(seconds, 2))
                for row in await Item.all():
                    if row.id % 4:
                        row.nonce = 2
                        await row.save()
                moment[0] = "during"
                await asyncio.to_thread(database.stop)
                await asyncio.sleep(seconds)
                moment[0] = "after"
                await asyncio.to_thread(database.restart)
                began = time.monotonic()
                await _recover(reads)
                outcome.recovery = time.monotonic() - began
                await asyncio.sleep(min(seconds, 2))
                over.set()
            outcome.stale = sum(counters.stale_if_error for counters in cache.stats.by_cache.values())
    return outcome


async def _read(
    reads: dict[str, Read], chance: random.Random, moment: list[str], over: asyncio.Event, outcome: RequestCounts
) -> None:
    names = list(reads)
    while not over.is_set():
        name, pk, when, began = chance.choice(names), chance.randrange(ROWS), moment[0], time.perf_counter()
        try:
            await reads[name](key_of(name, pk))
        except Exception as error:
            outcome.failed[when] += 1
            outcome.example = outcome.example or f"{name}: {error!r}"[:200]
        outcome.requests[when] += 1
        if when == "during":
            outcome.latencies.append(time.perf_counter() - began)
        await asyncio.sleep(chance.expovariate(1 / 0.05))


async def _recover(reads: dict[str, Read]) -> None:
    """Waits until each value is the database's. Raises ``TimeoutError`` after a minute."""
    async with asyncio.timeout(60):
        for name, read in reads.items():
            for pk in range(1, ROWS, 4):
                while "2" not in repr(await _or_none(read(key_of(name, pk)))):
                    await asyncio.sleep(0.05)


async def _or_none(value: Awaitable[Any]) -> Any:
    try:
        return await value
    except Exception:
        return None


def main() -> int:
    """Runs an outage. Returns 1 if a request failed, or if none failed without ``stale_if_error``."""
    parser = argparse.ArgumentParser(prog="soak.outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for which the database is stopped")
    parser.add_argument("--readers", type=int, default=20, help="tasks that send requests")
    parser.add_argument("--without", action="store_true", help="the control: without stale_if_error")
    options = parser.parse_args()
    allowed = None if options.without else ALLOWED
    with PostgresServer() as database, RedisServer() as redis:
        run = outage(database, redis.url, seconds=options.seconds, readers=options.readers, stale_if_error=allowed)
        outcome = asyncio.run(run)
    print(outcome)
    return int((outcome.failed.total() > 0) is not options.without)


if __name__ == "__main__":
    sys.exit(main())
