"""Samples of one thing measured many times, and what can be said of them."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """The middle of some samples, and between which values half of them lie."""

    median: float
    p25: float
    p75: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        """Raises ``statistics.StatisticsError`` if there are none."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        p25, median, p75 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, p25, p75)


def ratios(samples: Sequence[float], base: Sequence[float]) -> Summary:
    """How much larger the samples are, each compared with that of the same round.

    Two samples of one round were taken within a second or so of each other, so that what else the machine did
    weighs on both. The same is not true of two medians.
    """
    return Summary.of([one / other for one, other in zip(samples, base, strict=False)])


def percentile(sorted_samples: Sequence[float], share: float) -> float:
    """The value below which this share of sorted samples lies."""
    return sorted_samples[min(len(sorted_samples) - 1, int(len(sorted_samples) * share))]
