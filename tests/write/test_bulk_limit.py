"""Bulk writes of many rows: they invalidate row by row up to ``bulk_limit``, and the whole model beyond it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.orm.select import MAX_IN_VALUES
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.bulk_models import Account, Book, Film, Order, Profile
from tests.support.oracle import Oracle

pytestmark = pytest.mark.models("tests.support.models.bulk_models")


class MarkCountingBackend(CountingBackend):
    """A backend that records how many keys each ``mark`` has."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.marked: list[int] = []

    async def mark(self, keys: Sequence[bytes], *args: Any) -> Any:
        self.marked.append(len(keys))
        return await super().mark(keys, *args)


@pytest.fixture
async def marks(backend: CountingBackend) -> MarkCountingBackend:
    return MarkCountingBackend(backend.backend)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, marks: MarkCountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(marks, bulk_limit=3) as opened:
        yield opened


async def test_rows_are_invalidated_up_to_the_limit_and_the_model_beyond_it(
    cache: ModelCache, marks: MarkCountingBackend
) -> None:
    await QuerySet(Book).bulk_create([Book(number=n, shelf=n, pages=0) for n in range(6)])
    await QuerySet(Film).bulk_create([Film(number=n) for n in range(2)])
    writes: list[tuple[Callable[[list[Book]], Awaitable[Any]], int]] = [
        (lambda books: Book.filter(number__lt=3).update(pages=1), 3),
        (lambda books: Book.filter(number__lt=4).update(pages=2), 4),
        (lambda books: Book.all().update(shelf=F("shelf") + 1), 6),
        (lambda books: Book.filter(id__in=[book.id for book in books[:3]]).update(shelf=9), 3),
        (lambda books: Book.bulk_update(with_pages(books[:3], pages=3), ["pages"]), 3),
        (lambda books: Book.bulk_update(with_pages(books[:4], pages=4), ["pages"]), 4),
        (lambda books: Book.bulk_update(with_pages(books[:4], pages=5), ["pages"], batch_size=2), 4),
        (lambda books: Book.bulk_create([Book(number=10 + n, shelf=1) for n in range(3)]), 3),
        (lambda books: Book.bulk_create([Book(number=20 + n, shelf=1) for n in range(4)]), 4),
        (lambda books: Book.filter(number__gte=20).delete(), 4),
        (lambda books: Book.filter(number__gte=10).delete(), 3),
    ]
    for write, count in writes:
        books = await QuerySet(Book).order_by("number")
        oracle = Oracle(cache, Book, Film)
        await oracle.warm(number=[10, 11, 20, 21], shelf=[1, 9])
        marks.marked.clear()
        async with assert_ops(marks, redis=["mark", "clear"]):
            assert await write(books) in (None, count)
        (marked,) = marks.marked
        assert (marked == 2) == (count > 3), "invalidating the whole model takes its epoch and its table's version"
        assert (await oracle.invalidated(Book) >= {book.id for book in books}) == (count > 3)
        assert await oracle.invalidated(Film) == set(), "the other model is not affected"
        await oracle.check()


def with_pages(books: list[Book], pages: int) -> list[Book]:
    for book in books:
        book.pages = pages
    return books


async def populate(accounts: int, orders: int) -> None:
    await QuerySet(Account).bulk_create([Account(id=UUID(int=n + 1), number=n) for n in range(accounts)])
    await QuerySet(Order).bulk_create(
        [Order(account_id=UUID(int=n + 1), amount=m) for n in range(accounts) for m in range(orders)]
    )
    await QuerySet(Profile).bulk_create([Profile(account_id=UUID(int=n + 1), nick=n) for n in range(accounts)])


@pytest.mark.parametrize(("accounts", "orders"), [(3, 1), (2, 2), (5, 1)], ids=["none", "children", "parents"])
async def test_a_cascade_past_the_limit_invalidates_the_child_model(
    cache: ModelCache, marks: MarkCountingBackend, accounts: int, orders: int
) -> None:
    await populate(accounts + 1, orders)
    oracle = Oracle(cache, Account, Order, Profile)
    await oracle.warm()
    last = await QuerySet(Order).filter(account_id=UUID(int=accounts + 1)).values_list("id", flat=True)
    expected = accounts if (await QuerySet(Account).first())._meta.db.capabilities.dialect != "sqlite" else None
    assert await Account.filter(number__lt=accounts).delete() in (expected, accounts * (2 + orders))
    assert (set(last) <= await oracle.invalidated(Order)) == (accounts * orders > 3)
    assert (UUID(int=accounts + 1) in await oracle.invalidated(Profile)) == (accounts > 3)
    assert await QuerySet(Order).count() == orders
    await oracle.check()


@pytest.mark.exhaustive(because="writes thousands of rows")
async def test_a_bulk_write_of_more_rows_than_one_statement_takes_leaves_nothing_stale(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    count = MAX_IN_VALUES + 7
    async with ModelCache(backend_url, bulk_limit=2 * MAX_IN_VALUES):
        assert await Book.cache.filter(shelf=1) == []
        await Book.bulk_create([Book(number=n, shelf=1) for n in range(count)])
        assert await Book.cache.count(shelf=1) == count
        numbers = [0, 1, MAX_IN_VALUES - 1, MAX_IN_VALUES, MAX_IN_VALUES + 1, count - 1]
        books = await Book.cache.get_many(numbers, key="number")
        assert [book.number for book in books] == numbers
        assert await Book.filter(number__gte=1).update(shelf=F("shelf") + 1, pages=1) == count - 1
        assert [book.pages for book in await Book.cache.get_many(numbers, key="number")] == [0, 1, 1, 1, 1, 1]
        assert [book.number for book in await Book.cache.filter(shelf=1)] == [0]
        assert await Book.filter(shelf=2).delete() == count - 1
        assert [book.number for book in await Book.cache.get_many(numbers, key="number")] == [0]
        assert await Book.cache.get_many([book.id for book in books[1:]]) == []
