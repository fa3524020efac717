"""Statements of lookups whose text is made once, and sent again with other values."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.testing import count_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.models import Event, User, Venue

NUMBERS = range(1, 41)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend_url: str) -> AsyncIterator[ModelCache]:
    await User.bulk_create([User(id=n, username=f"user{n}", email=f"{n}@example.org", team=n % 4) for n in NUMBERS])
    await Venue.bulk_create([Venue(id=uuid.UUID(int=n), name=f"v{n}", city="Bonn") for n in NUMBERS])
    await Event.bulk_create([Event(id=n, slug=f"e{n}", title=f"E{n}", organizer_id=1 + n % 7) for n in NUMBERS])
    async with ModelCache(backend_url) as opened:
        yield opened


def schema_of(model: Any, cache: ModelCache) -> ModelSchema:
    return cache.open_cache.entries_of(model).schema


async def statement_of(query: Any) -> str:
    """Returns the only statement that a lookup sends."""
    with count_ops() as ops:
        await query
    [statement] = ops.statements
    return statement


async def test_a_text_is_made_once_for_each_number_of_values(cache: ModelCache, db_url: DatabaseUrl) -> None:
    texts = [
        await statement_of(Event.cache.get_many([f"e{n}" for n in range(first, first + count)], "slug"))
        for first, count in ((1, 5), (6, 8), (14, 7), (21, 2))
    ]
    assert texts[0] == texts[1] == texts[2]
    assert (texts[3] == texts[0]) is (db_url.dialect == "postgres")
    single = await statement_of(Event.cache.get(slug="e30"))
    assert single == await statement_of(Event.cache.get(slug="e31"))
    remembered = schema_of(Event, cache).remembered
    assert all(remembered.values())
    assert len(remembered) == (2 if db_url.dialect == "postgres" else 3)


async def test_the_text_of_a_single_value_is_the_one_of_tortoise(cache: ModelCache) -> None:
    mine = [await statement_of(Event.cache.get(id=number)) for number in (1, 2)]
    assert mine[0] == mine[1] == await statement_of(Event.filter(id=3))
    pairs = [await statement_of(Event.cache.get(organizer_id=1 + n % 7, title=f"E{n}")) for n in (4, 5)]
    assert pairs[0] == pairs[1] == await statement_of(Event.filter(organizer_id=1, title="E6"))


@pytest.mark.parametrize("count", [1, 2, 3, 17, 40])
async def test_rows_are_those_that_tortoise_finds(count: int, cache: ModelCache) -> None:
    numbers = list(NUMBERS)[:count]
    managers: list[tuple[Any, str, list[Any]]] = [
        (Event.cache, "slug", [f"e{n}" for n in numbers]),
        (User.cache, "id", numbers),
        (Venue.cache, "id", [uuid.UUID(int=n) for n in numbers]),  # type: ignore[attr-defined]
    ]
    for manager, field, values in managers:
        for _ in range(2):  # the text is made, and sent again
            await cache.clear_all()
            rows = await manager.get_many([*values, values[0]], field)
            assert [getattr(row, field) for row in rows] == values
            assert [vars(row) for row in rows] == [
                vars(row) for row in await type(rows[0]).filter(**{f"{field}__in": values}).order_by("id")
            ]
    lists = await User.cache.get_many([1, 2, 3], "team")
    assert [user.id for user in lists] == [n for team in (1, 2, 3) for n in NUMBERS if n % 4 == team]


async def test_statements_for_other_values_are_made_anew(cache: ModelCache) -> None:
    remembered = schema_of(Event, cache).remembered
    assert await Event.cache.filter(venue=None) != []
    assert remembered == {}
    assert await Event.cache.filter(venue=uuid.UUID(int=3)) == []
    assert len(remembered) == 1
