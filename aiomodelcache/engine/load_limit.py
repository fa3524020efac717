"""The number of statements that one database connection is given at once, by the time that statements take.

The algorithm is the gradient of Netflix's concurrency-limits (``Gradient2Limit``), which comes from the congestion
control of TCP. The limit falls with the ratio of the usual time to the present one, and rises by a part of its square
root. At first it rises faster, as in TCP's slow start. Unlike there, the usual time is kept for each kind of statement
and each value that it asks for. It rises only with statements that were alone on the connection. Otherwise a queue that
this process itself causes would soon count as usual. Pure: no clock, no I/O.
"""

from collections.abc import Hashable
from typing import Final

INITIAL_LIMIT: Final = 2
"""The number of statements at first."""
TOLERANCE: Final = 2.0
"""The multiple of its usual time that a statement may take before the limit falls."""
HARMLESS: Final = 0.02
"""Seconds below which the time of a statement never lowers the limit: it says more of the process than of the database.
"""
STEEPEST: Final = 0.5
"""The smallest ratio by which one statement counts, so that a single slow one does not stop the others."""
SMOOTHING: Final = 0.2
"""The share of the way to the new limit that one statement takes."""
START: Final = 0.5
"""The amount by which each statement raises the limit until one is slow for the first time."""
MAX_KINDS: Final = 1_000
"""Number of kinds of statements whose usual time is kept. Beyond it, that of the least recently sent is forgotten."""
FALL: Final = 0.5
"""The share by which the usual time follows a faster statement."""
RISE: Final = 1.1
"""The factor by which the usual time rises at most with a slower statement that was alone on the connection."""


class _Usual:
    """The usual seconds of one kind of statement: at least, and for each value that it asks for."""

    __slots__ = ("_at_least", "_by_value")

    def __init__(self, seconds: float, values: int) -> None:
        self._at_least = seconds
        self._by_value = seconds / values

    def seconds(self, values: int) -> float:
        return max(self._at_least, self._by_value * values)

    def learn(self, seconds: float, values: int, *, alone: bool) -> None:
        if alone and seconds > self.seconds(values):
            factor = min(RISE, seconds / self.seconds(values))
            self._at_least *= factor
            self._by_value *= factor
        self._at_least += min(0.0, seconds - self._at_least) * FALL
        self._by_value += min(0.0, seconds / values - self._by_value) * FALL


class LoadLimit:
    """The limit of one connection.

    >>> limit = LoadLimit(64)
    >>> for _ in range(200):
    ...     limit.sample("rows", 1, 0.1, in_flight=limit.value)
    >>> assert limit.value == 64
    >>> for _ in range(20):
    ...     limit.sample("rows", 1, 1.0, in_flight=limit.value)
    >>> assert limit.value < 16
    """

    __slots__ = ("_calm", "_estimate", "_maximum", "_starting", "_usual")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._estimate = float(min(INITIAL_LIMIT, maximum))
        self._starting = True
        """True until a statement has been slower than usual."""
        self._calm = True
        """True unless the last statement was slower than usual."""
        self._usual: dict[Hashable, _Usual] = {}

    @property
    def value(self) -> int:
        """The number of statements that may be in flight now, at least 1."""
        return int(self._estimate)

    def sample(self, kind: Hashable, values: int, seconds: float, in_flight: int) -> None:
        """Learns from a statement that has ended. ``in_flight``: the number of statements when it began, with it."""
        usual = self._usual.pop(kind, None) or _Usual(seconds, values)
        self._usual[kind] = usual
        if len(self._usual) > MAX_KINDS:
            del self._usual[next(iter(self._usual))]
        usual.learn(seconds, values, alone=in_flight == 1)
        ratio = 1.0 if seconds <= HARMLESS else min(1.0, TOLERANCE * usual.seconds(values) / seconds)
        self._calm = ratio == 1.0
        if in_flight * 2 < self._estimate:
            return  # the connection is not used to its limit, so the time says nothing of the limit
        self._starting &= self._calm
        if self._starting:
            self._estimate += START
        else:
            aim = self._estimate * max(STEEPEST, ratio) + self._estimate**0.5 / 2
            self._estimate += (aim - self._estimate) * SMOOTHING
        self._estimate = max(1.0, min(self._maximum, self._estimate))

    def probe(self) -> None:
        """Raises the limit by one, unless the last statement was slower than usual.

        Statements that take long by nature, and few of them, would otherwise hold up all others.
        """
        if self._calm:
            self._estimate = min(self._maximum, self._estimate + 1)
