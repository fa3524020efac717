"""A thousand tasks in each of four processes ask for one row that is not cached, at the same time.

``run_stampede`` starts this module once for each process. A process says "ready", is told the primary key, and
answers with its SQL statements and seconds.
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
    """The worst of several stampedes. Raises ``AssertionError`` if a task got another row."""
    where = (place.redis.url, str(place.url), place.url.dialect)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, *where, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
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
            told = [json.loads(answer) for answer in await answers()]
            statements.append([each["statements"] for each in told])
            seconds.append(max(each["seconds"] for each in told))
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


async def take_part(place_of_redis: str, url: DatabaseUrl) -> None:
    """One process."""
    from aiomodelcache import ModelCache

    async with tortoise_on(url, MODELS, create=False), ModelCache(place_of_redis, socket_timeout=10.0) as cache:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            pk, before, began = int(line), cache.stats.statements, time.perf_counter()
            found = await asyncio.gather(*[Product.cache.get(id=pk) for _ in range(TASKS)])
            assert {product.id for product in found} == {pk}
            statements = cache.stats.statements - before
            print(json.dumps({"statements": statements, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    asyncio.run(take_part(sys.argv[1], DatabaseUrl(*sys.argv[2:4])))
