"""``BUDGETS``: limits on speed and size. Nearly each one limits a ratio of two figures of one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import cases
from benchmarks.contestants import PEERS_ON_REDIS, ByHand, Near, Own, RawRedis, TortoiseAlone
from benchmarks.results import PlaceResults
from benchmarks.samples import Summary, ratios

Measured = tuple[str, str]
"""Names of a case and of a contestant."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limit on a ratio or a time: ``limit`` is its maximum or, with ``at_least``, its minimum."""

    text: str
    limit: float
    measure: Callable[[PlaceResults], Summary | None]
    """Returns the figure, or None if the run did not measure it."""
    at_least: bool = False

    def met(self, ratio: Summary) -> bool:
        return ratio.median >= self.limit if self.at_least else ratio.median <= self.limit


def _ratio(
    numerator: Measured, denominator: Measured, *, of_cpu: bool = False
) -> Callable[[PlaceResults], Summary | None]:
    def measure(results: PlaceResults) -> Summary | None:
        measured = results.cpu if of_cpu else results.seconds
        samples, base = (measured.get(case, {}).get(who) for case, who in (numerator, denominator))
        return ratios(samples, base) if samples and base else None

    return measure


def _own(case: cases.Case) -> Measured:
    return case.name, Own.name


def _raw(case: cases.Case) -> Measured:
    return case.name, RawRedis.name


def _against_fastest_peer(case: cases.Case) -> Callable[[PlaceResults], Summary | None]:
    def measure(results: PlaceResults) -> Summary | None:
        measured = results.seconds.get(case.name, {})
        peers = [measured[peer.name] for peer in PEERS_ON_REDIS if peer.name in measured]
        if not peers or Own.name not in measured:
            return None
        return ratios(min(peers, key=lambda samples: Summary.of(samples).median), measured[Own.name])

    return measure


def _cpu(case: cases.Case, who: str = Own.name) -> Callable[[PlaceResults], Summary | None]:
    """Returns the microseconds of CPU time of one operation of this library."""

    def measure(results: PlaceResults) -> Summary | None:
        samples = results.cpu.get(case.name, {}).get(who)
        return Summary.of([sample * 1e6 for sample in samples]) if samples else None

    return measure


def _on_postgres(measure: Callable[[PlaceResults], Summary | None]) -> Callable[[PlaceResults], Summary | None]:
    return lambda results: measure(results) if results.database == "postgres" else None


def _size(results: PlaceResults) -> Summary | None:
    sizes = results.sizes
    return Summary.of([sizes["entry"] / sizes["pickled instance"]]) if sizes else None


def _stampede(name: str) -> Callable[[PlaceResults], Summary | None]:
    return lambda results: Summary.of([results.stampede[name]]) if results.stampede else None


def _load(name: str) -> Callable[[PlaceResults], Summary | None]:
    """Returns the ratio of ``name`` at 1,000 concurrent requests to the same figure at 10."""

    def measure(results: PlaceResults) -> Summary | None:
        def at(concurrency: int) -> Sequence[float]:
            return [
                load[name]
                for load in results.loads
                if load["contestant"] == Own.name and load["concurrency"] == concurrency
            ]

        return ratios(at(1_000), at(10)) if at(1_000) and at(10) else None

    return measure


BUDGETS: Final = [
    Budget("single hit by pk / raw GET", 1.35, _ratio(_own(cases.SINGLE), _raw(cases.SINGLE))),
    Budget("gather of 100 hits, per hit / raw MGET per key", 6, _ratio(_own(cases.GATHER_100), _raw(cases.TOGETHER))),
    Budget(
        "gather of 100 as futures, per hit / raw MGET per key", 4.5, _ratio(_own(cases.FUTURES), _raw(cases.TOGETHER))
    ),
    Budget(
        "gather of 100 as futures / gather of 100 raw GETs", 1 / 5, _ratio(_own(cases.FUTURES), _raw(cases.GATHER_100))
    ),
    Budget(
        "gather of 100 hits / gather of 100 raw GETs", 1 / 5, _ratio(_own(cases.GATHER_100), _raw(cases.GATHER_100))
    ),
    Budget("BatchCacheQuery of 100, per hit / raw MGET per key", 3, _ratio(_own(cases.TOGETHER), _raw(cases.TOGETHER))),
    Budget("lookup by slug / lookup by pk", 1.15, _ratio(_own(cases.SLUG), _own(cases.SINGLE))),
    Budget("fastest peer / hit, 100 gathered", 3, _against_fastest_peer(cases.GATHER_100), at_least=True),
    Budget("list of 50 / list of 50 by hand", 0.75, _ratio(_own(cases.LIST), (cases.LIST.name, ByHand.name))),
    Budget("hit in local_cache() / hit from Redis", 1 / 45, _ratio(_own(cases.SCOPE), _own(cases.SINGLE))),
    Budget("near hit / hit from Redis", 1 / 15, _ratio((cases.NEAR.name, Near.name), _own(cases.SINGLE))),
    Budget("near hit, CPU µs", 4, _cpu(cases.NEAR, Near.name)),
    Budget(
        "100 misses, gathered / bare filter(slug__in=...), CPU time",
        3,
        _ratio(_own(cases.MISSES_GATHERED), (cases.MISSES.name, TortoiseAlone.name), of_cpu=True),
    ),
    Budget(
        "100 misses, get_many / bare filter(slug__in=...), CPU time",
        2,
        _ratio(_own(cases.MISSES), (cases.MISSES.name, TortoiseAlone.name), of_cpu=True),
    ),
    Budget("page of 20 rows with 41 dependencies / raw GET", 1.5, _ratio(_own(cases.PAGE), _raw(cases.PAGE))),
    Budget(
        "gather of 10 such pages / gather of 10 raw GETs",
        1.5,
        _ratio(_own(cases.PAGES_GATHERED), _raw(cases.PAGES_GATHERED)),
    ),
    Budget("page of 20 rows with 41 dependencies, CPU µs", 60, _cpu(cases.PAGE)),
    Budget("query of 50 rows / list of 50 by hand", 1, _ratio(_own(cases.QUERY), (cases.QUERY.name, ByHand.name))),
    Budget("miss of a page / the same, untracked", 1.1, _ratio(_own(cases.PAGE_MISS), _own(cases.PAGE_MISS_UNTRACKED))),
    Budget(
        "save() on PostgreSQL / bare save()",
        1.9,
        _on_postgres(_ratio(_own(cases.SAVE), (cases.SAVE.name, TortoiseAlone.name))),
    ),
    Budget("bytes of a row entry / pickled instance", 0.6, _size),
    Budget("stampede: SQL statements of one process", 1, _stampede("statements of one process at most")),
    Budget("stampede: SQL statements in all", 2, _stampede("statements")),
    Budget("requests/s at 1,000 concurrent / at 10", 1, _load("per second"), at_least=True),
    Budget("p99 at 1,000 concurrent / at 10", 100, _load("p99")),
]
