"""Statistics of samples: medians, quartiles, ratios, percentiles."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """The median and the quartiles of samples."""

    median: float
    p25: float
    p75: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        """Computes the summary of samples. Raises ``statistics.StatisticsError`` if there are none."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        p25, median, p75 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, p25, p75)


def ratios(samples: Sequence[float], base: Sequence[float]) -> Summary:
    """Returns the summary of the ratios of two series, round by round.

    Two samples of one round were taken within about a second, so other load on the machine affects both. That is not
    true of two medians.
    """
    return Summary.of([sample / reference for sample, reference in zip(samples, base, strict=False)])


def percentile(sorted_samples: Sequence[float], share: float) -> float:
    """Returns the value below which this share of sorted samples lies."""
    return sorted_samples[min(len(sorted_samples) - 1, int(len(sorted_samples) * share))]
