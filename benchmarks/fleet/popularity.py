"""Zipf's law: the row of rank ``r`` is asked for ``1/r`` times as often as the first one.

Ranks that are almost equal are one class, so that millions of rows are a few hundred numbers.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

EULER = 0.57721566490153
CLASSES = 600
"""Number of classes of ranks, of equal width on a logarithmic scale. More classes change no printed digit."""


def harmonic(count: float) -> float:
    """Returns the sum of ``1/r`` for all ranks to ``count``, exactly for small counts."""
    if count < 1_000:
        return sum(1 / rank for rank in range(1, int(count) + 1))
    return math.log(count) + EULER + 1 / (2 * count)


@dataclass(frozen=True, slots=True)
class Class:
    """Neighbouring ranks: how many, and which share of all lookups one of them has."""

    count: int
    each: float

    @property
    def share(self) -> float:
        return self.count * self.each


@cache
def zipf(count: int, classes: int = CLASSES) -> tuple[Class, ...]:
    """Returns the classes of ``count`` keys, most popular first."""
    edges = sorted({*(round(count ** (step / classes)) for step in range(classes)), count + 1})
    whole = harmonic(count)
    return tuple(
        Class(end - start, (harmonic(end - 1) - harmonic(start - 1)) / whole / (end - start))
        for start, end in pairwise(edges)
    )


def shares(count: int) -> list[float]:
    """Returns the share of each of a few keys, exactly."""
    whole = harmonic(count)
    return [1 / rank / whole for rank in range(1, count + 1)]
