"""``python -m benchmarks.memory``: bytes of cached rows, in Redis and in the process."""

import argparse
import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import redis.asyncio as redis

from aiomodelcache import ModelCache, local_cache
from benchmarks import data
from benchmarks.contestants import ALL, PEERS_ON_REDIS, Contestant, Own, TortoiseAlone
from benchmarks.models import PlainProduct, Product
from benchmarks.places import DATABASES, Place, memory_usage, open_place
from benchmarks.tables import aligned, memory_rows
from tests.support.servers import ServerMissing

ROWS: Final = range(1, 501)
"""Primary keys of the rows that are cached: those of ten lists of 50."""
OWNERS: Final = range(1, 11)
WARM: Final = data.PRODUCTS
"""Primary key of another row, whose lookup creates what all rows share."""

LOCAL: Final = "local_cache()"
HOLDERS: Final[dict[str, dict[str, Any]]] = {
    "kept decoded": {},
    "near": {"near": True, "near_lag": 3_600.0, "decoded_memory_limit": 0},
    LOCAL: {"decoded_memory_limit": 0},
}
"""Each way to keep rows in the process, and the settings of a cache that does only this."""

Memory = dict[str, dict[str, float]]
"""Place of memory -> contestant -> bytes for each row."""


async def measured_memory(place: Place) -> Memory:
    """Returns the bytes that each row takes. The tables of the catalogue must be filled."""
    async with place.catalogue(create=False):
        kinds = [Own, *PEERS_ON_REDIS]
        in_redis = {kind.name: await _in_redis(place, kind()) for kind in kinds}
        names = next(iter(in_redis.values()))
        memory = {f"Redis: {name}": {who: sizes[name] for who, sizes in in_redis.items()} for name in names}
        return memory | await _in_process(place)


async def _in_redis(place: Place, contestant: Contestant) -> dict[str, float]:
    """Returns the bytes of the keys that lookups add, for each row."""
    place.redis.flush()
    await contestant.open(place)
    await contestant.get(WARM)
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "a row by pk": lambda: _each(contestant.get, ROWS),
        "and by slug": lambda: _each(contestant.get_by_slug, map(data.slug, ROWS)),
        "and in a list of 50": lambda: _each(contestant.products_of, OWNERS),
    }
    sizes: dict[str, float] = {}
    total = before = await _used(place)
    for name, step in steps.items():
        await step()
        used = await _used(place)
        sizes[name], total = (used - total) / len(ROWS), used
    sizes["together"] = (total - before) / len(ROWS)
    await contestant.close()
    return sizes


async def _each(look_up: Callable[[Any], Awaitable[Any]], keys: Any) -> None:
    for key in keys:
        await look_up(key)


async def _used(place: Place) -> int:
    """Returns the memory of all keys, in all databases of the Redis, in bytes."""
    used = 0
    for number in range(5):
        async with redis.Redis.from_url(place.redis_url(number)) as client:
            used += sum([await memory_usage(client, key) async for key in client.scan_iter(count=1_000)])
    return used


async def _in_process(place: Place) -> Memory:
    """Returns the bytes that the process holds for each row."""
    instances: list[Any] = []

    async def load() -> None:
        instances.extend(await PlainProduct.filter(id__in=list(ROWS)))

    held = {"an instance that a caller holds": {TortoiseAlone.name: await _growth(load)}}
    place.redis.flush()
    async with ModelCache(place.redis.url, socket_timeout=10.0):
        await _each(_product, range(1, data.PRODUCTS + 1))
    for name, settings in HOLDERS.items():
        async with ModelCache(place.redis.url, socket_timeout=10.0, **settings), AsyncExitStack() as stack:
            await _each(_product, range(ROWS.stop, data.PRODUCTS + 1))  # other rows
            if name == LOCAL:
                await stack.enter_async_context(local_cache())
            held[name] = {Own.name: await _growth(lambda: _each(_product, [*ROWS, *ROWS]))}
    for kind in ALL:
        if kind.name.startswith("cashews") and kind not in PEERS_ON_REDIS:
            peer = kind()
            await peer.open(place)
            await peer.get(WARM)
            held.setdefault("an entry", {})[kind.name] = await _growth(lambda peer=peer: _each(peer.get, ROWS))
            await peer.close()
    return {f"process: {name}": sizes for name, sizes in held.items()}


async def _product(pk: int) -> Any:
    return await Product.cache.get(id=pk)


async def _growth(work: Callable[[], Awaitable[Any]]) -> float:
    """Returns the bytes that the process has allocated in ``work`` and still holds, for each row."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        await work()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / len(ROWS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    options = parser.parse_args(arguments)

    async def measure(place: Place) -> Memory:
        async with place.catalogue():
            pass
        return await measured_memory(place)

    try:
        with open_place("default", options.database) as place:
            print("\n".join(aligned(memory_rows(asyncio.run(measure(place))))))
    except ServerMissing as error:
        sys.exit(f"skipped: {error}")


if __name__ == "__main__":
    main()
