"""Arguments of cached functions: a function that could tell two of them apart has a result for each."""

import datetime as dt
import enum
import itertools
import uuid
from decimal import Decimal
from typing import Any

import pytest

from aiomodelcache import InvalidationType, ModelCache, ValueCache, cached
from tests.support.models.result_models import Club, Member

pytestmark = [
    pytest.mark.models("tests.support.models.result_models"),
    pytest.mark.only_on("sqlite", because="a key depends on no database"),
    pytest.mark.only_on("memory", because="a key depends on no store"),
]


class Level(enum.IntEnum):
    LOW = 1


class Size(enum.Enum):
    SMALL = 1


def zone(hours: float) -> dt.timezone:
    return dt.timezone(dt.timedelta(hours=hours))


MOMENT = dt.datetime(2026, 1, 1, 23, tzinfo=dt.UTC)
SCALARS: list[Any] = [
    *[None, "None", "", b"", 0, 1, -1, 2**70, True, False, "1", b"1", "True"],
    *[0.0, -0.0, 1.0, 1e30, float("inf"), Decimal(1), Decimal("1.0"), Decimal("0.1")],
    *[Level.LOW, Size.SMALL, uuid.UUID(int=1), str(uuid.UUID(int=1)), "a:b", "a%3Ab", "é", "e\u0301"],
    *[MOMENT, MOMENT.astimezone(zone(0)), MOMENT.astimezone(zone(2)), MOMENT.astimezone(zone(-3.5))],
    *[MOMENT.replace(tzinfo=None), MOMENT.replace(tzinfo=zone(2)), str(MOMENT), MOMENT.date(), "2026-01-01"],
    *[dt.time(1), dt.time(1, tzinfo=dt.UTC), dt.time(1, tzinfo=zone(2)), dt.timedelta(hours=1), 3600],
]
ARGUMENTS: list[Any] = [
    *SCALARS,
    *[[], {}, set(), [[]], [None], {None}, {"a": 1}, {"a": True}, {1: "a"}, [("a", 1)], [1, "2"], ["1", 2], "1,2"],
    *[Club(id=1), Club(id=2), Member(id=1), ("app.Club", 1), ["app.Club", 1]],
    *[[each] for each in SCALARS],
    *[(each,) for each in SCALARS],
    *[{"a": each} for each in SCALARS],
    *[{each} for each in SCALARS],
    *[frozenset([(each, 1)]) for each in SCALARS],
    *[{each: 1} for each in SCALARS],
]


def told_apart(value: Any) -> Any:
    """Returns what differs for values that a result is stored for each: type, value, and the offset from UTC.

    Equal numbers of one type share a result, and so do a list and a tuple of the same items.
    """
    if isinstance(value, list | tuple):
        return "list", [told_apart(item) for item in value]
    if isinstance(value, set | frozenset):
        return "set", sorted([repr(told_apart(item)) for item in value])
    if isinstance(value, dict):
        return "dict", sorted([repr((told_apart(name), told_apart(item))) for name, item in value.items()])
    if isinstance(value, Club | Member):
        return type(value), value.pk
    if isinstance(value, Level):
        return int, int(value)
    if isinstance(value, dt.datetime | dt.time):
        return type(value), str(value), value.utcoffset()
    if isinstance(value, Decimal):
        return Decimal, str(value.normalize())
    return type(value), value + 0.0 if isinstance(value, float) else value


@cached(invalidation=InvalidationType.OFF, timeout=60)
async def function(argument: Any) -> None: ...


async def test_results_of_unlike_arguments_have_unlike_keys_and_those_of_like_ones_the_same(cache: ModelCache) -> None:
    keys = [(repr(told_apart(argument)), function.key(argument), argument) for argument in ARGUMENTS]
    wrong = [
        (one[2], other[2])
        for one, other in itertools.combinations(keys, 2)
        if (one[0] == other[0]) is not (one[1] == other[1])
    ]
    assert wrong == []


@cached
async def day_of(moment: dt.datetime) -> str:
    return f"{moment.date()} {await Club.all().count()}"


class DayOf(ValueCache[str]):
    async def get_value(self, moment: dt.datetime) -> str:
        return f"{moment.date()} {await Club.all().count()}"


@pytest.mark.parametrize("cached_day", [day_of, DayOf], ids=["function", "class"])
async def test_one_moment_in_two_time_zones_may_be_of_two_days(cached_day: Any, cache: ModelCache) -> None:
    for _ in range(2):
        assert await cached_day(MOMENT) == "2026-01-01 0"
        assert await cached_day(MOMENT.astimezone(zone(2))) == "2026-01-02 0"
