"""The cost of recording dependencies, for a miss and for other lookups, in instructions of Python."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import InvalidationType, ModelCache, cached, writes_without_cache
from aiomodelcache.declare.cached import CachedFunction
from tests.support.instructions import instructions
from tests.support.models.derived_models import Happening, Organizer

pytestmark = pytest.mark.models("tests.support.models.derived_models")

NUMBERS = list(range(1, 21))


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend_url: str) -> AsyncIterator[ModelCache]:
    with writes_without_cache():
        await Organizer.bulk_create([Organizer(id=number, name=f"o{number}") for number in NUMBERS])
        await Happening.bulk_create([Happening(id=n, slug=f"h{n}", organizer_id=n) for n in NUMBERS])
    async with ModelCache(backend_url, socket_timeout=60, lease_ttl=60) as opened:
        yield opened


async def page() -> list[Any]:
    """Has 42 dependencies."""
    rows = await Happening.cache.get_many(NUMBERS)
    await Happening.cache.prefetch(rows, "organizer")
    return [row.organizer.name for row in rows]


async def get_many() -> list[Any]:
    return [row.slug for row in await Happening.cache.get_many(NUMBERS)]


async def one_statement() -> list[Any]:
    return [row.slug for row in await Happening.filter(level=0).order_by("id").limit(20)]


async def one_lookup() -> list[Any]:
    return [(await Happening.cache.get(id=1)).slug]


async def twenty_lookups() -> list[Any]:
    return [(await Happening.cache.get(id=number)).slug for number in NUMBERS]


async def twenty_gathered() -> list[Any]:
    return [row.slug for row in await asyncio.gather(*[Happening.cache.get(id=number) for number in NUMBERS])]


@cached
async def tracked(computation: str) -> list[Any]:
    return await computations[computation]()


@cached(timeout=60, invalidation=InvalidationType.OFF)
async def untracked(computation: str) -> list[Any]:
    return await computations[computation]()


computations: dict[str, Callable[[], Awaitable[list[Any]]]] = {
    each.__name__: each for each in (page, get_many, one_statement, one_lookup, twenty_lookups, twenty_gathered)
}


LIMITS = {"page": 1.07, "one_statement": 1.07}
"""Limits of the ratios that are far below a tenth."""


async def fewest_instructions(work: Callable[[], Awaitable[None]]) -> int:
    """Returns the instructions of the run that the server interrupted least: its replies may come in parts."""
    return min([(await instructions(work, runs=1))[0] for _ in range(5)])


@pytest.mark.parametrize("computation", computations)
@pytest.mark.only_on("redis", because="its instructions are part of a miss, too")
@pytest.mark.unobserved(because="observers are told of each lookup")
async def test_tracking_costs_a_miss_at_most_a_tenth(computation: str, cache: ModelCache) -> None:
    store = cache.open_cache.guarded.backend

    async def miss_instructions(function: CachedFunction[[str], list[Any]]) -> int:
        key = function.key(computation).encode()

        async def miss() -> None:
            await store.delete([key])
            assert len(await function(computation)) in (1, 20)

        async def forget() -> None:
            await store.delete([key])

        for _ in range(4):  # until rows that are read again are kept decoded
            await miss()
        return await fewest_instructions(miss) - await fewest_instructions(forget)

    with_tracker, without = await miss_instructions(tracked), await miss_instructions(untracked)
    assert 1 < with_tracker / without < LIMITS.get(computation, 1.1)


@pytest.mark.only_on("redis", because="its instructions are part of a hit, too")
async def test_a_hit_takes_few_instructions_for_each_dependency(cache: ModelCache) -> None:
    """One comparison of tokens, and one look at the state that was read. The request and the value are kept."""

    async def hit_instructions(computation: str) -> int:
        async def hit() -> None:
            await tracked(computation)

        for _ in range(6):  # until the value is kept decoded
            await hit()
        return await fewest_instructions(hit)

    of_two, of_many = await hit_instructions("one_lookup"), await hit_instructions("page")
    assert 0 < (of_many - of_two) / 40 < 25


@pytest.mark.only_on("memory", because="a lookup is tracked or not before the store is asked")
async def test_tracking_costs_a_hit_nothing_outside_of_cached_functions(cache: ModelCache) -> None:
    await Happening.cache.get(id=1)
    everything, of_trackers = await instructions(lambda: Happening.cache.get(id=1).resolve(), "track")
    assert 0 < of_trackers < everything / 50
