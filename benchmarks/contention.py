"""Hit ratios of queries of a table by the number of writes to it, simulated in virtual time.

This library answers from its store in memory and from SQLite, with all of its protocol. Beside it run the rules of
other caches, which see the same writes and have the same delays:

- a timeout only, without invalidation;
- cachalot: a query ends with any write to a table that it names;
- cacheops: a query ends with a write of a row that meets its equality conditions, before or after the write.

Real servers would add their own queues to the delays.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from aiomodelcache import MemoryBackend, ModelCache, cached, writes_without_cache
from aiomodelcache.testing import CountingBackend
from benchmarks.contestants import Own
from benchmarks.models import Article, GroupedArticle, ViewedArticle
from benchmarks.places import MODELS
from benchmarks.virtual_time import VirtualLoop
from tests.support.databases import DatabaseUrl, tortoise_on

OWN: Final = Own.name
ROWS: Final = 1_200
SECTIONS: Final = 24
PAGE: Final = list(range(1, 21))
"""Primary keys of the page's rows."""
READS: Final = 50.0
"""Reads per second, of each query."""
OF_VIEWS: Final = 0.9
"""The share of the writes that change only the column that ``ViewedArticle`` ignores."""
STATEMENT: Final = 0.001
STORE: Final = 0.0002
"""Delays in seconds: of a statement, and of a request to the store."""
TIMEOUT: Final = 10.0
"""Seconds after which the cache with a timeout forgets."""
RATES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)
"""Writes per second."""
SHORTEST: Final = 10.0
FEWEST_WRITES: Final = 20
"""The least that is simulated at each rate: seconds, and writes."""

WRITTEN: Final = (Article, ViewedArticle, GroupedArticle)
"""The models of which each write changes a row."""

Point = tuple[float, float]
"""Writes per second, and the share of the reads that the store alone answered."""


@dataclass(slots=True)
class Line:
    """One way to cache a query, and how often it was read and answered by the store alone."""

    name: str
    read: Callable[[], Awaitable[Any]]
    reads: int = 0
    hits: int = 0

    @property
    def ratio(self) -> float:
        return self.hits / self.reads

    async def read_once(self) -> None:
        """Reads the query. A read that waits for a statement, of its own or of another reader, is no hit."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.read()
        self.reads += 1
        self.hits += loop.time() - began < STATEMENT


class SimulatedCache:
    """A cache of one query whose entry ends by the rule of another library. Its store and its writers never fail."""

    def __init__(self, name: str, ends: Callable[[int], bool], timeout: float = math.inf) -> None:
        self.line = Line(name, self.read)
        self._ends = ends
        """Returns True if the write of a row in this section ends the entry."""
        self._timeout = timeout
        self._expires = -math.inf
        self._writes = 0

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(STORE)
        if loop.time() < self._expires:
            return
        writes = self._writes
        await asyncio.sleep(STATEMENT)
        if writes == self._writes:  # else an entry might be older than the write
            self._expires = loop.time() + self._timeout

    def written(self, section: int) -> None:
        """Ends the entry, if a write of a row in this section does."""
        if self._ends(section):
            self._writes += 1
            self._expires = -math.inf


class DelayedStore(CountingBackend):
    """A store in memory that answers as late as one that is reached by network."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return _delayed(found, STORE) if name in ("read", "lease", "fill", "mark", "clear") else found


def _delayed(call: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    async def late(*args: Any, **kwargs: Any) -> Any:
        answer = await call(*args, **kwargs)
        await asyncio.sleep(seconds)
        return answer

    return late


def own_lines() -> list[Line]:
    """Returns the queries that this library caches."""

    @cached
    async def in_section() -> int:
        return await Article.filter(section=1).count()

    @cached
    async def in_section_but_views() -> int:
        return await ViewedArticle.filter(section=1).count()

    async def in_group() -> int:
        return await GroupedArticle.cache.query(GroupedArticle.filter(section=1).count())

    @cached
    async def page() -> list[int]:
        return [article.words for article in await Article.cache.get_many(PAGE)]

    return [
        Line(f"{OWN}, page of 20 rows of 1,200", page),
        Line(f"{OWN}, count, 9 of 10 writes ignored", in_section_but_views),
        Line(f"{OWN}, count", in_section),
        Line(f"{OWN}, count, by groups", in_group),
    ]


async def simulate(rate: float, seconds: float) -> list[Line]:
    """Simulates readers of all lines, and ``rate`` writes per second to random rows."""
    loop = asyncio.get_running_loop()
    others = [
        SimulatedCache(f"timeout of {TIMEOUT:g} s, no invalidation", lambda section: False, TIMEOUT),
        SimulatedCache("count, by its conditions, as cacheops", lambda section: section == 1),
        SimulatedCache("count, by its table, as cachalot", lambda section: True),
    ]
    lines = [*own_lines(), *[other.line for other in others]]
    ends, chance = loop.time() + seconds, random.Random(rate)

    async def reader(line: Line, chance: random.Random) -> None:
        async with asyncio.TaskGroup() as reads:
            while (delay := chance.expovariate(READS)) + loop.time() < ends:
                await asyncio.sleep(delay)
                reads.create_task(line.read_once())

    async def write(pk: int, *, of_views: bool) -> None:
        column = "views" if of_views else "words"
        for model in WRITTEN:
            row: Any = model(id=pk, section=pk % SECTIONS, **{column: chance.randrange(1_000)})
            row._saved_in_db = True
            await row.save(update_fields=[column])
        for other in others:
            other.written(pk % SECTIONS)

    async with asyncio.TaskGroup() as tasks:
        for number, line in enumerate(lines):
            tasks.create_task(reader(line, random.Random(number)))
        while (delay := chance.expovariate(rate)) + loop.time() < ends:
            await asyncio.sleep(delay)
            tasks.create_task(write(chance.randrange(ROWS) + 1, of_views=chance.random() < OF_VIEWS))
    return lines


async def _run(loop: VirtualLoop, rates: Sequence[float], shortest: float) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {}
    async with tortoise_on(DatabaseUrl("sqlite://:memory:", "sqlite"), MODELS) as client:
        connection: Any = client
        connection._connection._execute = loop.clock.counted(connection._connection._execute)
        for name in ("execute_query", "execute_query_dict", "execute_insert"):
            setattr(client, name, _delayed(getattr(client, name), STATEMENT))
        with writes_without_cache():
            for model in WRITTEN:
                await model.bulk_create([model(id=pk, section=pk % SECTIONS) for pk in range(1, ROWS + 1)])
        for rate in rates:
            async with ModelCache(DelayedStore(MemoryBackend())):
                for line in await simulate(rate, max(shortest, FEWEST_WRITES / rate)):
                    points.setdefault(line.name, []).append((rate, line.ratio))
    return points


def run_contention(rates: Sequence[float] = RATES, shortest: float = SHORTEST) -> dict[str, list[Point]]:
    """Returns the points of each line, by its name. Each takes at least ``shortest`` seconds of virtual time."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_run(loop, rates, shortest))


def half(points: Sequence[Point]) -> float | None:
    """Returns the writes per second at which the ratio falls to one half, or None if it does not fall so far."""
    for (rate, ratio), (next_rate, next_ratio) in pairwise(points):
        if ratio >= 0.5 > next_ratio:
            return rate * (next_rate / rate) ** ((ratio - 0.5) / (ratio - next_ratio))
    return None
