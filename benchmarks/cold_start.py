"""A cold cache in front of a database that is slower than its load: ``python -m benchmarks.cold_start``.

Readers look up random rows at a fixed rate, whether they are answered or not. Each gives up after a while. The database
answers a fixed number of rows per second, in the order of its statements. For half a minute there are more lookups than
it can answer, and then four fifths of what it can answer. A cache that does not become warm then never does. The time
is virtual.

``--without`` shows the same without both parts of the remedy: leases that live as long as statements take, and a limit
of the statements in flight.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from aiomodelcache import DatabaseOverloaded, MemoryBackend, ModelCache, writes_without_cache
from aiomodelcache.engine import admission, background, lease_extensions, leases, overload, statements
from benchmarks.models import Article
from benchmarks.places import MODELS
from benchmarks.virtual_time import VirtualLoop
from tests.support.databases import DatabaseUrl, tortoise_on


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The load, the database, and the settings of the cache."""

    rows: int = 6_000
    capacity: float = 200.0
    """Rows per second that the database answers."""
    statement: float = 0.002
    """Seconds that it needs for each statement, in addition."""
    overload: float = 800.0
    """Lookups per second at first."""
    overloaded: float = 30.0
    """Seconds of them."""
    afterwards: float = 30.0
    """Seconds of lookups at four fifths of the capacity."""
    patience: float = 8.0
    """Seconds after which a reader gives up."""
    queries: bool = False
    """True if readers ask ad-hoc queries, which share no statements."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Interval:
    """The counts of one interval of time."""

    ends: float
    lookups: int = 0
    hits: int = 0
    given_up: int = 0
    behind: float = 0.0
    """Seconds of work that the database has left."""

    @property
    def ratio(self) -> float:
        return self.hits / self.lookups if self.lookups else 0.0


@dataclass
class Outcome:
    intervals: list[Interval]
    statements: int
    most_in_flight: int
    limits: list[int]
    """The limits in force, one for each statement."""
    rows_read: int

    def ratio(self, since: float) -> float:
        """Returns the hit ratio of all lookups from a moment on."""
        late = [each for each in self.intervals if each.ends > since]
        return sum(each.hits for each in late) / sum(each.lookups for each in late)


class SlowDatabase:
    """A database that answers the rows of one statement after the other, at a fixed pace."""

    def __init__(self, scenario: Scenario, cache: ModelCache) -> None:
        self._scenario = scenario
        self._cache = cache
        self._free_at = 0.0
        self.in_flight = self.most_in_flight = self.statements = self.rows = 0
        self.limits: list[int] = []

    @property
    def behind(self) -> float:
        return max(0.0, self._free_at - asyncio.get_running_loop().time())

    def slow(self, execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def late(*args: Any) -> Any:
            loop = asyncio.get_running_loop()
            self.in_flight += 1
            self.statements += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.limits += self._cache.stats.load_limits.values()
            try:
                answer = await execute(*args)
                rows = len(answer[1]) if isinstance(answer, tuple) else len(answer)
                self.rows += rows
                work = self._scenario.statement + rows / self._scenario.capacity
                self._free_at = max(self._free_at, loop.time()) + work
                await asyncio.sleep(self._free_at - loop.time())
            finally:
                self.in_flight -= 1
            return answer

        return late


class _Time:
    """A replacement of the module ``time`` by the time of the event loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = self.time = self.perf_counter = loop.time


@contextmanager
def virtual(loop: VirtualLoop) -> Iterator[None]:
    """Lets leases and limits count by the virtual time."""
    with ExitStack() as patches:
        for module in (leases, lease_extensions, admission, background):
            patches.enter_context(patch.object(module, "time", _Time(loop)))
        for module in (statements, overload):
            patches.enter_context(patch.object(module, "perf_counter", loop.time))
        yield


async def _run(loop: VirtualLoop, scenario: Scenario) -> Outcome:
    async with tortoise_on(DatabaseUrl("sqlite://:memory:", "sqlite"), MODELS) as client:
        connection: Any = client
        connection._connection._execute = loop.clock.counted(connection._connection._execute)
        with writes_without_cache():
            await Article.bulk_create([Article(id=pk, section=1) for pk in range(1, scenario.rows + 1)])
        cache = ModelCache(MemoryBackend(clock=loop.time), inspect_columns=False, **scenario.settings)
        database = SlowDatabase(scenario, cache)
        for name in ("execute_query", "execute_query_dict"):
            setattr(client, name, database.slow(getattr(client, name)))
        async with cache:
            intervals = await _read(scenario, cache, database)
    return Outcome(intervals, database.statements, database.most_in_flight, database.limits, database.rows)


async def _read(scenario: Scenario, cache: ModelCache, database: SlowDatabase) -> list[Interval]:
    loop, chance = asyncio.get_running_loop(), random.Random(1)
    intervals: list[Interval] = []
    began = loop.time()
    length = scenario.overloaded + scenario.afterwards
    in_flight: set[asyncio.Task[None]] = set()

    async def look_up(interval: Interval) -> None:
        counters = cache.stats.of("Article.query" if scenario.queries else "Article")
        hits = counters.hits
        started = loop.time()
        interval.lookups += 1
        try:
            async with asyncio.timeout(scenario.patience):
                pk = chance.randrange(scenario.rows) + 1
                await (Article.cache.query(Article.get(id=pk)) if scenario.queries else Article.cache.get(id=pk))
        except (TimeoutError, DatabaseOverloaded):
            interval.given_up += 1
        else:
            interval.hits += loop.time() == started and counters.hits > hits

    due = began
    while (now := loop.time() - began) < length:
        step = length / 15
        if not intervals or now >= intervals[-1].ends:
            intervals.append(Interval(round((now // step + 1) * step, 3), behind=database.behind))
        rate = scenario.overload if now < scenario.overloaded else scenario.capacity * 0.8
        task = asyncio.create_task(look_up(intervals[-1]))
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
    await asyncio.gather(*in_flight)
    return intervals


def run(scenario: Scenario) -> Outcome:
    """Plays a scenario."""
    loop = VirtualLoop()
    with virtual(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_run(loop, scenario))


WITHOUT: dict[str, Any] = {"load_ttl": "1ms", "load_limit": None}
"""Settings that take both parts of the remedy away."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start")
    parser.add_argument("--without", action="store_true", help="without extended leases and the limit")
    parser.add_argument("--lease-ttl", type=float, default=5.0, metavar="SECONDS")
    options = parser.parse_args()
    settings = {"lease_ttl": options.lease_ttl, **(WITHOUT if options.without else {})}
    scenario = Scenario(settings=settings)
    outcome = run(scenario)
    for each in outcome.intervals:
        print(
            f"until {each.ends:4.0f} s: {each.lookups:5} lookups, {each.ratio:4.0%} hits, {each.given_up:5} given up, "
            f"the database is {each.behind:4.1f} s behind"
        )
    print(
        f"{outcome.statements} statements with {outcome.rows_read} rows, at most {outcome.most_in_flight} in flight, "
        f"of a limit of at most {max(outcome.limits, default=0)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
