"""``python -m benchmarks.tracking``: time of misses of cached functions, against the same functions untracked.

Each round measures every function in turn, tracked and not. A ratio is that of the minima of all rounds: the work of
both is always the same, and other load on the machine only adds to it. The time that a caller waits includes that of
the servers, CPU time is that of this process alone.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from aiomodelcache import InvalidationType, cached
from benchmarks import data
from benchmarks.contestants import Own
from benchmarks.models import Product
from benchmarks.places import DATABASES, Place, open_place

TWENTY: Final = data.page_of(1)


class MissSample(NamedTuple):
    """Seconds of one miss."""

    waited: float
    used: float
    """CPU time."""


async def page() -> list[str]:
    """Has 41 dependencies."""
    rows = await Product.cache.get_many(TWENTY)
    await Product.cache.prefetch(rows, "owner")
    return [row.owner.name for row in rows]


async def get_many() -> list[str]:
    return [row.title for row in await Product.cache.get_many(TWENTY)]


async def one_statement() -> list[str]:
    return [row.title for row in await Product.filter(owner_id=3).order_by("id").limit(20)]


async def one_lookup() -> list[str]:
    return [(await Product.cache.get(id=TWENTY[0])).title]


async def twenty_lookups() -> list[str]:
    return [(await Product.cache.get(id=number)).title for number in TWENTY]


async def twenty_gathered() -> list[str]:
    return [row.title for row in await asyncio.gather(*[Product.cache.get(id=number) for number in TWENTY])]


FUNCTIONS: Final[dict[str, Callable[[], Awaitable[list[str]]]]] = {
    each.__name__: each for each in (page, get_many, one_statement, one_lookup, twenty_lookups, twenty_gathered)
}


@cached
async def tracked(name: str) -> list[str]:
    return await FUNCTIONS[name]()


@cached(timeout=60, invalidation=InvalidationType.OFF)
async def untracked(name: str) -> list[str]:
    return await FUNCTIONS[name]()


async def measure(place: Place, rounds: int) -> dict[str, tuple[MissSample, MissSample]]:
    """Returns the shortest times of a miss of each function, tracked and not."""
    async with place.catalogue():
        own = Own()
        await own.open(place)
        found: dict[tuple[str, Any], list[MissSample]] = {}
        for number in range(rounds + 1):  # the first one warms up
            gc.collect()
            gc.freeze()
            for name in FUNCTIONS:
                for function in (tracked, untracked) if number % 2 else (untracked, tracked):
                    samples = [await _sample(own, function, name) for _ in range(10)]
                    found.setdefault((name, function), []).extend(samples if number else [])
        await own.close()
    gc.unfreeze()
    return {name: (_shortest(found[name, tracked]), _shortest(found[name, untracked])) for name in FUNCTIONS}


def _shortest(samples: list[MissSample]) -> MissSample:
    return MissSample(*map(min, zip(*samples, strict=True)))


async def _sample(own: Own, function: Any, name: str) -> MissSample:
    await own.cache.open_cache.guarded.backend.delete([function.key(name).encode()])
    await asyncio.sleep(0)
    waited, used = time.perf_counter(), time.process_time()
    await function(name)
    return MissSample(time.perf_counter() - waited, time.process_time() - used)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    options = parser.parse_args()
    with open_place("default", options.database) as place:
        print("µs of a miss, tracked and not; their ratio; the same in CPU time")
        for name, pair in asyncio.run(measure(place, options.rounds)).items():
            columns = [f"{a * 1e6:7.0f} {b * 1e6:7.0f} {a / b:5.2f}" for a, b in zip(*pair, strict=True)]
            print(f"{name:16}", *columns)


if __name__ == "__main__":
    main()
