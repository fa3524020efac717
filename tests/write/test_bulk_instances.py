"""``bulk_create`` and ``bulk_update`` invalidate exactly the rows that they create or change."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from tortoise.exceptions import IntegrityError, OperationalError
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.bulk_models import Account, Blank, Book, Entry, Order, Profile, Sole, Status
from tests.support.oracle import Oracle
from tests.support.servers import mysql

pytestmark = pytest.mark.models("tests.support.models.bulk_models")

ADA, KIM = UUID(int=1), UUID(int=2)


@pytest.fixture
async def accounts(cache: ModelCache) -> None:
    await Account.bulk_create([Account(id=ADA, number=1), Account(id=KIM, number=2)])


def insert_returns_keys(db_url: DatabaseUrl) -> bool:
    """Returns True if an INSERT of the database can return the rows that it created."""
    return db_url.dialect != "mariadb"


@pytest.mark.usefixtures("accounts")
async def test_bulk_create_with_only_generated_keys_invalidates_exactly_the_new_rows(cache: ModelCache) -> None:
    old = [await Order.create(account_id=ADA, amount=n) for n in range(3)]
    absent = range(old[-1].id + 1, old[-1].id + 4)
    oracle = Oracle(cache, Order)
    await oracle.warm(id=absent, account_id=[KIM])
    assert await Order.bulk_create([Order(account_id=KIM, amount=n, status=Status.PAID) for n in range(2)]) is None
    assert await oracle.invalidated(Order) == set(absent[:2])
    assert [order.amount for order in await Order.cache.filter(account=KIM)] == [1, 0]
    assert len(await Order.cache.get_many(absent)) == 2
    await oracle.check()


async def test_bulk_create_with_explicit_primary_keys_invalidates_exactly_the_new_rows(cache: ModelCache) -> None:
    oracle = Oracle(cache, Account, Profile)
    await oracle.warm(id=[ADA, KIM], account_id=[ADA, KIM], number=[1, 2, 3], plan=[0], credit=[0], nick=[7])
    made = [Account(id=ADA, number=1), Account(number=2)]  # Python generates the second primary key
    await Account.bulk_create(each for each in made)
    assert await oracle.invalidated(Account) == {ADA}
    assert (await Account.cache.get(number=2)).id == made[1].id
    await Profile.bulk_create([Profile(account_id=ADA, nick=7)])
    assert (await Profile.cache.get(nick=7)).account_id == ADA
    await oracle.check()


async def test_bulk_create_with_explicit_and_generated_primary_keys_leaves_nothing_stale(cache: ModelCache) -> None:
    oracle = Oracle(cache, Book)
    await oracle.warm(id=[1, 2, 50], number=[1, 2, 3], shelf=[7])
    await Book.bulk_create([Book(number=1, shelf=7), Book(id=50, number=2, shelf=7), Book(number=3, shelf=7)])
    assert {book.number for book in await Book.cache.filter(shelf=7)} == {1, 2, 3}
    assert (await Book.cache.get(id=50)).number == 2
    assert 50 in await oracle.invalidated(Book) or (await Book.cache.get(id=50)).number == 2
    await oracle.check()


async def test_bulk_create_with_null_unique_keys_leaves_nothing_stale(cache: ModelCache) -> None:
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(1, 9), one=[1, 2, 3], two=[1, 2, 3], shelf=[3, 4])
    await Entry.bulk_create([Entry(one=1, shelf=4), Entry(two=1, shelf=4), Entry(shelf=4)])
    await oracle.check()
    await oracle.warm()
    await Entry.bulk_create([Entry(one=2, two=2, shelf=4), Entry(one=3, shelf=4)])
    assert (await Entry.cache.get(one=3)).shelf == 4
    await oracle.check()


async def test_bulk_create_with_database_defaults_leaves_nothing_stale(cache: ModelCache) -> None:
    oracle = Oracle(cache, Entry, Blank)
    await oracle.warm(id=range(1, 9), one=[1, 2], shelf=[3, 4], number=[5, 6])
    await Entry.bulk_create([Entry(one=1), Entry(one=2)])
    assert {entry.one for entry in await Entry.cache.filter(shelf=3)} == {1, 2}
    await Entry.bulk_create([Entry(shelf=4), Entry(shelf=4)])
    assert len(await Entry.cache.filter(shelf=4)) == 2
    await Blank.bulk_create([Blank(), Blank()])  # the INSERT names no column
    assert sorted([blank.id for blank in await Blank.cache.filter(number=5)]) == [1, 2]
    await oracle.check()


async def test_a_create_whose_primary_key_is_a_database_default_invalidates_the_new_row(
    cache: ModelCache, db_url: DatabaseUrl
) -> None:
    writes: list[Callable[[], Awaitable[Any]]] = [lambda: Sole.bulk_create([Sole(shelf=8)])]
    if insert_returns_keys(db_url):  # with MariaDB, Tortoise's own create() fails
        writes.append(lambda: Sole.create(shelf=7))
    for write in writes:
        oracle = Oracle(cache, Sole)
        await oracle.warm(id=[41], shelf=[7, 8])
        await write()
        assert await oracle.invalidated(Sole) == {41}
        await oracle.check()
        await Sole.all().delete()
        await oracle.check()


async def test_an_ignored_conflict_does_not_invalidate_the_conflicting_row(
    cache: ModelCache, db_url: DatabaseUrl
) -> None:
    await Entry.bulk_create([Entry(id=101, one=1, two=1, shelf=3), Entry(id=102, one=2, two=2, shelf=3)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(3, 9), one=[3], two=[3], shelf=[4])
    new = [Entry(one=1, two=7, shelf=4), Entry(one=3, two=3, shelf=4), Entry(one=3, shelf=4), Entry(id=102, shelf=4)]
    assert await Entry.bulk_create(new, ignore_conflicts=True) is None
    assert [(entry.one, entry.two) for entry in await Entry.cache.filter(shelf=4)] == [(3, 3)]
    if insert_returns_keys(db_url):
        assert not {101, 102} & await oracle.invalidated(Entry), "the conflicting rows did not change"
    await oracle.check()


@pytest.mark.only_on("sqlite", "postgres", because="Tortoise writes an upsert that MariaDB does not know")
async def test_a_conflict_that_updates_invalidates_the_updated_row(cache: ModelCache) -> None:
    await Entry.bulk_create([Entry(id=101, one=1, two=1, shelf=3), Entry(id=102, one=2, two=2, shelf=3)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(3, 9), one=[3], two=[5, 6], shelf=[4])
    new = [Entry(one=1, two=5, shelf=4), Entry(one=3, two=6, shelf=4)]
    await Entry.bulk_create(new, update_fields=["shelf"], on_conflict=["one"])
    assert 102 not in await oracle.invalidated(Entry)
    assert {(entry.one, entry.two) for entry in await Entry.cache.filter(shelf=4)} == {(1, 1), (3, 6)}
    await oracle.check()
    await oracle.warm()
    await Entry.bulk_create(  # one row twice, with its primary key as the conflict
        [Entry(id=102, shelf=4), Entry(id=102, shelf=5), Entry(id=77, shelf=5)],
        update_fields=["shelf"],
        on_conflict=["id"],
    )
    assert {entry.id for entry in await Entry.cache.filter(shelf=5)} == {102, 77}
    await oracle.check()
    await Entry.bulk_create([Entry(shelf=6)], update_fields=["shelf"], on_conflict=["one"])  # NULL never conflicts
    assert len(await Entry.cache.filter(shelf=6)) == 1


@mysql.needed
@pytest.mark.only_on("mariadb", because="MySQL takes its place")
async def test_a_conflict_by_any_unique_key_that_updates_leaves_nothing_stale(cache: ModelCache) -> None:
    """MySQL updates rows that conflict by keys that ``on_conflict`` does not name."""
    await Entry.bulk_create([Entry(id=n, one=n, two=n, shelf=3) for n in (101, 102, 103)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(101, 109), one=[1, 101, 102, 103], two=[5, 102], shelf=[3, 4])
    new = [
        Entry(one=101, two=5, shelf=4),
        Entry(one=1, two=102, shelf=4),
        Entry(id=103, shelf=4),
        Entry(one=7, shelf=4),
    ]
    await Entry.bulk_create(new, update_fields=["shelf"], on_conflict=["one"])
    assert {entry.one for entry in await Entry.cache.filter(shelf=4)} == {101, 102, 103, 7}
    await oracle.check()


@mysql.unfit("knows what Tortoise writes")
@pytest.mark.only_on("mariadb", because="the others know what Tortoise writes")
async def test_mariadb_refuses_conflicts_that_update_as_without_a_cache(cache: ModelCache) -> None:
    """MariaDB does not know the statement that Tortoise sends. MySQL 8 does."""
    await Entry.bulk_create([Entry(id=101, one=1, shelf=3)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=[102], one=[2], shelf=[4])
    for rows in (QuerySet(Entry), Entry.all()):
        async with assert_ops() as ops:
            with pytest.raises(OperationalError, match=r"1064, .*near 'AS `new_entry` ON DUPLICATE KEY UPDATE"):
                await rows.bulk_create(
                    [Entry(one=1, shelf=4), Entry(one=2, shelf=4)], update_fields=["shelf"], on_conflict=["one"]
                )
        assert ops.statements[0].endswith(" AS `new_entry` ON DUPLICATE KEY UPDATE `shelf`=`new_entry`.`shelf`")
    assert await oracle.invalidated(Entry) == set()
    await oracle.check()


async def test_batches_of_the_callers_size_invalidate_all_their_rows(cache: ModelCache) -> None:
    oracle = Oracle(cache, Book)
    await oracle.warm(id=range(1, 9), number=range(7), shelf=[1, 2])
    await Book.bulk_create([Book(number=n, shelf=1) for n in range(7)], batch_size=3)
    assert len(await Book.cache.filter(shelf=1)) == 7
    await oracle.check()
    books = await Book.all()
    await oracle.warm()
    for book in books[:5]:
        book.shelf = 2
    assert await Book.bulk_update(books[:5], fields=["shelf"], batch_size=2) == 5
    assert await oracle.invalidated(Book) - {8} == {book.id for book in books[:5]}
    await oracle.check()


async def test_bulk_create_without_rows_sends_nothing(cache: ModelCache, backend: CountingBackend) -> None:
    async with assert_ops(backend, sql=0, redis=0, transactions=0):
        assert await Book.bulk_create([]) is None
        assert await Book.bulk_create(book for book in iter(list[Book]())) is None


@pytest.mark.usefixtures("accounts")
async def test_bulk_update_of_outdated_instances_invalidates_the_lists_of_the_stored_rows(cache: ModelCache) -> None:
    orders = [await Order.create(account_id=ADA, amount=n) for n in range(4)]
    outdated = await Order.all().order_by("id")
    await Order.filter(id=orders[0].id).update(account_id=KIM, amount=9)
    oracle = Oracle(cache, Order)
    await oracle.warm(status=[Status.SENT], id=[10**6])
    for order in outdated[:2]:
        order.status = Status.SENT
    missing = Order(id=10**6, account_id=ADA, status=Status.SENT)
    expected = await _uncached_count(outdated[:2], missing)
    assert await Order.bulk_update([*outdated[:2], missing], fields=(name for name in ["status"])) == expected
    assert await oracle.invalidated(Order) == {order.id for order in orders[:2]}
    assert [order.amount for order in await Order.cache.filter(account=KIM, status=Status.SENT)] == [9]
    await oracle.check()


async def _uncached_count(orders: list[Order], missing: Order) -> Any:
    try:
        async with in_transaction():
            counted = await QuerySet(Order).bulk_update([*orders, missing], fields=["status"])
            raise ZeroDivisionError
    except ZeroDivisionError:
        return counted


async def test_bulk_update_of_a_unique_key_can_be_awaited_twice(cache: ModelCache) -> None:
    await Book.bulk_create([Book(number=n) for n in range(3)])
    books = await Book.all().order_by("number")
    oracle = Oracle(cache, Book)
    await oracle.warm(number=[10, 11])
    for book in books[:2]:
        book.number += 10
        book.pages = 5
    query = Book.bulk_update(books[:2], fields=["number", "pages"])
    assert query.sql().count("UPDATE") == 1
    for _ in range(2):
        assert await query in (2, 0)  # MariaDB counts only rows whose values differ
    assert (await Book.cache.get(number=11)).id == books[1].id
    await oracle.check()


@pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
async def test_rolled_back_bulk_writes_invalidate_nothing(cache: ModelCache) -> None:
    await Book.bulk_create([Book(number=n, shelf=1) for n in range(3)])
    books = await Book.all().order_by("number")
    oracle = Oracle(cache, Book)
    await oracle.warm(number=[7], shelf=[9])
    with suppress(IntegrityError):
        async with in_transaction():
            for book in books:
                book.shelf = 9
            await Book.bulk_update(books, fields=["shelf"])
            await Book.bulk_create([Book(number=7, shelf=9)])
            assert len(await Book.cache.filter(shelf=9)) == 4
            await Book.bulk_create([Book(number=7, shelf=9)])
            pytest.fail("the duplicate was not refused")
    assert await oracle.invalidated(Book) == set()
    assert await Book.cache.filter(shelf=9) == []
    await oracle.check()
