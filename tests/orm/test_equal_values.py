"""Values that Python holds to be equal and the database does not, or the other way round, are told apart by their keys.

In the hour that a clock repeats, Python ignores ``fold`` when it compares two moments of one zone, and holds moments of
two zones never to be equal. It compares times by their moment in UTC, and ``-0.0`` equals ``0.0``.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from aiomodelcache import BatchCacheQuery, ModelCache, local_cache
from aiomodelcache.orm.key_values import distinct, same_value
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.moment_models import SeenCount, Shift, ShiftOfVisit, Sight, Tag, Tide, Visit, VisitsOfShift

BERLIN = ZoneInfo("Europe/Berlin")
FIRST = dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
"""Half past two, before the clock is put back."""
SECOND = FIRST.replace(fold=1)
"""Half past two, an hour later."""
LATER = dt.datetime(2026, 10, 25, 12, 30, tzinfo=BERLIN)
MOMENTS = [FIRST, SECOND, LATER]

pytestmark = [
    pytest.mark.models("tests.support.models.moment_models"),
    pytest.mark.only_on("sqlite", "postgres", because="MySQL stores local times without their offset from UTC"),
]


@pytest.fixture
async def database(db_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    """The database, opened by an application whose zone has a summer time."""
    EXECUTOR_CACHE.clear()
    config = {
        "connections": {db_url.dialect: str(db_url)},
        "apps": {
            "app": {"models": ["tests.support.models.moment_models"], "default_connection": db_url.dialect},
        },
    }
    async with TortoiseContext() as context:
        await context.init(config=config, use_tz=True, timezone="Europe/Berlin")
        yield context.connections.get(db_url.dialect)


def test_python_compares_the_values_of_these_tests_otherwise() -> None:
    assert FIRST == SECOND
    assert hash(FIRST) == hash(SECOND)
    assert FIRST.timestamp() != SECOND.timestamp()
    assert FIRST.astimezone(dt.UTC) != FIRST
    assert dt.time(12, tzinfo=dt.UTC) == dt.time(14, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert not same_value(FIRST, SECOND)
    assert same_value(Decimal("1.0"), Decimal("1.00"))
    assert same_value(1, Decimal(1))
    assert distinct([1, 1, FIRST, SECOND, FIRST]) == [1, FIRST, SECOND]
    assert len(distinct([object, object])) == 1


async def both(lookup: Any, backend: CountingBackend) -> Any:
    """Returns the answer of a lookup, which must be the same from the cache."""
    first = await lookup
    async with assert_ops(backend, sql=0):
        assert await lookup == first
    async with local_cache():
        assert await lookup == first
    return first


async def test_moments_in_the_repeated_hour_are_two_primary_keys(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    shifts = [await Shift.create(start=moment, name=f"{number}") for number, moment in enumerate(MOMENTS)]
    names = ["0", "1", "2"]
    assert [shift.name for shift in await asyncio.gather(*[Shift.cache.get(start=at) for at in MOMENTS])] == names
    await Shift.cache.clear()
    for moment, name in zip(MOMENTS, names, strict=True):
        for spelling in (moment, moment.astimezone(dt.UTC), moment.astimezone(ZoneInfo("America/New_York"))):
            assert (await both(Shift.cache.get(start=spelling), backend)).name == name
    await Shift.cache.clear()
    assert [shift.name for shift in await both(Shift.cache.get_many(MOMENTS), backend)] == names
    batch = BatchCacheQuery({name: Shift.cache.get(pk=at) for name, at in zip(names, MOMENTS, strict=True)})
    assert {name: shift.name for name, shift in (await batch).items()} == {name: name for name in names}
    shifts[1].name = "changed"
    await shifts[1].save()
    assert [(await Shift.cache.get(pk=at)).name for at in MOMENTS] == ["0", "changed", "2"]
    assert await Shift.cache.invalidate(MOMENTS) == 3
    await shifts[0].delete()
    assert [await Shift.cache.exists(pk=at) for at in MOMENTS] == [False, True, True]
    assert await Shift.cache.invalidate(MOMENTS) == 2
    assert (await Shift.cache.explain(start=SECOND)).reason == "missing"
    await Shift.cache.get(start=SECOND)
    assert (await Shift.cache.explain(start=SECOND)).reason == "hit"


async def test_moments_in_the_repeated_hour_are_two_keys_of_indexes(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    visits = [await Visit.create(at=at, seen=at) for at in MOMENTS]
    pks = [visit.pk for visit in visits]
    found = await asyncio.gather(*[Visit.cache.get(at=at) for at in MOMENTS])
    assert [visit.pk for visit in found] == pks
    lists = await asyncio.gather(*[Visit.cache.filter(seen=at) for at in MOMENTS])
    assert [[visit.pk for visit in rows] for rows in lists] == [[pk] for pk in pks]
    await Visit.cache.clear()
    for at, pk in zip(MOMENTS, pks, strict=True):
        for spelling in (at, at.astimezone(dt.UTC)):
            assert (await both(Visit.cache.get(at=spelling), backend)).pk == pk
            assert [visit.pk for visit in await both(Visit.cache.filter(seen=spelling), backend)] == [pk]
            assert await both(Visit.cache.count(seen=spelling), backend) == 1
            assert await both(SeenCount(spelling), backend) == 1
    assert [visit.pk for visit in await both(Visit.cache.get_many(MOMENTS, key="at"), backend)] == pks
    assert cache.stats.of("Visit(at)").repaired == cache.stats.of("Visit(seen)").repaired == 0

    visits[0].seen = SECOND  # equal to Python
    await visits[0].save(update_fields=["seen"])
    assert await Visit.cache.filter(seen=FIRST) == []
    assert {visit.pk for visit in await Visit.cache.filter(seen=SECOND)} == set(pks[:2])
    assert [await SeenCount(at) for at in MOMENTS] == [0, 2, 1]
    await Visit.filter(seen=SECOND).update(seen=LATER)
    assert [await Visit.cache.count(seen=at) for at in MOMENTS] == [0, 0, 3]
    await Visit.bulk_create([Visit(at=at, seen=at) for at in MOMENTS], on_conflict=["at"], update_fields=["seen"])
    assert [[visit.pk for visit in await Visit.cache.filter(seen=at)] for at in MOMENTS] == [[pk] for pk in pks]


async def test_relations_to_moments_in_the_repeated_hour(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    shifts = [await Shift.create(start=at, name=f"{number}") for number, at in enumerate(MOMENTS)]
    visits = [await Visit.create(at=shift.start, seen=shift.start, shift=shift) for shift in shifts]
    tags = [await Tag.create() for _ in shifts]
    for shift, tag in zip(shifts, tags, strict=True):
        await shift.tags.add(tag)
    for _ in range(2):
        rows: list[Any] = await Visit.cache.get_many([visit.pk for visit in visits])
        await Visit.cache.prefetch(rows, "shift__tags")
        assert [row.shift.name for row in rows] == ["0", "1", "2"]
        assert [[tag.pk for tag in row.shift.tags] for row in rows] == [[tag.pk] for tag in tags]
        await Visit.cache.prefetch(rows, "shift")
        for visit, tag, name in zip(visits, tags, ["0", "1", "2"], strict=True):
            row: Any = await Visit.cache.get(at=visit.at)
            assert (await row.shift).name == name
            assert (await ShiftOfVisit(visit.at)).name == name
            assert [row.pk for row in await VisitsOfShift(visit.at)] == [visit.pk]
            shift = await Shift.cache.get(start=visit.at)
            assert [tag.pk for tag in await shift.tags] == [tag.pk]
    rows = await Visit.cache.get_many([visit.pk for visit in visits])
    with pytest.raises(ValueError, match="refers to another Shift"):
        Visit.cache.set_related(rows[0], "shift", shifts[1])
    Visit.cache.set_related(rows[0], "shift", shifts[0])
    await Shift.filter(name__in=["0", "1"]).delete()
    assert [await Visit.cache.exists(at=at) for at in MOMENTS] == [False, False, True]
    assert [await VisitsOfShift(at) for at in MOMENTS] == [[], [], [visits[2]]]


async def test_a_delete_cascades_to_rows_that_python_holds_to_be_equal(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    first = await Visit.create(at=FIRST, seen=FIRST)
    second = await Visit.create(at=SECOND, seen=SECOND)
    others = [
        await Visit.create(at=LATER + dt.timedelta(hours=number), seen=LATER, follows=visit)
        for number, visit in enumerate((first, second))
    ]
    pks = [other.pk for other in others]
    assert [row.pk for row in await Visit.cache.get_many(pks)] == pks
    rows: list[Any] = await Visit.cache.get_many(pks)
    await Visit.cache.prefetch(rows, "follows")
    assert [row.follows.pk for row in rows] == [first.pk, second.pk]
    await Visit.filter(at__in=[FIRST, SECOND]).delete()
    assert await Visit.cache.get_many(pks) == await Visit.filter(pk__in=pks) == []


async def test_numbers_that_are_stored_as_text_are_told_apart(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    plus = await Sight.create(spelled=0.0, ratio=0.0)
    minus = await Sight.create(spelled=-0.0, ratio=-0.0)
    nan = await Sight.create(spelled=float("nan"))
    values = [0.0, -0.0, float("nan")]
    pks = [plus.pk, minus.pk, nan.pk]
    found = await asyncio.gather(*[Sight.cache.get(spelled=value) for value in values])
    assert [sight.pk for sight in found] == pks
    assert [sight.pk for sight in await both(Sight.cache.get_many(values, key="spelled"), backend)] == pks
    for value, pk in zip(values, pks, strict=True):
        assert (await both(Sight.cache.get(spelled=value), backend)).pk == pk
    minus.spelled = 1.5
    await minus.save()
    assert await Sight.cache.get_or_none(spelled=-0.0) is None
    assert (await Sight.cache.get(spelled=0.0)).pk == plus.pk
    for value in (0.0, -0.0):  # a column of floats holds them to be equal
        assert [sight.pk for sight in await both(Sight.cache.filter(ratio=value), backend)] == pks


async def test_values_without_a_hash_are_keys(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Sight.create(spelled=1.0, words=["a", "b"])
    other = await Sight.create(spelled=2.0, words=["b"])
    for words, expected in ((["a", "b"], [row]), ("b", [other]), (["c"], [])):
        assert await both(Sight.cache.filter(words=words), backend) == expected
    assert await asyncio.gather(*[Sight.cache.filter(words=words) for words in (["a", "b"], ["b"])]) == [[row], [other]]
    other.words = ["a", "b"]
    await other.save()
    assert await Sight.cache.filter(words=["a", "b"]) == [row, other]
    assert await Sight.cache.filter(words=["b"]) == []


@pytest.mark.only_on("postgres", because="the others have no column type for a time with an offset")
async def test_one_time_with_two_offsets_is_two_keys(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    times = [dt.time(12, tzinfo=dt.UTC), dt.time(14, tzinfo=dt.timezone(dt.timedelta(hours=2)))]
    rows = [await Tide.create(high=time, low=time) for time in times]
    pks = [row.pk for row in rows]
    found = await asyncio.gather(*[Tide.cache.get(high=time) for time in times])
    assert [tide.pk for tide in found] == pks
    assert [tide.pk for tide in await both(Tide.cache.get_many(times, key="high"), backend)] == pks
    for time, pk in zip(times, pks, strict=True):
        assert (await both(Tide.cache.get(high=time), backend)).pk == pk
        assert [tide.pk for tide in await both(Tide.cache.filter(low=time), backend)] == [pk]
    rows[0].low = times[1]
    await rows[0].save()
    assert await Tide.cache.filter(low=times[0]) == []
    assert [tide.pk for tide in await Tide.cache.filter(low=times[1])] == pks
