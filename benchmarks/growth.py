"""Growth of the cost of a hit with the width of rows and the number of entries."""

import time
import timeit
from collections.abc import Awaitable, Callable

from aiomodelcache.encoding.layout import pack_entry, unpack_entry
from aiomodelcache.encoding.rows import Column, RowCodec
from benchmarks.contestants import Own
from benchmarks.places import Place
from benchmarks.samples import ratios

ENTRIES = 200_000
_COLUMNS = (2, 10, 40)
_LENGTHS = (100, 1_000, 10_000)


async def measured_growth(place: Place, own: Own, rounds: int) -> dict[str, float]:
    """Returns the microseconds to decode rows of several widths, and the slowdown of a hit among many other keys.

    Decoding includes the check of the entry.
    """
    growth = {f"{count} columns, µs": _decoding([f"column_{at}" for at in range(count)], 30) for count in _COLUMNS}
    growth |= {f"text of {length} characters, µs": _decoding(["text"], length) for length in _LENGTHS}
    alone = [await _hit(own.get) for _ in range(rounds)]
    with place.redis.client() as client:
        client.execute_command("DEBUG", "POPULATE", ENTRIES, "other", 400)
        among = [await _hit(own.get) for _ in range(rounds)]
        for at in range(0, ENTRIES, 10_000):
            client.unlink(*[f"other:{number}" for number in range(at, at + 10_000)])
    growth[f"hit among {ENTRIES:,} others / hit"] = ratios(among, alone).median
    return growth


def _decoding(names: list[str], length: int) -> float:
    codec = RowCodec([Column(name, str) for name in names])
    entry = pack_entry(b"V", bytes(16), bytes(24), 0, codec.encode(dict.fromkeys(names, "x" * length)))
    return min(timeit.repeat(lambda: codec.decode(unpack_entry(entry)), number=300, repeat=100)) / 300 * 1e6


async def _hit(get: Callable[[int], Awaitable[object]]) -> float:
    await get(1)
    began = time.perf_counter()
    for _ in range(200):
        await get(1)
    return (time.perf_counter() - began) / 200
