"""``bulk_create`` and ``bulk_update``: exactly the rows that came to be or were changed, in every form."""

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

pytestmark = pytest.mark.models("tests.support.models.bulk_models")

ADA, KIM = UUID(int=1), UUID(int=2)


@pytest.fixture
async def accounts(cache: ModelCache) -> None:
    await Account.bulk_create([Account(id=ADA, number=1), Account(id=KIM, number=2)])


def says_which(db_url: DatabaseUrl) -> bool:
    """Whether an INSERT can say which rows came to be."""
    return db_url.dialect != "mariadb"


@pytest.mark.usefixtures("accounts")
async def test_generated_primary_keys_of_a_model_without_another_unique_key(cache: ModelCache) -> None:
    old = [await Order.create(account_id=ADA, amount=n) for n in range(3)]
    absent = range(old[-1].id + 1, old[-1].id + 4)
    oracle = Oracle(cache, Order)
    await oracle.warm(id=absent, account_id=[KIM])
    assert await Order.bulk_create([Order(account_id=KIM, amount=n, status=Status.PAID) for n in range(2)]) is None
    assert await oracle.forgotten(Order) == set(absent[:2])
    assert [order.amount for order in await Order.cache.filter(account=KIM)] == [1, 0]
    assert len(await Order.cache.get_many(absent)) == 2
    await oracle.check()


async def test_given_primary_keys(cache: ModelCache) -> None:
    oracle = Oracle(cache, Account, Profile)
    await oracle.warm(id=[ADA, KIM], account_id=[ADA, KIM], number=[1, 2, 3], plan=[0], credit=[0], nick=[7])
    made = [Account(id=ADA, number=1), Account(number=2)]  # its primary key is made by Python
    await Account.bulk_create(each for each in made)
    assert await oracle.forgotten(Account) == {ADA}
    assert (await Account.cache.get(number=2)).id == made[1].id
    await Profile.bulk_create([Profile(account_id=ADA, nick=7)])
    assert (await Profile.cache.get(nick=7)).account_id == ADA
    await oracle.check()


async def test_some_primary_keys_given_and_some_generated(cache: ModelCache) -> None:
    oracle = Oracle(cache, Book)
    await oracle.warm(id=[1, 2, 50], number=[1, 2, 3], shelf=[7])
    await Book.bulk_create([Book(number=1, shelf=7), Book(id=50, number=2, shelf=7), Book(number=3, shelf=7)])
    assert {book.number for book in await Book.cache.filter(shelf=7)} == {1, 2, 3}
    assert (await Book.cache.get(id=50)).number == 2
    assert 50 in await oracle.forgotten(Book) or (await Book.cache.get(id=50)).number == 2
    await oracle.check()


async def test_unique_keys_that_are_null(cache: ModelCache) -> None:
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(1, 9), one=[1, 2, 3], two=[1, 2, 3], shelf=[3, 4])
    await Entry.bulk_create([Entry(one=1, shelf=4), Entry(two=1, shelf=4), Entry(shelf=4)])
    await oracle.check()
    await oracle.warm()
    await Entry.bulk_create([Entry(one=2, two=2, shelf=4), Entry(one=3, shelf=4)])
    assert (await Entry.cache.get(one=3)).shelf == 4
    await oracle.check()


async def test_defaults_of_the_database(cache: ModelCache) -> None:
    oracle = Oracle(cache, Entry, Blank)
    await oracle.warm(id=range(1, 9), one=[1, 2], shelf=[3, 4], number=[5, 6])
    await Entry.bulk_create([Entry(one=1), Entry(one=2)])
    assert {entry.one for entry in await Entry.cache.filter(shelf=3)} == {1, 2}
    await Entry.bulk_create([Entry(shelf=4), Entry(shelf=4)])
    assert len(await Entry.cache.filter(shelf=4)) == 2
    await Blank.bulk_create([Blank(), Blank()])  # not one column is named
    assert sorted([blank.id for blank in await Blank.cache.filter(number=5)]) == [1, 2]
    await oracle.check()


async def test_a_primary_key_that_is_a_default_of_the_database(cache: ModelCache, db_url: DatabaseUrl) -> None:
    writes: list[Callable[[], Awaitable[Any]]] = [lambda: Sole.bulk_create([Sole(shelf=8)])]
    if says_which(db_url):  # with MariaDB, Tortoise's own create() fails over it
        writes.append(lambda: Sole.create(shelf=7))
    for write in writes:
        oracle = Oracle(cache, Sole)
        await oracle.warm(id=[41], shelf=[7, 8])
        await write()
        assert await oracle.forgotten(Sole) == {41}
        await oracle.check()
        await Sole.all().delete()
        await oracle.check()


async def test_conflicts_that_are_ignored(cache: ModelCache, db_url: DatabaseUrl) -> None:
    await Entry.bulk_create([Entry(id=101, one=1, two=1, shelf=3), Entry(id=102, one=2, two=2, shelf=3)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(3, 9), one=[3], two=[3], shelf=[4])
    new = [Entry(one=1, two=7, shelf=4), Entry(one=3, two=3, shelf=4), Entry(one=3, shelf=4), Entry(id=102, shelf=4)]
    assert await Entry.bulk_create(new, ignore_conflicts=True) is None
    assert [(entry.one, entry.two) for entry in await Entry.cache.filter(shelf=4)] == [(3, 3)]
    if says_which(db_url):
        assert not {101, 102} & await oracle.forgotten(Entry), "rows that were in the way did not change"
    await oracle.check()


@pytest.mark.only_on("sqlite", "postgres", because="Tortoise writes an upsert that MariaDB does not know")
async def test_conflicts_that_update(cache: ModelCache) -> None:
    await Entry.bulk_create([Entry(id=101, one=1, two=1, shelf=3), Entry(id=102, one=2, two=2, shelf=3)])
    oracle = Oracle(cache, Entry)
    await oracle.warm(id=range(3, 9), one=[3], two=[5, 6], shelf=[4])
    new = [Entry(one=1, two=5, shelf=4), Entry(one=3, two=6, shelf=4)]
    await Entry.bulk_create(new, update_fields=["shelf"], on_conflict=["one"])
    assert 102 not in await oracle.forgotten(Entry)
    assert {(entry.one, entry.two) for entry in await Entry.cache.filter(shelf=4)} == {(1, 1), (3, 6)}
    await oracle.check()
    await oracle.warm()
    await Entry.bulk_create(  # the same row twice, and its primary key as the conflict
        [Entry(id=102, shelf=4), Entry(id=102, shelf=5), Entry(id=77, shelf=5)],
        update_fields=["shelf"],
        on_conflict=["id"],
    )
    assert {entry.id for entry in await Entry.cache.filter(shelf=5)} == {102, 77}
    await oracle.check()
    await Entry.bulk_create([Entry(shelf=6)], update_fields=["shelf"], on_conflict=["one"])  # NULL never conflicts
    assert len(await Entry.cache.filter(shelf=6)) == 1


@pytest.mark.only_on("mariadb", because="the others know what Tortoise writes")
async def test_conflicts_that_update_are_refused_by_mariadb(cache: ModelCache) -> None:
    """With the cache as without it; MySQL 8 would know the statement."""
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
    assert await oracle.forgotten(Entry) == set()
    await oracle.check()


async def test_portions_of_the_users_own(cache: ModelCache) -> None:
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
    assert await oracle.forgotten(Book) - {8} == {book.id for book in books[:5]}
    await oracle.check()


async def test_nothing_to_create(cache: ModelCache, backend: CountingBackend) -> None:
    async with assert_ops(backend, sql=0, redis=0, transactions=0):
        assert await Book.bulk_create([]) is None
        assert await Book.bulk_create(book for book in iter(list[Book]())) is None


@pytest.mark.usefixtures("accounts")
async def test_a_bulk_update_goes_by_the_rows_and_not_by_the_instances(cache: ModelCache) -> None:
    orders = [await Order.create(account_id=ADA, amount=n) for n in range(4)]
    outdated = await Order.all().order_by("id")
    await Order.filter(id=orders[0].id).update(account_id=KIM, amount=9)
    oracle = Oracle(cache, Order)
    await oracle.warm(status=[Status.SENT], id=[10**6])
    for order in outdated[:2]:
        order.status = Status.SENT
    missing = Order(id=10**6, account_id=ADA, status=Status.SENT)
    expected = await _counted(outdated[:2], missing)
    assert await Order.bulk_update([*outdated[:2], missing], fields=(name for name in ["status"])) == expected
    assert await oracle.forgotten(Order) == {order.id for order in orders[:2]}
    assert [order.amount for order in await Order.cache.filter(account=KIM, status=Status.SENT)] == [9]
    await oracle.check()


async def _counted(orders: list[Order], missing: Order) -> Any:
    try:
        async with in_transaction():
            counted = await QuerySet(Order).bulk_update([*orders, missing], fields=["status"])
            raise ZeroDivisionError
    except ZeroDivisionError:
        return counted


async def test_a_foreign_key_is_bulk_updated_by_its_column(cache: ModelCache) -> None:
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
        assert await query in (2, 0)  # MariaDB counts rows that are not as they were
    assert (await Book.cache.get(number=11)).id == books[1].id
    await oracle.check()


async def test_bulk_writes_that_are_rolled_back(cache: ModelCache) -> None:
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
            pytest.fail("it was not refused")
    assert await oracle.forgotten(Book) == set()
    assert await Book.cache.filter(shelf=9) == []
    await oracle.check()
