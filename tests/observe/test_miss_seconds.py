"""``Counters.seconds``: the time that the statements and computations of misses took."""

import asyncio

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import InvalidationType, ModelCache, cached
from tests.support.gates import gated_sql
from tests.support.models.models import User

pytestmark = pytest.mark.only_on("sqlite", because="the time is taken above any database")
SLOW = 0.05


async def test_the_time_of_a_statement_counts_once_for_all_that_wait(
    cache: ModelCache, database: BaseDBAsyncClient
) -> None:
    kim = await User.create(username="kim")
    rows = cache.stats.by_cache["User"]
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT")
        lookups = asyncio.gather(*[User.cache.get(id=kim.id).resolve() for _ in range(10)])
        await gate.reached()
        await asyncio.sleep(SLOW)
        gate.open()
        await lookups
    assert SLOW <= rows.seconds < 10 * SLOW
    before = rows.seconds
    await User.cache.get(id=kim.id)
    assert rows.seconds == before


async def test_the_time_of_a_computation_counts_once_for_all_that_wait(cache: ModelCache) -> None:
    @cached(timeout=60, invalidation=InvalidationType.OFF)
    async def slow() -> int:
        await asyncio.sleep(SLOW)
        return 1

    await asyncio.gather(*[slow() for _ in range(10)])
    [counters] = [each for name, each in cache.stats.by_cache.items() if name.endswith("slow")]
    assert SLOW * 0.9 <= counters.seconds < 10 * SLOW
    before = counters.seconds
    await slow()
    assert counters.seconds == before
