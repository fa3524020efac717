"""The lookups of this process while any browser watches: how long they take, and which keys they ask for."""

from collections import Counter
from time import monotonic
from typing import Final

from aiomodelcache.observe.events import Lookup, Observer, Operation

MAX_DURATIONS: Final = 5_000
"""Maximum number of lookups between two measurements whose durations are kept. Beyond it, further ones are not."""
MAX_COUNTED_KEYS: Final = 20_000
"""Maximum number of keys that are counted. Beyond it, those that are read least are forgotten."""
_SMOOTHING: Final = 0.3
"""Weight of the latest measurement in the rate of a key. Those before it count less and less."""
_NO_ANSWER: Final = ("scope", "error", "cancelled")
"""Outcomes of lookups that are not counted, because they sent nothing or ended without an answer."""


class LookupObserver(Observer):
    """Counts lookups by their key. While it observes, a hit takes up to twice the processor time."""

    def __init__(self) -> None:
        self._counts = Counter[bytes]()
        self._rates: dict[bytes, float] = {}
        self._durations: list[float] = []
        self._since = monotonic()

    def end(self, operation: Operation) -> None:
        """Counts a lookup that has its answer."""
        if not isinstance(operation, Lookup) or operation.background or operation.outcome in _NO_ANSWER:
            return
        if operation.keys and (operation.keys[0] in self._counts or len(self._counts) < MAX_COUNTED_KEYS):
            self._counts[operation.keys[0]] += 1
        if len(self._durations) < MAX_DURATIONS:
            self._durations.append(operation.duration or 0.0)

    def measure(self) -> float | None:
        """Ends an interval. Returns the milliseconds within which 99 % of its lookups had their answer, if any."""
        now = monotonic()
        elapsed, self._since = max(now - self._since, 0.001), now
        counts, self._counts = self._counts, Counter[bytes]()
        durations, self._durations = sorted(self._durations), []
        for key in {*self._rates, *counts}:
            before = self._rates.get(key, 0.0)
            self._rates[key] = before + _SMOOTHING * (counts[key] / elapsed - before)
        kept = sorted(self._rates.items(), key=lambda pair: -pair[1])[:MAX_COUNTED_KEYS]
        self._rates = {key: rate for key, rate in kept if rate > 0.005}
        return round(1000 * durations[int(0.99 * (len(durations) - 1))], 3) if durations else None

    def hottest(self, number: int) -> list[tuple[bytes, float]]:
        """Returns the keys that are looked up most, with their lookups per second, the hottest first."""
        return list(self._rates.items())[:number]
