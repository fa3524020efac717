"""A stampede: a thousand tasks in each of four processes look up one uncached row at the same time.

``run_stampede`` starts this module once for each process. A process prints "ready", reads the primary key, and prints
its SQL statements and seconds.
"""

import asyncio
import json
import sys
import time
from typing import Final

from benchmarks.contestants.own import Own
from benchmarks.models import Product
from benchmarks.places import MODELS, Place
from tests.support.databases import DatabaseUrl, tortoise_on

PROCESSES: Final = 4
TASKS: Final = 1_000


async def run_stampede(place: Place, own: Own, times: int) -> dict[str, float]:
    """Runs several stampedes and returns the figures of the worst. Raises ``AssertionError`` for a wrong row."""
    servers = (place.redis.url, str(place.url), place.url.dialect)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, *servers, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]

    async def answers() -> list[bytes]:
        return [await process.stdout.readline() for process in processes if process.stdout is not None]

    statements: list[list[int]] = []
    seconds: list[float] = []
    try:
        await answers()
        for pk in range(1, times + 1):
            await own.forget([pk])
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"%d\n" % pk)
            figures = [json.loads(answer) for answer in await answers()]
            statements.append([figure["statements"] for figure in figures])
            seconds.append(max(figure["seconds"] for figure in figures))
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*[process.wait() for process in processes])
    return {
        "statements": max(map(sum, statements)),
        "statements of one process at most": max(map(max, statements)),
        "seconds": sorted(seconds)[len(seconds) // 2],
    }


async def take_part(redis_url: str, url: DatabaseUrl) -> None:
    """Runs one process of the stampede until its standard input ends."""
    from aiomodelcache import ModelCache

    async with tortoise_on(url, MODELS, create=False), ModelCache(redis_url, socket_timeout=10.0) as cache:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            pk, before, began = int(line), cache.stats.statements, time.perf_counter()
            found = await asyncio.gather(*[Product.cache.get(id=pk) for _ in range(TASKS)])
            assert {product.id for product in found} == {pk}
            statements = cache.stats.statements - before
            print(json.dumps({"statements": statements, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    asyncio.run(take_part(sys.argv[1], DatabaseUrl(*sys.argv[2:4])))
