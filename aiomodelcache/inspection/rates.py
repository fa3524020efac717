"""Rates of the counters that processes publish, and the keys that are read most, by samples.

Pure: knows counters and samples, not where they come from.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiomodelcache.observe.fleet import Worker
from aiomodelcache.observe.stats import Counters

WINDOW: Final = 5.0
"""Seconds over which rates are measured. Longer than the time between two publications of a process."""
MAX_CANDIDATES: Final = 200
"""Maximum number of keys that are sampled again and again. Beyond it, the coldest ones are dropped."""


@dataclass(slots=True)
class ClassRates:
    """The counts of one cache class in the window, of all processes."""

    hits: int = 0
    misses: int = 0
    seconds: float = 0.0
    """The time that its misses took, in the database or in a computation."""

    @property
    def lookups(self) -> int:
        """The number of lookups."""
        return self.hits + self.misses

    def add(self, now: Counters, before: Counters) -> None:
        """Adds what a process has counted since an earlier moment."""
        self.hits += max(0, now.hits - before.hits)
        self.misses += max(0, now.misses - before.misses)
        self.seconds += max(0.0, now.seconds - before.seconds)


@dataclass(slots=True)
class Rates:
    """The counts of all processes in the window."""

    seconds: float
    """The length of the window. Zero before the second sample."""
    workers: int
    by_cache: dict[str, ClassRates] = field(default_factory=dict[str, ClassRates])
    statements: int = 0
    round_trips: int = 0
    errors: int = 0

    def per_second(self, number: float) -> float:
        """Returns a number of the window by second."""
        return number / self.seconds if self.seconds else 0.0

    def data(self) -> dict[str, Any]:
        """Returns the rates for JSON. ``hit_ratio`` is None without any lookup."""
        hits = sum(each.hits for each in self.by_cache.values())
        lookups = sum(each.lookups for each in self.by_cache.values())
        misses, seconds = lookups - hits, sum(each.seconds for each in self.by_cache.values())
        busy = [(name, each) for name, each in self.by_cache.items() if each.lookups]
        busy.sort(key=lambda pair: (-pair[1].seconds, -pair[1].lookups, pair[0]))
        return {
            "workers": self.workers,
            "window": round(self.seconds, 3),
            "lookups": round(self.per_second(lookups), 1),
            "hit_ratio": round(hits / lookups, 4) if lookups else None,
            "miss_ms": round(1000 * seconds / misses, 3) if misses else None,
            "statements": round(self.per_second(self.statements), 1),
            "round_trips": round(self.per_second(self.round_trips), 1),
            "backend_errors": self.errors,
            "classes": [
                {
                    "cache": name,
                    "lookups": round(self.per_second(each.lookups), 1),
                    "hit_ratio": round(each.hits / each.lookups, 4),
                    "busy": round(self.per_second(each.seconds), 5),
                    "miss_ms": round(1000 * each.seconds / each.misses, 3) if each.misses else None,
                }
                for name, each in busy
            ],
        }


class RateWindow:
    """The counters of the last ``WINDOW`` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, Worker]]] = deque()

    def add(self, now: float, workers: Sequence[Worker]) -> Rates:
        """Adds the counters of all processes at one moment, and returns the rates up to it.

        A process that was not there at the beginning of the window counts from its first sample on.
        """
        self._samples.append((now, {worker.name: worker for worker in workers}))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()
        rates = Rates(now - self._samples[0][0], len(workers))
        for worker in workers:
            first = next(found[worker.name] for _, found in self._samples if worker.name in found)
            rates.statements += worker.stats.statements - first.stats.statements
            rates.round_trips += worker.stats.round_trips - first.stats.round_trips
            rates.errors += worker.stats.backend_errors - first.stats.backend_errors
            for name, counters in worker.stats.by_cache.items():
                before = first.stats.by_cache.get(name, Counters())
                rates.by_cache.setdefault(name, ClassRates()).add(counters, before)
        return rates


class HotKeys:
    """The keys that were read most, by samples of how much the server says that each is read."""

    def __init__(self) -> None:
        self._seen: dict[bytes, float] = {}
        """The heat of each candidate, or its reads in a second: the mean of its samples, older ones counting less."""

    def candidates(self, others: Iterable[bytes]) -> list[bytes]:
        """Returns the keys to sample now: the candidates, and others to compare them with."""
        return list(dict.fromkeys([*self._seen, *others]))

    def add(self, sample: Iterable[tuple[bytes, float | None]]) -> None:
        """Adds a sample: the heat of each key, or None if it is not there any more."""
        for key, heat in sample:
            if heat is None:
                self._seen.pop(key, None)
            else:
                self._seen[key] = 0.8 * self._seen.get(key, 0.0) + 0.2 * heat
        hottest = sorted(self._seen.items(), key=lambda pair: -pair[1])[:MAX_CANDIDATES]
        self._seen = {key: heat for key, heat in hottest if heat > 0.001}

    def add_reads(self, reads: Mapping[bytes, float]) -> None:
        """Adds a sample of reads in a second, by key. Candidates without one were not read."""
        self.add([(key, reads.get(key, 0.0)) for key in self.candidates(reads)])

    def hottest(self, number: int) -> list[tuple[bytes, float]]:
        """Returns the hottest keys with their heat, the hottest first."""
        return sorted(self._seen.items(), key=lambda pair: -pair[1])[:number]
