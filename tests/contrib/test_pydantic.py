"""``model_from_cache``: the objects of ``from_tortoise_orm``, with as few statements as the cache allows."""

from typing import Any

import pytest
from tortoise.contrib.pydantic import PydanticModel, pydantic_model_creator

from aiomodelcache import ModelCache
from aiomodelcache.contrib.pydantic import model_from_cache, models_from_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.output_models import City, Event, Tag, create_rows

pytestmark = [
    pytest.mark.models("tests.support.models.output_models"),
    pytest.mark.only_on("sqlite", because="prefetch has tests on every database"),
]

CACHED = ("city.country", "city.country_id")
"""Fields to leave out, so that all relations of the schema are cached."""


@pytest.fixture
async def events(cache: ModelCache) -> list[Event]:
    await create_rows()
    return await Event.all().order_by("id")


@pytest.fixture
def whole(events: list[Event]) -> type[PydanticModel]:
    """A schema with all relations."""
    return pydantic_model_creator(Event, name="Whole")


@pytest.fixture
def cached(events: list[Event]) -> type[PydanticModel]:
    """A schema whose relations the cache can fill."""
    return pydantic_model_creator(Event, name="Cached", exclude=CACHED)


async def expected(schema: type[PydanticModel]) -> list[PydanticModel]:
    return [await schema.from_tortoise_orm(event) for event in await Event.all().order_by("id")]


async def test_cached_relations_take_one_round_trip_for_each_level_and_no_sql(
    events: list[Event], cached: type[PydanticModel], backend: CountingBackend
) -> None:
    by_tortoise = await expected(cached)
    first = by_tortoise[0].model_dump()
    assert (first["city"]["name"], len(first["tags"]), len(first["talks"])) == ("Lisbon", 2, 3)
    assert await models_from_cache(cached, events) == by_tortoise
    again = await Event.all().order_by("id")
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await models_from_cache(cached, again) == by_tortoise
    one = await Event.get(id=1)
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await model_from_cache(cached, one) == by_tortoise[0]


async def test_tortoise_loads_what_the_cache_cannot_fill_below_what_it_has_filled(
    events: list[Event], whole: type[PydanticModel], backend: CountingBackend
) -> None:
    by_tortoise = await expected(whole)
    assert by_tortoise[0].model_dump()["city"]["country"]["name"] == "Portugal"
    await models_from_cache(whole, events)
    again = await Event.all().order_by("id")
    async with assert_ops(backend, sql=1, redis=["read"]):  # the countries of all cities
        assert await models_from_cache(whole, again) == by_tortoise


async def test_writes_are_seen(events: list[Event], cached: type[PydanticModel]) -> None:
    await models_from_cache(cached, events)
    await City.filter(id=1).update(name="Lisboa")
    await (await Event.get(id=2)).tags.add(await Tag.get(id=1))
    found = await models_from_cache(cached, await Event.all().order_by("id"))
    assert found == await expected(cached)
    assert found[0].model_dump()["city"]["name"] == "Lisboa"
    assert len(found[1].model_dump()["tags"]) == 1


async def test_no_instances_are_no_requests(cached: type[PydanticModel], backend: CountingBackend) -> None:
    async with assert_ops(backend, sql=0, redis=0):
        assert await models_from_cache(cached, []) == []


class Own(PydanticModel):
    """A schema that belongs to no model."""


@pytest.mark.parametrize("wrong", [Own, int, None], ids=str)
async def test_other_schemas_are_refused(events: list[Event], wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"make it by pydantic_model_creator"):
        await model_from_cache(wrong, events[0])


async def test_instances_of_other_models_are_refused(cached: type[PydanticModel]) -> None:
    with pytest.raises(TypeError, match=r"^Cached is a schema of Event; got .*City"):
        await model_from_cache(cached, await City.get(id=1))
