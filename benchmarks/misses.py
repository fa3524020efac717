"""``python -m benchmarks.misses``: CPU time of misses, against the same rows by Tortoise alone.

Each round measures every case and its bare query in turn. A ratio is the median of the ratios of all rounds, so that
other load on the machine affects both.
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from benchmarks import data
from benchmarks.cases import HUNDRED, SLUGS
from benchmarks.contestants import Own
from benchmarks.models import PlainProduct, Product
from benchmarks.places import DATABASES, Place, open_place


class Miss(NamedTuple):
    """A lookup that misses, and the query of Tortoise that finds the same rows."""

    name: str
    miss: Callable[[], Awaitable[Any]]
    bare: Callable[[], Awaitable[Any]]
    repeats: int


MISSES = [
    Miss(
        "100 by slug, get_many",
        lambda: Product.cache.get_many(SLUGS, "slug").resolve(),
        lambda: PlainProduct.filter(slug__in=SLUGS),
        2,
    ),
    Miss(
        "100 by slug, gathered",
        lambda: asyncio.gather(*[Product.cache.get(slug=slug) for slug in SLUGS]),
        lambda: PlainProduct.filter(slug__in=SLUGS),
        2,
    ),
    Miss(
        "100 by primary key, get_many",
        lambda: Product.cache.get_many(HUNDRED).resolve(),
        lambda: PlainProduct.filter(id__in=HUNDRED),
        2,
    ),
    Miss(
        "a list of 50",
        lambda: Product.cache.filter(owner=3).resolve(),
        lambda: PlainProduct.filter(owner_id=3).order_by("id"),
        4,
    ),
    Miss(
        "one by primary key",
        lambda: Product.cache.get(id=HUNDRED[0]).resolve(),
        lambda: PlainProduct.get(id=HUNDRED[0]),
        12,
    ),
    Miss(
        "one by slug",
        lambda: Product.cache.get(slug=SLUGS[0]).resolve(),
        lambda: PlainProduct.get(slug=SLUGS[0]),
        12,
    ),
]


async def measure(place: Place, rounds: int) -> dict[str, tuple[float, float]]:
    """Returns the ratios of CPU time and of time for each case."""
    async with place.catalogue():
        own = Own()
        await own.open(place)
        ratios: dict[str, list[tuple[float, float]]] = {each.name: [] for each in MISSES}
        for number in range(rounds + 1):  # the first one warms up
            gc.collect()
            gc.freeze()
            for each in MISSES:
                order = [each.miss, each.bare] if number % 2 else [each.bare, each.miss]
                found = {run: await _sample(own, run, each.repeats) for run in order}
                pair = zip(found[each.miss], found[each.bare], strict=True)
                ratios[each.name] += [tuple(miss / bare for miss, bare in pair)] if number else []  # type: ignore[list-item]
        await own.close()
    gc.unfreeze()
    return {
        name: (statistics.median(cpu for cpu, _ in pairs), statistics.median(wall for _, wall in pairs))
        for name, pairs in ratios.items()
    }


async def _sample(own: Own, run: Callable[[], Awaitable[Any]], repeats: int) -> tuple[float, float]:
    """Returns seconds of CPU time, and seconds."""
    worked = elapsed = 0.0
    for _ in range(repeats):
        await own.forget([*HUNDRED, *data.products_of(3)])
        await asyncio.sleep(0)
        began, before = time.perf_counter(), time.process_time()
        await run()
        worked += time.process_time() - before
        elapsed += time.perf_counter() - began
    return worked, elapsed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.misses", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    options = parser.parse_args()
    with open_place("default", options.database) as place:
        for name, (cpu, wall) in asyncio.run(measure(place, options.rounds)).items():
            print(f"{name:30} CPU time {cpu:5.2f}, time {wall:5.2f} of the bare query's")


if __name__ == "__main__":
    main()
