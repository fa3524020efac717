"""With a loose collation ("PYCON" equals "pycon", the default of MySQL), the cache answers as the database does."""

import uuid
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.field_models import Colour, Loose, LooseById, LooseKept, Mood, Point
from tests.support.servers import mysql

pytestmark = pytest.mark.models("tests.support.models.field_models")

SPELLINGS = ["pycon", "PYCON", "PyCon ", "pycon  ", "pýcon", "pycon2"]


def is_loose(database: BaseDBAsyncClient) -> bool:
    return database.capabilities.dialect == "mysql"


def pk_of(row: Any) -> Any:
    return row and row.pk


async def test_other_spellings_get_the_answer_of_the_database_and_are_not_stored(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Loose.create(slug="pycon")
    expected = {slug: pk_of(await Loose.get_or_none(slug=slug)) for slug in SPELLINGS}
    loose = 3 if mysql.IS_USED else 5  # MySQL's default collation does not ignore trailing spaces
    assert sum(pk is not None for pk in expected.values()) == (loose if is_loose(database) else 1)
    for spelling, pk in expected.items():
        unfillable = cache.stats.of("Loose(slug)").unfillable
        for _ in range(2):
            assert pk_of(await Loose.cache.get_or_none(slug=spelling)) == pk, spelling
        stored = spelling == "pycon" or not is_loose(database)
        async with assert_ops(backend, sql=0 if stored else 1):
            assert pk_of(await Loose.cache.get_or_none(slug=spelling)) == pk, spelling
        assert cache.stats.of("Loose(slug)").unfillable == unfillable + (0 if stored else 3), spelling

    several = await Loose.cache.in_bulk([*SPELLINGS, "absent"], key="slug")
    assert {slug: row.pk for slug, row in several.items()} == {slug: pk for slug, pk in expected.items() if pk}

    row.slug = "PYCON"
    await row.save()
    for spelling in SPELLINGS:
        assert pk_of(await Loose.cache.get_or_none(slug=spelling)) == pk_of(await Loose.get_or_none(slug=spelling)), (
            spelling
        )
    assert (await Loose.cache.get(slug="PYCON")).slug == "PYCON"
    await row.delete()
    for spelling in SPELLINGS:
        assert await Loose.cache.get_or_none(slug=spelling) is None


async def test_a_create_in_another_spelling_ends_an_absence(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    for _ in range(2):
        assert await Loose.cache.get_or_none(slug="PYCON") is None
        assert await LooseById.cache.get_or_none(slug="PYCON") is None
    async with assert_ops(backend, sql=2 if is_loose(database) else 0):
        assert await Loose.cache.get_or_none(slug="PYCON") is None
        assert await LooseById.cache.get_or_none(slug="PYCON") is None
    row = await Loose.create(slug="pycon")
    by_id = await LooseById.create(slug="pycon")
    assert await Loose.cache.get_or_none(slug="PYCON") == (row if is_loose(database) else None)
    assert await LooseById.cache.get_or_none(slug="PYCON") == (by_id if is_loose(database) else None)


async def test_an_absence_is_stored_if_the_class_asks_for_it(cache: ModelCache, backend: CountingBackend) -> None:
    assert await LooseKept.cache.get_or_none(slug="pycon") is None
    async with assert_ops(backend, sql=0):
        assert await LooseKept.cache.get_or_none(slug="pycon") is None
    row = await LooseKept.create(slug="pycon")
    assert await LooseKept.cache.get_or_none(slug="pycon") == row


async def test_a_primary_key_in_another_spelling_gets_the_answer_of_the_database(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await LooseById.create(slug="pycon", size=1)
    await LooseById.cache.get(slug="pycon")
    for _ in range(2):
        for spelling in SPELLINGS:
            expected = await LooseById.get_or_none(slug=spelling)
            found = await LooseById.cache.get_or_none(slug=spelling)
            assert pk_of(found) == pk_of(expected)
    row.size = 2
    await row.save()
    for spelling in SPELLINGS:
        expected = await LooseById.get_or_none(slug=spelling)
        found = await LooseById.cache.get_or_none(pk=spelling)
        assert (found and found.size) == (expected and expected.size)
    several = await LooseById.cache.in_bulk(SPELLINGS)
    singly = {spelling: await LooseById.get_or_none(slug=spelling) for spelling in SPELLINGS}
    assert several == {spelling: row for spelling, row in singly.items() if row is not None}
    async with assert_ops(backend, sql=0):
        assert (await LooseById.cache.get(slug="pycon")).size == 2


async def test_lists_by_text_are_not_stored_under_a_loose_collation(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    first = await Loose.create(slug="1", group="a")
    second = await Loose.create(slug="2", group="A")

    async def check() -> None:
        for group in ("a", "A", "b"):
            expected = await Loose.filter(group=group)
            for _ in range(2):
                assert await Loose.cache.filter(group=group) == expected
            assert await Loose.cache.count(group=group) == len(expected)
            assert await Loose.cache.exists(group=group) == bool(expected)
            async with assert_ops(backend, sql=1 if is_loose(database) else 0):
                assert await Loose.cache.filter(group=group) == expected

    await check()
    second.group = "B"
    await second.save()
    await check()
    first.group = "A"
    await first.save()
    await check()
    await Loose.create(slug="3", group="b")
    await check()
    assert (cache.stats.of("Loose(group)").unfillable > 0) == is_loose(database)


async def test_values_with_a_single_spelling_are_cached_on_every_database(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    """Enums whose members differ under every collation and UUIDs are cached; text of other classes is not."""
    key = uuid.uuid4()
    row = await Loose.create(slug="pycon", mood=Mood.BAD, colour=Colour.GREEN, point=Point(1, 2), key=key)
    for filters, loose in (
        ({"mood": "bad"}, False),
        ({"mood": Mood.GOOD}, False),
        ({"key": str(key).upper()}, False),
        ({"key": uuid.uuid4()}, False),
        ({"colour": Colour.GREEN}, True),  # a collation may treat ü and u as equal
        ({"point": Point(1, 2)}, True),
    ):
        expected = await Loose.filter(
            **{**filters, **({"key": uuid.UUID(str(filters["key"]))} if "key" in filters else {})}
        )
        assert await Loose.cache.filter(**filters) == expected
        async with assert_ops(backend, sql=1 if loose and is_loose(database) else 0):
            assert await Loose.cache.filter(**filters) == expected
    assert await Loose.cache.get_or_none(key=uuid.UUID(int=0)) is None
    async with assert_ops(backend, sql=0):
        assert await Loose.cache.get_or_none(key=uuid.UUID(int=0)) is None
    row.key = uuid.UUID(int=0)
    row.mood = Mood.GOOD
    await row.save()
    assert await Loose.cache.get_or_none(key=uuid.UUID(int=0)) == row
    assert await Loose.cache.filter(mood=Mood.GOOD) == [row]
    assert await Loose.cache.filter(mood=Mood.BAD) == []
