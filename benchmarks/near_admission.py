"""``python -m benchmarks.near_admission``: hit ratios of ``Near``, and of evicting the least recently used key.

Traces of keys, drawn at random with the same seed in every run. All entries have one size, and a tenth, or a fiftieth,
of all keys fits. No servers: each key that is not kept is read, and kept if ``Near`` decides so.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from aiomodelcache.backends.near import OVERHEAD, Near

KEYS: Final = 20_000
LOOKUPS: Final = 400_000
VALUE: Final = b"V" + bytes(299)


def zipf(chance: random.Random, skew: float = 0.9) -> Iterator[int]:
    """Draws keys by Zipf's law for ever."""
    weights = list(accumulate(1 / rank**skew for rank in range(1, KEYS + 1)))
    while True:
        yield from chance.choices(range(KEYS), cum_weights=weights, k=10_000)


def scans(chance: random.Random) -> Iterator[int]:
    """Draws keys by Zipf's law, and in between scans runs of keys that are read once: half of all lookups."""
    keys, scanned = zipf(chance), KEYS
    while True:
        yield from (next(keys) for _ in range(2_000))
        yield from range(scanned, scanned + 2_000)
        scanned += 2_000


def shifting(chance: random.Random) -> Iterator[int]:
    """Draws keys by Zipf's law, and others become popular after each quarter of the trace."""
    for number, key in enumerate(zipf(chance)):
        yield (key + number // (LOOKUPS // 4) * KEYS // 5) % KEYS


TRACES: Final[dict[str, Callable[[random.Random], Iterator[int]]]] = {
    "Zipf": zipf,
    "Zipf, half of all lookups are scans": scans,
    "Zipf, other keys each quarter": shifting,
}


def ratios(trace: Callable[[random.Random], Iterator[int]], room: int) -> tuple[float, float]:
    """Returns the shares of hits of the least recently used order, and of ``Near``."""
    near = Near(room * (len(_key(0)) + len(VALUE) + OVERHEAD), 1e9)
    near.cover(b"amc:", 1e9, 1e9)
    near.begin(0.0, lambda: None)
    recent: OrderedDict[bytes, None] = OrderedDict()
    keys, by_recency, by_near = trace(random.Random(1)), 0, 0
    for _ in range(LOOKUPS):
        key = _key(next(keys))
        if key in recent:
            by_recency += 1
            recent.move_to_end(key)
        else:
            recent[key] = None
            if len(recent) > room:
                recent.popitem(last=False)
        if near.find([key]) is not None:
            by_near += 1
        else:
            near.keep(near.expect([key]), {key: VALUE})
    return by_recency / LOOKUPS, by_near / LOOKUPS


def _key(number: int) -> bytes:
    return b"amc:r:default:product:i%09d" % number


def main() -> None:
    for part in (50, 10):
        for name, trace in TRACES.items():
            by_recency, by_near = ratios(trace, KEYS // part)
            print(f"1/{part} fits; {name:36} least recently used {by_recency:5.1%}, near {by_near:5.1%}")


if __name__ == "__main__":
    main()
