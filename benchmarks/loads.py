"""Loads of many concurrent requests, 95 % reads and 5 % writes: requests per second, latencies, CPU."""

import asyncio
import gc
import random
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import data
from benchmarks.contestants import Contestant, Own
from benchmarks.results import PlaceResults
from benchmarks.samples import percentile

CONCURRENCIES: Final = (1, 10, 100, 1_000)
WRITES: Final = 0.05
NEEDS: Final = ("get", "get_by_slug", "save")


async def run_loads(
    contestants: Sequence[Contestant], concurrencies: Sequence[int], number: int, seconds: float, into: PlaceResults
) -> None:
    """Runs one round: measures all contestants that can read and write, at every concurrency."""
    taking_part = [contestant for contestant in contestants if all(map(contestant.can, NEEDS))]
    for concurrency in concurrencies:
        for contestant in random.Random(number).sample(taking_part, len(taking_part)):
            for first in range(1, data.PRODUCTS + 1, 100) if seconds else ():
                chunk = range(first, first + 100)
                await contestant.gather(chunk)
                await contestant.gather_by_slug(list(map(data.slug, chunk)))
            try:
                into.loads.append(await _load(contestant, concurrency, seconds, number))
            except* Exception as errors:  # a peer's time-out must not lose the figures of the others
                if isinstance(contestant, Own):
                    raise
                print(f"{contestant.name} failed at {concurrency}: {errors.exceptions[0]!r}", file=sys.stderr)


async def _load(contestant: Contestant, concurrency: int, seconds: float, number: int) -> dict[str, Any]:
    """Measures ``concurrency`` tasks, each sending one request after the other, for ``seconds``."""
    latencies: list[float] = []
    chance = random.Random(number)
    gc.collect()
    gc.freeze()  # as in ``run_rounds``: garbage of other contestants must not slow this one down
    began, worked = time.perf_counter(), time.process_time()
    ends = began + seconds

    async def user() -> None:
        while True:
            started = time.perf_counter()
            await _request(contestant, chance)
            finished = time.perf_counter()
            latencies.append(finished - started)
            if finished > ends:
                return

    try:
        async with asyncio.TaskGroup() as users:
            for _ in range(concurrency):
                users.create_task(user())
    finally:
        gc.unfreeze()
    elapsed, cpu = time.perf_counter() - began, time.process_time() - worked
    latencies.sort()
    return {
        "contestant": contestant.name,
        "concurrency": concurrency,
        "per second": len(latencies) / elapsed,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "cpu": cpu / len(latencies),
    }


async def _request(contestant: Contestant, chance: random.Random) -> None:
    """Sends one request: reads a product by its slug and then three others, or makes a write."""
    pk = chance.randrange(1, data.PRODUCTS + 1)
    if chance.random() < WRITES:
        await contestant.save(contestant.draft(pk))
        return
    product = await contestant.get_by_slug(data.slug(pk))
    assert contestant.columns(product)["id"] == pk
    await contestant.gather([(pk * factor) % data.PRODUCTS + 1 for factor in (3, 5, 7)])
