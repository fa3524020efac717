"""``Derived``: the library with each answer derived by a cached function, and controls that are cached in other ways.

The functions derive one answer from lookups, from statements, or from another result. The controls cache the same
functions by a timeout alone, or invalidate them by hand and forget one kind.
"""

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiomodelcache import BatchCacheQuery, InvalidationType, cached
from aiomodelcache.config import CacheConfig
from soak.model import Item
from soak.subjects import SMALL_BATCHES, Library, Seen, seen
from soak.world import World, slug_text

Shown = list[int]
Function = Callable[[int], Awaitable[Any]]


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

        async def row_by_result(pk: int) -> Shown:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self.rows[0](pk))
            return [*task.result()]

        async def team_by_result(team: int) -> list[Shown]:
            found: list[Shown] = await self.teams[1](team)
            return found

        self.rows += cache(row_by_result)
        self.teams += cache(team_by_result)


class Derived(Library):
    """aiomodelcache, with each answer derived by a cached function."""

    settings: dict[str, Any] = {}

    def __init__(
        self, url: str, world: World, chance: random.Random, config: CacheConfig, allowtime: float = 0
    ) -> None:
        super().__init__(url, world, chance, config, allowtime)
        self.batches = SMALL_BATCHES
        self.functions = Functions(**self.settings)

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all(self.functions.rows, pks)]

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        """Returns two rows: of a function, or of a queryset that is asked for both.

        A stored result is of one moment, whatever it was computed from. So is a computed one that reads a snapshot.
        """
        function, start = self.chance.choice([*self.functions.pairs, None]), time.monotonic_ns()
        if function is None:
            found = {item.id: item for item in await Item.filter(id__in=pks).cached()}
            return [seen(found.get(pk)) for pk in pks], True
        number, answer = await function(*pks)
        together = function is self.functions.pairs[0] or self.functions.computations.stored_before(number, start)
        return [(version, nonce) for version, nonce in answer], together

    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all(self.functions.slugs, slugs)]

    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        return [[(row[0], row[1]) for row in rows] for rows in await self._all(self.functions.teams, teams)]

    async def _all(self, functions: Sequence[Function], keys: Iterable[int]) -> list[Any]:
        return await asyncio.gather(*[self.chance.choice(functions)(key) for key in keys])


class Torn(Derived):
    """The same lookups, but a row and its partner are looked up one after the other, and called a snapshot."""

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        found: list[Seen] = []
        for pk in pks:
            found.append(seen(await Item.cache.get_or_none(id=pk)))
            await asyncio.sleep(self.chance.uniform(0, 0.05))
        return found, True


class Timed(Derived):
    """The same functions, whose results end by a timeout alone."""

    settings = {"invalidation": InvalidationType.OFF, "timeout": 1.0}


class Forgetful(Derived):
    """The same functions, invalidated by hand after each COMMIT: rows and slugs, but not the lists of teams."""

    settings = {"invalidation": InvalidationType.OFF, "timeout": 60}

    async def committed(self, pks: Iterable[int]) -> None:
        for pk in pks:
            for function in self.functions.rows:
                await function.invalidate(pk)
            for function in self.functions.slugs:
                for slug in self.world.slugs(pk):
                    await function.invalidate(slug)
