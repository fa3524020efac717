"""The share of lookups that a process answers from its near cache, an LRU (by Che's approximation)."""

import math

from benchmarks.fleet.costs import NEAR_ENTRY, Fleet
from benchmarks.fleet.popularity import zipf


def characteristic_time(fleet: Fleet, room: float, rate: float) -> float:
    """Returns the seconds after which a near cache with ``room`` entries evicts what was not asked for again."""
    low, high = 1e-3, 1e7
    for _ in range(60):
        middle = math.sqrt(low * high)
        held = sum(each.count * -math.expm1(-rate * each.each * middle) for each in zipf(fleet.entries))
        low, high = (low, middle) if held > room else (middle, high)
    return middle


def near_share(fleet: Fleet, megabytes: float, lifetime: float) -> float:
    """Returns the share of a process's lookups that its near cache answers.

    An entry ends after ``lifetime`` seconds, or when the cache is full. Lookups of a row come at random moments.
    """
    rate = fleet.lookups / fleet.processes
    kept = min(lifetime, characteristic_time(fleet, megabytes * 2**20 / NEAR_ENTRY, rate))
    return sum(each.share * rate * each.each * kept / (1 + rate * each.each * kept) for each in zipf(fleet.entries))
