"""``python -m soak.tags``: a million reads of tagged values beside invalidations by tag, of which none may be stale.

Several processes read numbers that nothing else can notice to change: counters in another database of Redis. For each
number one process counts on, invalidates the number's tag or that of a group, and then makes the count known to all, in
shared memory. A read that begins afterwards must not return less. ``--early`` is the control: it invalidates first.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from tortoise.context import TortoiseContext

from aiomodelcache import InvalidationType, ModelCache, ValueCache, cached
from tests.support.servers import RedisServer

NUMBERS: Final = 200
GROUPS: Final = 10
BATCH: Final = 200
"""Number of reads that a reader makes at once."""
WRITE_PAUSE: Final = 0.02
"""Expected seconds between two writes of a process."""
PATIENCE: Final = 60.0
"""Seconds to wait for Redis, so that a busy machine is no fault. An invalidation that is sent later would be stale."""
PATIENT: Final[dict[str, Any]] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
_source: Any = None


def tags_of(number: int) -> list[str]:
    return [f"number:{number}", f"group:{number % GROUPS}"]


@cached(tags=(tags_of,), invalidation=InvalidationType.OFF)
async def by_function(number: int) -> int:
    return int(await _source.get(f"number:{number}"))


class ByClass(ValueCache[int]):
    tags = (tags_of,)
    invalidation = InvalidationType.OFF

    async def get_value(self, number: int) -> int:
        return int(await _source.get(f"number:{number}"))


@dataclass(frozen=True)
class TagsOrder:
    """Task of one process. It writes the numbers whose remainder is its own."""

    process: int
    processes: int
    reads: int
    url: str
    known: str
    """The name of the shared memory with the counts that are known to all."""
    early: bool
    seed: int
    readers: int = 4


@dataclass
class Result:
    """Counts of one process."""

    reads: int = 0
    stale: int = 0
    hits: int = 0
    writes: int = 0


class Known:
    """The counts that are known to all, one for each number."""

    def __init__(self, name: str | None = None) -> None:
        self._memory = SharedMemory(name, create=name is None, size=NUMBERS * 8)
        self.name = self._memory.name
        self._counts = cast("Any", self._memory.buf).cast("q")

    def __getitem__(self, number: int) -> int:
        count: int = self._counts[number]
        return count

    def __setitem__(self, number: int, count: int) -> None:
        self._counts[number] = count

    def close(self, *, remove: bool) -> None:
        """Gives the memory back."""
        self._counts.release()
        self._memory.close()
        if remove:
            self._memory.unlink()


async def work(order: TagsOrder, known: Known) -> Result:
    """Reads and writes until the process has made its reads."""
    global _source
    result, chance = Result(), random.Random(f"{order.seed}/{order.process}")
    pool: Any = BlockingConnectionPool.from_url(f"{order.url}/1", max_connections=8, timeout=None, **PATIENT)
    async with TortoiseContext() as context, Redis.from_pool(pool) as _source:
        await context.init(db_url="sqlite://:memory:", modules={"app": ["soak.model"]})
        async with ModelCache(f"{order.url}/0", socket_timeout=PATIENCE, on_write_error="raise") as cache:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_write(order, known, cache, result, chance))
                for _ in range(order.readers):
                    tasks.create_task(_read(order, known, result, random.Random(chance.random())))
            result.hits = sum(counters.hits for counters in cache.stats.by_cache.values())
    return result


async def _read(order: TagsOrder, known: Known, result: Result, chance: random.Random) -> None:
    while result.reads < order.reads:
        numbers = [chance.randrange(NUMBERS) for _ in range(BATCH)]
        least = [known[number] for number in numbers]
        ways: list[Any] = [by_function, ByClass]
        found = await asyncio.gather(*[_asked(chance.choice(ways)(number)) for number in numbers])
        result.reads += len(found)
        result.stale += sum(value < floor for value, floor in zip(found, least, strict=True))


async def _asked(query: Any) -> int:
    value: int = await query
    return value


async def _write(order: TagsOrder, known: Known, cache: ModelCache, result: Result, chance: random.Random) -> None:
    own = range(order.process, NUMBERS, order.processes)
    while result.reads < order.reads:  # a client of Redis may swallow a cancellation
        await asyncio.sleep(chance.expovariate(1 / WRITE_PAUSE))
        number = chance.choice(own)
        written, tag = [number], f"number:{number}"
        if chance.random() < 0.1:
            written = [each for each in own if each % GROUPS == number % GROUPS]
            tag = f"group:{number % GROUPS}"
        if order.early:
            await cache.invalidate_tags(tag)
            await _read_again(order, result)
        counts = [await _source.incr(f"number:{each}") for each in written]
        if not order.early:
            await cache.invalidate_tags(tag)
        for each, count in zip(written, counts, strict=True):
            known[each] = count
        result.writes += len(written)


async def _read_again(order: TagsOrder, result: Result) -> None:
    """Waits until batches that began after the call have been read, so that the control's fault is not left to luck."""
    enough = min(result.reads + 2 * order.readers * BATCH, order.reads)
    while result.reads < enough:
        await asyncio.sleep(0.001)


def _process(order: TagsOrder) -> Result:
    known = Known(order.known)
    try:
        return asyncio.run(work(order, known))
    finally:
        known.close(remove=False)


def run(url: str, *, reads: int, processes: int, early: bool = False, seed: int = 1) -> Result:
    """Runs the processes, and returns their counts together. ``url``: an empty Redis, without a database."""
    asyncio.run(_set_up(url))
    known, spawn = Known(), multiprocessing.get_context("spawn")
    orders = [
        TagsOrder(number, processes, reads // processes, url, known.name, early, seed) for number in range(processes)
    ]
    try:
        with ProcessPoolExecutor(processes, spawn) as executor:
            return _together([*executor.map(_process, orders)])
    finally:
        known.close(remove=True)


async def _set_up(url: str) -> None:
    async with Redis.from_url(f"{url}/1", **PATIENT) as source:
        await source.mset({f"number:{number}": 0 for number in range(NUMBERS)})


def _together(results: Sequence[Result]) -> Result:
    return Result(*[sum(getattr(each, name) for each in results) for name in ("reads", "stale", "hits", "writes")])


def main() -> int:
    """Runs the soak. Returns 1 if a read was stale, or if none was with ``--early``."""
    parser = argparse.ArgumentParser(prog="soak.tags", description=__doc__)
    parser.add_argument("--reads", type=int, default=1_000_000, help="number of reads of all processes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--early", action="store_true", help="the control: invalidate before the write")
    options = parser.parse_args()
    with RedisServer() as redis:
        url, began = redis.url.rpartition("/")[0], time.monotonic()
        result = run(url, reads=options.reads, processes=options.processes, early=options.early, seed=options.seed)
    print(
        f"{result.reads:,} reads, of which {result.hits:,} were hits, beside {result.writes:,} writes in "
        f"{time.monotonic() - began:.0f} s: {result.stale:,} stale"
    )
    return int((result.stale > 0) is not options.early)


if __name__ == "__main__":
    sys.exit(main())
