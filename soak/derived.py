"""``Derived``: the library with each answer derived by a cached function, and controls that are cached in other ways.

The functions derive one answer, or a page of many rows, from lookups, from statements, or from other results. The
controls cache the same functions by a timeout alone, or invalidate them by hand and forget some.
"""

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from aiomodelcache import BatchCacheQuery, InvalidationType, cached
from aiomodelcache.config import CacheConfig
from soak.model import Item
from soak.subjects import SMALL_BATCHES, Library, Seen, seen
from soak.world import World, slug_text

Shown = list[int]
Function = Callable[[int], Awaitable[Any]]
MOST_NUMBERS: Final = 10_000
"""Maximum number of computations whose ends are remembered. Older ones count as stored, as they ended long ago."""


async def row_by_lookup(pk: int) -> Shown:
    return [*seen(await Item.cache.get_or_none(id=pk))]


async def row_by_statement(pk: int) -> Shown:
    return [*seen(await Item.get_or_none(id=pk))]


async def slug_by_lookup(slug: int) -> Shown:
    return [*seen(await Item.cache.get_or_none(slug=slug_text(slug)))]


async def slug_by_statement(slug: int) -> Shown:
    return [*seen(await Item.get_or_none(slug=slug_text(slug)))]


async def team_by_lookup(team: int) -> list[Shown]:
    return [[*seen(item)] for item in await Item.cache.filter(team=team)]


async def team_by_statement(team: int) -> list[Shown]:
    return [[*seen(item)] for item in await Item.filter(team=team)]


async def pair_by_snapshot(first: int, second: int) -> list[Shown]:
    queries = {pk: Item.cache.get_or_none(id=pk) for pk in (first, second)}
    found = await BatchCacheQuery(queries).get(snapshot=True)
    return [[*seen(item)] for item in found.values()]


async def pair_by_lookups(first: int, second: int) -> list[Shown]:
    return [await row_by_lookup(first), await row_by_lookup(second)]


async def pair_by_statements(first: int, second: int) -> list[Shown]:
    return [await row_by_statement(first), await row_by_statement(second)]


async def page_by_snapshot(first: int, size: int) -> list[Shown]:
    queries = {pk: Item.cache.get_or_none(id=pk) for pk in range(first, first + size)}
    found = await BatchCacheQuery(queries).get(snapshot=True)
    return [[*seen(item)] for item in found.values()]


async def page_by_statement(first: int, size: int) -> list[Shown]:
    found = {item.id: item for item in await Item.filter(id__gte=first, id__lt=first + size)}
    return [[*seen(found.get(pk))] for pk in range(first, first + size)]


async def page_by_batch(first: int, size: int) -> list[Shown]:
    found = await BatchCacheQuery({pk: Item.cache.get_or_none(id=pk) for pk in range(first, first + size)})
    return [[*seen(item)] for item in found.values()]


async def page_by_bulk_lookup(first: int, size: int) -> list[Shown]:
    pks = range(first, first + size)
    found: dict[int, Item] = await Item.cache.in_bulk(pks)
    return [[*seen(found.get(pk))] for pk in pks]


async def page_by_lookups(first: int, size: int) -> list[Shown]:
    return await asyncio.gather(*[row_by_lookup(pk) for pk in range(first, first + size)])


class Computations:
    """Numbers of computations, by which a caller tells a stored answer from one that was computed for it."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        """Times at which this process has ended computations, by their numbers."""

    def numbered(self, function: Callable[..., Awaitable[list[Shown]]]) -> Callable[..., Awaitable[Any]]:
        """Makes a function's answers pairs of a random number and of the answer."""

        @functools.wraps(function)
        async def compute(first: int, second: int) -> tuple[int, list[Shown]]:
            answer = await function(first, second)
            number = random.getrandbits(60)
            self._ended[number] = time.monotonic_ns()
            if len(self._ended) > MOST_NUMBERS:
                del self._ended[next(iter(self._ended))]
            return number, answer

        del compute.__wrapped__  # its annotation is another one
        compute.__annotations__ = {}
        return compute

    def stored_before(self, number: int, start: int) -> bool:
        """Returns True if a lookup that began at ``start`` was answered by a stored result."""
        return self._ended.get(number, 0) < start


class Functions:
    """The ways to each kind of answer."""

    def __init__(self, **settings: Any) -> None:
        def cache(*functions: Any) -> list[Any]:
            return [cached(version=repr(settings), **settings)(function) for function in functions]

        self.rows = cache(row_by_lookup, row_by_statement)
        self.slugs = cache(slug_by_lookup, slug_by_statement)
        self.teams = cache(team_by_lookup, team_by_statement)
        self.computations = Computations()
        ways = pair_by_snapshot, pair_by_lookups, pair_by_statements
        self.pairs = cache(*map(self.computations.numbered, ways))
        of_pages = page_by_snapshot, page_by_statement, page_by_batch, page_by_bulk_lookup, page_by_lookups
        self.pages = cache(*map(self.computations.numbered, of_pages))
        self._at_once = [self.pairs[0], *self.pages[:2]]
        """Functions that read everything as of one moment."""

        async def row_by_result(pk: int) -> Shown:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self.rows[0](pk))
            return [*task.result()]

        async def team_by_result(team: int) -> list[Shown]:
            found: list[Shown] = await self.teams[1](team)
            return found

        async def page_by_pages(first: int, size: int) -> list[Shown]:
            half = size // 2
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self.pages[1](first, half))
                _, second = await self.pages[0](first + half, half)
            _, found = task.result()
            return [*found, *second]

        self.rows += cache(row_by_result)
        self.teams += cache(team_by_result)
        self.pages += cache(self.computations.numbered(page_by_pages))

    async def numbered(self, function: Any, first: int, second: int) -> tuple[list[Seen], bool]:
        """Returns the answer of a numbered function, and True if it is of one moment.

        A stored result is of one moment, whatever it was computed from.
        """
        start = time.monotonic_ns()
        number, answer = await function(first, second)
        together = function in self._at_once or self.computations.stored_before(number, start)
        return [(version, nonce) for version, nonce in answer], together


class Derived(Library):
    """aiomodelcache, with each answer derived by a cached function."""

    settings: dict[str, Any] = {}

    def __init__(
        self, url: str, world: World, chance: random.Random, config: CacheConfig, allowtime: float = 0
    ) -> None:
        super().__init__(url, world, chance, config, allowtime)
        self.batches = SMALL_BATCHES
        self.pages = 0.5
        self.functions = Functions(**self.settings)

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all(self.functions.rows, pks)]

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        """Returns two rows: of a function, or of a queryset that is asked for both."""
        function = self.chance.choice([*self.functions.pairs, None])
        if function is None:
            return await _of_queryset(pks, Item.filter(id__in=pks).cached())
        return await self.functions.numbered(function, *pks)

    async def by_page(self, pks: range, way: float) -> tuple[list[Seen], bool]:
        """Returns the rows of a page: of a function, or of a queryset."""
        if way < 0.125:
            return await _of_queryset(pks, Item.filter(id__in=[*pks]).cached())
        if way < 0.25:
            found = Item.cache.query(Item.filter(id__gte=pks.start, id__lt=pks.stop), timeout=300)
            return await _of_queryset(pks, found)
        functions = self.functions.pages
        return await self.functions.numbered(functions[int(way * 24) % len(functions)], pks.start, len(pks))

    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all(self.functions.slugs, slugs)]

    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        return [[(row[0], row[1]) for row in rows] for rows in await self._all(self.functions.teams, teams)]

    async def _all(self, functions: Sequence[Function], keys: Iterable[int]) -> list[Any]:
        return await asyncio.gather(*[self.chance.choice(functions)(key) for key in keys])


async def _of_queryset(pks: Sequence[int], queryset: Awaitable[list[Item]]) -> tuple[list[Seen], bool]:
    found = {item.id: item for item in await queryset}
    return [seen(found.get(pk)) for pk in pks], True


class Torn(Derived):
    """The same lookups, but rows of a pair or page are looked up one after the other, and called a snapshot."""

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        found: list[Seen] = []
        for pk in pks:
            found.append(seen(await Item.cache.get_or_none(id=pk)))
            await asyncio.sleep(self.chance.uniform(0, 0.1 / len(pks)))
        return found, True

    async def by_page(self, pks: range, way: float) -> tuple[list[Seen], bool]:
        return await self.by_pair(pks)


class Timed(Derived):
    """The same functions, whose results end by a timeout alone."""

    settings = {"invalidation": InvalidationType.OFF, "timeout": 1.0}


class Forgetful(Derived):
    """The same functions, invalidated by hand after each COMMIT: rows and slugs, but not lists of teams and pages."""

    settings = {"invalidation": InvalidationType.OFF, "timeout": 60}

    async def committed(self, pks: Iterable[int]) -> None:
        for pk in pks:
            for function in self.functions.rows:
                await function.invalidate(pk)
            for function in self.functions.slugs:
                for slug in self.world.slugs(pk):
                    await function.invalidate(slug)
