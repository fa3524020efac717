"""``tags``: values that are invalidated by name, for what nothing else can notice."""

import contextlib
from typing import Any

import pytest
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    InvalidationType,
    ModelCache,
    ValueCache,
    cached,
)
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Organizer

pytestmark = pytest.mark.models("tests.support.models.derived_models")

rates = {"USD": 1, "GBP": 2}
calls: list[str] = []


@pytest.fixture(autouse=True)
def begin() -> None:
    rates.update(USD=1, GBP=2)
    calls.clear()


@cached(tags=("rates", lambda base, **_: f"rate:{base}"), invalidation=InvalidationType.OFF)
async def rate(base: str, *, digits: int = 2) -> int:
    calls.append(base)
    return rates[base]


class QuotedRate(ValueCache[int]):
    tags = ("rates", lambda base: [f"rate:{base}", "all"])

    async def get_value(self, base: str) -> int:
        calls.append(base)
        return rates[base]


async def test_a_tag_invalidates_the_values_that_have_it_and_no_others(
    cache: ModelCache, backend: CountingBackend
) -> None:
    assert [await rate("USD"), await rate("GBP"), await QuotedRate("USD"), await QuotedRate("GBP")] == [1, 2, 1, 2]
    rates.update(USD=7, GBP=8)
    async with assert_ops(backend, redis=["clear"]):
        await cache.invalidate_tags("rate:USD")
    assert [await rate("USD"), await rate("GBP"), await QuotedRate("USD"), await QuotedRate("GBP")] == [7, 2, 7, 2]
    await cache.invalidate_tags("rates")
    assert [await rate("USD"), await rate("GBP"), await QuotedRate("USD"), await QuotedRate("GBP")] == [7, 8, 7, 8]
    calls.clear()
    await cache.invalidate_tags("all", "none")
    assert [await rate("USD"), await QuotedRate("USD")] == [7, 7]
    assert calls == ["USD"]


async def test_a_hit_costs_one_round_trip(cache: ModelCache, backend: CountingBackend) -> None:
    await rate("USD")
    async with assert_ops(backend, redis=["read"]):
        await BatchCacheQuery(one=rate.query("USD"), two=rate.query("USD"))


async def test_a_computation_that_was_under_way_is_not_taken_for_newer(cache: ModelCache) -> None:
    @cached(tags="rates")
    async def slow() -> int:
        value = rates["USD"]
        rates["USD"] = 9
        await cache.invalidate_tags("rates")
        return value

    await slow()
    rates["USD"] = 10
    assert await slow() == 10


async def test_in_a_transaction_it_takes_effect_at_commit(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="kim")
    assert await rate("USD") == 1
    with contextlib.suppress(ZeroDivisionError):
        async with in_transaction():
            await cache.invalidate_tags("rates")
            raise ZeroDivisionError
    assert await rate("USD") == 1
    rates["USD"] = 7
    assert await rate("USD") == 1, "no tag was invalidated since"
    async with in_transaction():
        await Organizer.filter(id=1).update(name="kay")
        await cache.invalidate_tags("rates")
    assert await rate("USD") == 7


async def test_a_tagged_function_is_tracked_too(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="kim")

    @cached(tags="names")
    async def name() -> Any:
        return [rates["USD"], (await Organizer.cache.get(id=1)).name]

    assert await name() == [1, "kim"]
    await Organizer.filter(id=1).update(name="kay")
    assert await name() == [1, "kay"]
    rates["USD"] = 7
    await cache.invalidate_tags("names")
    assert await name() == [7, "kay"]


async def test_with_invalidation_off_tags_alone_invalidate(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="kim")

    @cached(tags="names", invalidation=InvalidationType.OFF)
    async def name() -> str:
        return (await Organizer.cache.get(id=1)).name

    assert await name() == "kim"
    await Organizer.filter(id=1).update(name="kay")
    assert await name() == "kim"
    await cache.invalidate_tags("names")
    assert await name() == "kay"


async def test_an_outer_value_has_the_tags_of_the_inner_one(cache: ModelCache) -> None:
    @cached
    async def outer() -> int:
        return await rate("USD") + 1

    assert await outer() == 2
    rates["USD"] = 7
    await cache.invalidate_tags("rate:USD")
    assert await outer() == 8


async def test_bad_tags_are_errors(cache: ModelCache) -> None:
    with pytest.raises(CacheConfigurationError, match="tags has 5: name tags, or functions of the arguments"):

        @cached(tags=(5,))  # type: ignore[call-overload]
        async def wrong() -> None: ...

    @cached(tags=lambda: [5])  # type: ignore[call-overload, list-item, return-value]
    async def returning() -> None: ...

    with pytest.raises(TypeError, match="a function in tags returned <int>: return names of tags"):
        await returning()
    with pytest.raises(TypeError, match="takes names of tags; got"):
        await cache.invalidate_tags(5)  # type: ignore[arg-type]
