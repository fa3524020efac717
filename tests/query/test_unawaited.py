"""A query that was not awaited says so where its result is expected."""

import copy
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, CacheQuery, ModelCache, ValueCache, cached
from aiomodelcache.query.attributes import ResultAttribute
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, User

pytestmark = [
    pytest.mark.models("tests.support.models.models"),
    pytest.mark.only_on("sqlite", because="no database is asked"),
]


class Length(ValueCache[int]):
    async def get_value(self, base: str) -> int:
        return len(base)


@cached()
async def double(number: int) -> int:
    return 2 * number


def queries() -> list[CacheQuery[Any]]:
    return [
        Event.cache.get(slug="pycon"),
        Event.cache.get_or_none(slug="pycon"),
        Event.cache.get_or_404(slug="pycon"),
        Event.cache.filter(organizer=1),
        Event.cache.exists(slug="pycon"),
        Event.cache.count(organizer=1),
        Event.cache.get_many([1]),
        Event.cache.in_bulk([1]),
        Length("USD"),
        double.query(7),
    ]


async def test_a_query_is_neither_true_nor_false(cache: ModelCache) -> None:
    for query in queries():
        with pytest.raises(TypeError) as caught:
            bool(query)
        assert str(caught.value) == f"{query!r} is a query, neither true nor false: await it."


async def test_a_query_has_no_attribute_of_its_result(cache: ModelCache) -> None:
    for query in queries():
        for name in ("title", "organizer", "organizer_id", "pk", "save", "username"):
            with pytest.raises(AttributeError) as caught:
                getattr(query, name)
            assert str(caught.value) == f"{query!r} is a query and has no attribute {name!r}: await it."
            assert not hasattr(query, name)
        with pytest.raises(AttributeError, match="object has no attribute 'unknown'"):
            query.unknown  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(AttributeError, match=r"^type object '\w+' has no attribute 'title'$"):
            type(query).title  # type: ignore[attr-defined]  # noqa: B018


async def test_a_query_keeps_attributes_of_its_own(cache: ModelCache) -> None:
    assert Event.cache.get(slug="pycon").kind == "get"
    assert not any(isinstance(vars(CacheQuery).get(name), ResultAttribute) for name in ("resolve", "explicit_cache"))


async def test_a_foreign_key_that_is_set_is_true_as_in_tortoise(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    organizer = await User.create(username="kim")
    event: Any = await Event.create(slug="pycon", organizer=organizer)
    event = await Event.cache.get(slug="pycon")
    assert event.organizer
    assert not event.venue
    with pytest.raises(AttributeError) as caught:
        event.organizer.username  # noqa: B018
    assert str(caught.value) == f"{event.organizer!r} is a query and has no attribute 'username': await it."
    assert await event.organizer.filter(username="lee") is None
    assert await event.organizer == organizer


async def test_queries_can_be_copied(cache: ModelCache, database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    organizer = await User.create(username="kim")
    await Event.create(slug="pycon", organizer=organizer)
    event: Any = await Event.cache.get(slug="pycon")
    await event.organizer
    for duplicate in (copy.copy, copy.deepcopy):
        async with assert_ops(backend, sql=0):
            assert await duplicate(event.organizer) == organizer
            assert await duplicate(Event.cache.get(slug="pycon")) == event
            batch = duplicate(BatchCacheQuery(event=Event.cache.get(slug="pycon"), organizer=event.organizer))
            assert await batch == {"event": event, "organizer": organizer}
        assert await duplicate(Length("USD")) == 3
        copied = duplicate(event)
        assert await copied.organizer == organizer
