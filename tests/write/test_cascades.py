"""Cascades of the database: exactly the rows that they delete or change are invalidated, and nothing stays stale."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.gates import Outside, awaited, gated_sql, until_it_waits
from tests.support.models.cascade_models import (
    Audit,
    Department,
    Desk,
    Firm,
    House,
    Licence,
    Offer,
    Rumour,
    Seal,
    Shop,
    Street,
)
from tests.support.models.default_models import Box, Toy
from tests.support.oracle import Oracle
from tests.support.servers import mysql

pytestmark = pytest.mark.models("tests.support.models.cascade_models")

few_tables = mysql.unfit("opens no more than 30 tables for a cascade, those of a tree or a circle several times")
CACHED: list[type[Model]] = [Firm, Licence, Seal, Offer, Desk, Rumour, Audit]
Delete = Callable[[Model], Awaitable[Any]]


async def one(row: Model) -> None:
    await row.delete()


async def bulk(row: Model) -> None:
    await type(row).filter(pk=row.pk).delete()


async def one_in_transaction(row: Model) -> None:
    async with in_transaction() as connection:
        await row.delete(using_db=connection)


async def bulk_in_transaction(row: Model) -> None:
    async with in_transaction() as connection:
        await type(row).filter(pk=row.pk).using_db(connection).delete()


async def bulk_in_savepoint(row: Model) -> None:
    async with in_transaction(), in_transaction():
        await type(row).filter(pk=row.pk).delete()


every_way = pytest.mark.parametrize(
    "delete", [one, bulk, one_in_transaction, bulk_in_transaction, bulk_in_savepoint], ids=lambda way: way.__name__
)
one_and_bulk = pytest.mark.parametrize("delete", [one, bulk], ids=lambda way: way.__name__)


async def populate() -> None:
    """Writes six firms and the rows that refer to them. Rows of a firm have its number.

    Firm 1 is the parent of firms 2 and 6, firm 2 is the parent of firm 3. Firm 4 has partner 1, firm 6 has partner 5.
    """
    heads, partners = {2: 1, 3: 2, 6: 1}, {4: 1, 6: 5}
    for n in range(1, 7):
        await Firm.create(id=n, number=n * 100, parent_id=heads.get(n), partner_id=partners.get(n))
    await Licence.bulk_create([Licence(id=n, firm_id=n * 100) for n in (1, 3, 5)])
    await Seal.bulk_create([Seal(firm_id=n, colour=n % 2) for n in (2, 3, 5)])
    await QuerySet(Department).bulk_create([Department(id=n, firm_id=n) for n in (3, 5)])
    await Desk.bulk_create([Desk(id=10 * n + m, department_id=n) for n in (3, 5) for m in range(2)])
    await QuerySet(Shop).bulk_create([Shop(id=n, name=str(n)) for n in (1, 2)])
    made = [(1, 1, 1), (2, 2, 5), (3, 5, 5), (4, 3, 1), (5, 4, None)]
    await Offer.bulk_create(
        [Offer(id=n, shop_id=1 + n % 2, maker_id=maker, seller_id=seller, state=n % 2) for n, maker, seller in made]
    )
    await Rumour.bulk_create([Rumour(id=n, firm_id=n) for n in (1, 5)])


async def rows_of(model: type[Model]) -> dict[Any, dict[str, Any]]:
    rows: Any = await QuerySet(model).values(*meta_of(model).fields_db_projection)
    return {row[meta_of(model).pk_attr]: row for row in rows}


async def assert_exact(cache: ModelCache, models: Sequence[type[Model]], write: Callable[[], Awaitable[Any]]) -> None:
    """Asserts that exactly the rows that the write changed or deleted are invalidated."""
    oracle = Oracle(cache, *models)
    await oracle.warm()
    before = {model: await rows_of(model) for model in models}
    await write()
    touched = 0
    for model, rows in before.items():
        now = await rows_of(model)
        changed = {pk for pk, row in rows.items() if now.get(pk) != row}
        assert await oracle.invalidated(model) == changed, model.__name__
        touched += len(changed)
    assert touched
    await oracle.check()


@few_tables
@every_way
async def test_deleting_the_root_of_a_tree_invalidates_all_its_descendants_and_their_rows(
    cache: ModelCache, delete: Delete
) -> None:
    await populate()
    firm = await Firm.get(id=1)
    await assert_exact(cache, CACHED, lambda: delete(firm))
    assert {row.id for row in await QuerySet(Firm)} == {4, 5}
    assert await Offer.cache.count(maker=None, seller=None) == 2, "both foreign keys of two offers are set to NULL"
    assert await Offer.cache.count(maker=None, seller=5) == 1
    assert await Offer.cache.count(maker=None, state=1) == 1
    assert await Desk.cache.filter(department=3) == []
    assert await Licence.cache.get_or_none(firm=100) is None


@one_and_bulk
async def test_a_cascade_through_models_without_a_cache_invalidates_the_cached_children(
    cache: ModelCache, delete: Delete
) -> None:
    await populate()
    for parent in (await Shop.get(id=1), await Department.get(id=3), await Shop.get(id=2)):
        await assert_exact(cache, CACHED, lambda parent=parent: delete(parent))
    assert await Offer.cache.filter(shop=1) == []


@few_tables
@one_and_bulk
async def test_a_cascade_along_circular_references_invalidates_all_rows_of_the_circle(
    cache: ModelCache, db_url: DatabaseUrl, delete: Delete
) -> None:
    await populate()
    await Firm.filter(id=4).update(parent_id=5, partner_id=4)
    await Firm.filter(id=5).update(parent_id=4)
    await Firm.filter(id=6).update(parent_id=6, partner_id=6)
    for firm in (await Firm.get(id=4), await Firm.get(id=6)):
        await assert_exact(cache, CACHED, lambda firm=firm: delete(firm))
    assert {row.id for row in await QuerySet(Firm)} == {1, 2, 3}


@one_and_bulk
async def test_a_cascade_by_a_unique_field_follows_the_stored_value_and_not_the_instance(
    cache: ModelCache, delete: Delete
) -> None:
    await populate()
    firm = await Firm.get(id=5)
    firm.number = 12345  # not saved, so the row still has 500
    await assert_exact(cache, CACHED, lambda: delete(firm))
    assert await Licence.cache.get_or_none(firm=500) is None
    partial = await Firm.all().only("id").get(id=3)
    await assert_exact(cache, CACHED, lambda: delete(partial))
    assert await Licence.cache.get_or_none(firm=300) is None


@every_way
async def test_a_refused_delete_invalidates_nothing(cache: ModelCache, db_url: DatabaseUrl, delete: Delete) -> None:
    await populate()
    await Audit.create(id=1, firm_id=2)
    oracle = Oracle(cache, *CACHED)
    await oracle.warm()
    with pytest.raises(IntegrityError):
        await delete(await Firm.get(id=1))
    for model in CACHED:  # on MariaDB a rollback clears the keys
        assert await oracle.invalidated(model) == set() or db_url.dialect == "mariadb", model.__name__
    assert await QuerySet(Firm).count() == 6
    await oracle.check()


@pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
@one_and_bulk
async def test_a_rolled_back_delete_invalidates_nothing(cache: ModelCache, delete: Delete) -> None:
    await populate()
    oracle = Oracle(cache, *CACHED)
    await oracle.warm()
    with suppress(ZeroDivisionError):
        async with in_transaction():
            await delete(await Firm.get(id=1))
            assert await Firm.cache.get_or_none(number=300) is None
            raise ZeroDivisionError
    for model in CACHED:
        assert await oracle.invalidated(model) == set(), model.__name__
    await oracle.check()


@one_and_bulk
async def test_a_reference_without_a_database_constraint_is_not_invalidated(
    cache: ModelCache, backend: CountingBackend, delete: Delete
) -> None:
    await populate()
    oracle = Oracle(cache, *CACHED)
    await oracle.warm()
    await delete(await Firm.get(id=5))
    assert await oracle.invalidated(Rumour) == set()
    assert [rumour.id for rumour in await Rumour.cache.filter(firm=5)] == [5]


@one_and_bulk
async def test_deleting_a_row_that_no_longer_exists_invalidates_nothing(cache: ModelCache, delete: Delete) -> None:
    await populate()
    shop = await Shop.get(id=1)
    await QuerySet(Shop).filter(id=1).delete()
    await cache.clear_all()
    oracle = Oracle(cache, *CACHED)
    await oracle.warm()
    with suppress(Exception):
        await delete(shop)
    for model in CACHED:
        assert await oracle.invalidated(model) == set(), model.__name__
    await oracle.check()


@few_tables
async def test_rows_that_a_delete_will_cascade_to_are_locked_until_it_ends(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient, outside: Outside
) -> None:
    """No writer can add a child between the SELECT of the affected rows and the DELETE."""
    await populate()

    async def race() -> None:
        async with in_transaction(again.connection_name) as client:
            with gated_sql(client) as sql:
                gate = sql.hold("DELETE")
                deleting = asyncio.create_task(awaited(Firm.filter(id=1).using_db(client).delete()))
                await gate.reached()
                async with assert_ops() as ops:
                    adding = outside(awaited(Firm.bulk_create([Firm(id=7, number=700, parent_id=3)])))
                    await until_it_waits(database, ops)
                gate.open()
                await deleting
        with pytest.raises(IntegrityError):
            await adding

    await assert_exact(cache, CACHED, race)


@pytest.mark.models("tests.support.models.default_models")
@pytest.mark.only_on("sqlite", "postgres", because="MySQL has no ON DELETE SET DEFAULT")
@one_and_bulk
async def test_a_cascade_that_sets_foreign_keys_to_their_default_invalidates_the_rows(
    cache: ModelCache, delete: Delete
) -> None:
    for n in range(1, 4):
        await Box.create(id=n)
    await Toy.bulk_create([Toy(id=n, box_id=n, spare_id=3) for n in range(1, 4)])
    oracle = Oracle(cache, Box, Toy)
    await oracle.warm(spare_id=[None, 1])
    await delete(await Box.get(id=2))  # the default of `box` is known
    assert await oracle.invalidated(Toy) == {2}
    assert [toy.id for toy in await Toy.cache.filter(box=1)] == [1, 2]
    await oracle.check()
    await oracle.warm()
    await delete(await Box.get(id=3))  # the default of `spare` is unknown: Python's default is not the database's
    assert {toy.id for toy in await Toy.cache.filter(spare=None)} == {1, 2, 3}
    await oracle.check()


async def test_writes_to_models_without_cached_dependents_cost_nothing(
    cache: ModelCache, backend: CountingBackend
) -> None:
    street = await Street.create()
    await House.create(street=street)
    shop = await Shop.create(name="corner")
    async with assert_ops(backend, sql=4, redis=0, transactions=0):
        street.name = "High"
        await street.save()
        await Street.filter(id=street.id).update(name="Low")
        await House.all().delete()
        await street.delete()
    async with assert_ops(backend, sql=4, redis=0, transactions=0):
        await Shop.filter(id=shop.id).update(name="new")  # only a delete cascades
        await Shop.bulk_update([shop], fields=["name"])
        await Shop.bulk_create([Shop(name="other")])
        shop.name = "again"
        await shop.save()
