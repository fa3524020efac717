"""Values that no row can have, or that only the database compares as equal, get the answer of the database."""

import traceback
from decimal import Decimal
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, IntegrityError, MultipleObjectsReturned
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheNotRegistered, ModelCache, NotFoundError
from aiomodelcache.orm.key_values import can_hold
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.odd_models import Coin, Draft, HasParts, Part, PartCount

pytestmark = pytest.mark.models("tests.support.models.odd_models")

BEYOND_64_BITS = [2**64, -(2**64) - 1, 10**30, 10**5_000]
UNHELD: dict[str, list[Any]] = {
    "id": [None, *BEYOND_64_BITS],
    "slug": ["\ud800", "a\udfffb"],
    "note": ["\ud800"],
    "price": [Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity"), float("inf")],
    "small": BEYOND_64_BITS,
    "big": BEYOND_64_BITS,
    "maker": BEYOND_64_BITS,
}
"""Values that no database holds, by field. Drivers refuse most of them."""
UNHELD_BY: dict[str, dict[str, list[Any]]] = {
    "sqlite": {"big": [2**63, -(2**63) - 1], "id": [2**63], "price": [Decimal("NaN")]},
    "postgres": {
        "id": [2**31, -(2**31) - 1],
        "maker": [2**31],
        "small": [2**15, -(2**15) - 1],
        "big": [2**63],
        "slug": ["a\0b"],
        "note": ["\0"],
        "price": [Decimal("1E+200000"), Decimal("1E-200000")],
    },
    "mysql": {"price": [Decimal("NaN"), Decimal("1E+40000")], "ratio": [float("nan"), float("inf")]},
}
"""Those that one database, by its dialect, does not hold."""


def unheld(database: BaseDBAsyncClient) -> list[tuple[str, Any]]:
    fields = [*UNHELD.items(), *UNHELD_BY[database.capabilities.dialect].items()]
    return [(field, value) for field, values in fields for value in values]


async def look_up(field: str, value: Any) -> Any:
    if field in ("id", "slug"):
        return await Part.cache.get_or_none(**{field: value})
    return await Part.cache.filter(**{field: value})


async def test_a_value_that_no_row_can_have_finds_none_and_asks_no_database(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Part.create(slug="a", note="a")
    for field, value in unheld(database):
        where = f"{field}={type(value).__name__}"
        async with assert_ops(backend, sql=0):
            for _ in range(2):
                assert not await look_up(field, value), where
            assert await Part.cache.count(**{field: value}) == 0, where
            assert await Part.cache.exists(**{field: value}) is False, where
            async with cache.disabled():
                assert not await look_up(field, value), where
        async with in_transaction():
            assert not await look_up(field, value), where
        if field in ("id", "slug"):
            with pytest.raises(DoesNotExist):
                await Part.cache.get(**{field: value})
            with pytest.raises(NotFoundError):
                await Part.cache.get_or_404(**{field: value})
            assert await Part.cache.get_many([value, getattr(row, field)], key=field) == [row], where
        assert await Part.cache.invalidate(**{field: value}) == 0, where
    for value in UNHELD["small"]:
        assert (await HasParts(value), await PartCount(value)) == (False, 0)
    assert await Part.cache.invalidate([row, 2**70]) == 1


async def test_a_value_that_the_column_just_holds_is_looked_up(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    values = {"id": 2**31 - 1, "small": -(2**15), "big": -(2**63), "slug": "\U0010ffff", "ratio": 1e308}
    row = await Part.create(**values)
    for field, value in values.items():
        assert await look_up(field, value) in (row, [row]), field


async def test_one_impossible_value_does_not_disturb_the_lookups_beside_it(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    rows = [await Part.create(slug=str(number)) for number in range(3)]
    queries: dict[Any, Any] = {row.pk: Part.cache.get(id=row.pk) for row in rows}
    async with assert_ops(backend, sql=1):
        found = await BatchCacheQuery({**queries, "none": Part.cache.get_or_none(id=2**80)}).get()
    assert found == {**{row.pk: row for row in rows}, "none": None}


@pytest.mark.only_on("sqlite", because="the values are judged before a database is asked")
async def test_values_are_judged_in_the_form_that_is_sent(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    fields: Any = Part._meta.fields_map
    assert can_hold(fields["slug"], "postgres", None)  # a column that was declared without NULL may yet hold it
    assert not can_hold(fields["id"], "postgres", None)
    assert can_hold(fields["price"], "postgres", Decimal("NaN"))
    assert can_hold(fields["ratio"], "postgres", float("nan"))
    assert can_hold(fields["note"], "mysql", "\0")
    assert can_hold(fields["price"], "sqlite", Decimal("1E+400"))


FLOATS = [1.1, 0.1 + 0.2, 0.3, 2.675, -1.1, 0.0, -0.0, 1e-20]


async def test_a_decimal_key_given_as_a_float_finds_what_the_database_finds(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    """SQLite compares decimals as floats, so ``1.1`` finds 1.10 there, and nothing elsewhere."""

    async def check() -> None:
        for value in [*FLOATS, *map(Decimal, FLOATS), *map(str, FLOATS)]:
            expected = await Part.filter(price=value).order_by("id")
            for _ in range(2):
                assert await Part.cache.filter(price=value) == expected, repr(value)

    await check()
    for number, value in enumerate(["1.10", "0.30", "2.68", "-1.10", "0.00", "-0.00"]):
        row = await Part.create(slug=str(number), price=Decimal(value))
        await check()
    row.price = Decimal("1.10")
    await row.save()
    await check()
    await Part.filter(price=Decimal("0.30")).update(price=Decimal("1.10"))
    await check()
    await row.delete()
    await check()
    async with assert_ops(backend, sql=0):
        assert len(await Part.cache.filter(price=Decimal("1.1"))) == 2


async def test_equal_decimals_in_a_unique_column(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    """SQLite stores decimals as text, so that its constraint allows 1.1 beside 1.10, and a lookup finds both."""
    await Coin.create(value=Decimal("1.1"))
    other = await Coin.create(value=Decimal("2.0"))
    assert (await Coin.cache.get(value=Decimal("1.10"))).value == Decimal("1.10")
    if database.capabilities.dialect != "sqlite":
        with pytest.raises(IntegrityError):
            await Coin.filter(pk=other.pk).update(value=Decimal("1.1"))
        return
    await Coin.filter(pk=other.pk).update(value=Decimal("1.1"))
    for _ in range(2):
        with pytest.raises(MultipleObjectsReturned):
            await Coin.cache.get(value=Decimal("1.1"))
    with pytest.raises(CacheNotRegistered, match=r"^Coin: several rows may share \(value\)"):
        await Coin.cache.in_bulk([Decimal("1.1")], key="value")


async def test_decimals_of_more_digits_than_a_float_get_the_answer_of_the_database(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    near = [Decimal("0.1"), Decimal("0.10000000000000001"), Decimal("0.12345678901234567")]

    async def check() -> None:
        for value in near:
            for _ in range(2):
                assert await Part.cache.filter(exact=value) == await Part.filter(exact=value)

    await check()
    for number, value in enumerate(near):
        await Part.create(slug=str(number), exact=value)
        await check()


@pytest.mark.only_on("sqlite", because="uniqueness is declared, and tables made by Tortoise lack the constraint")
async def test_a_conditional_constraint_makes_no_key_unique(cache: ModelCache, backend: CountingBackend) -> None:
    first = await Draft.create(number=1)
    assert await Draft.cache.get(number=1) == first
    second = await Draft.create(number=1)
    for _ in range(2):
        with pytest.raises(MultipleObjectsReturned):
            await Draft.cache.get(number=1)
        assert await Draft.cache.count(number=1) == 2
    await second.delete()
    assert await Draft.cache.get(number=1) == first


@pytest.mark.only_on("sqlite", because="the messages are made before a database is asked")
async def test_a_large_value_makes_a_short_message(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    large = "x" * 1_000_000
    part = await Part.create(slug="a")
    calls: list[Any] = [
        lambda: Part.cache.get(slug=large),
        lambda: Part.cache.get(id=large),
        lambda: Part.cache.filter(price=large),
        lambda: Part.cache.get_many([large], key="slug"),
        lambda: Part.cache.get_many([(large,)], key=("slug",)),
        lambda: Part.cache.invalidate(slug=large),
        lambda: Part.cache.update(part, slug=large),
        lambda: Part.cache.update(part, price=large),
        lambda: PartCount(large),
        lambda: Part.cache.prefetch([large], "maker"),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError)) as caught:
            await call()
        text = "".join(traceback.format_exception(caught.value))
        assert len(str(caught.value)) < 500
        assert "x" * 100 not in text
        assert str(caught.value).startswith(("Part.", "PartCount"))
    with pytest.raises(TypeError, match=r"^Part: get_many and in_bulk take a list of values; got <str>") as caught:
        Part.cache.get_many(large)
    assert len(str(caught.value)) < 500
    for query in (Part.cache.get(slug=large), Part.cache.get_many([large]), PartCount(large)):
        assert len(repr(query)) < 200
