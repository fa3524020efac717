"""Writes over several connections: two databases at once, one database by two names, tables in schemas."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.connection import get_connections
from tortoise.context import TortoiseContext
from tortoise.expressions import F
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl, after_rollback, tortoise_on
from tests.support.models.archive_models import Record
from tests.support.models.bulk_models import Account, Book, Order, Profile
from tests.support.models.schema_models import House, Room, SouthernHouse
from tests.support.oracle import Oracle
from tests.write.test_bulk_writes import account_id, populate


class Rollback(Exception):
    pass


def books(model: type[Any]) -> list[Any]:
    return [model(id=n, number=n, shelf=n % 2) for n in range(1, 5)]


@pytest.mark.no_tables
class TestTwoDatabases:
    """``Book`` and ``Record`` have tables of the same name in two databases. One cache is open for both."""

    @pytest.fixture
    async def database(self, db_url: DatabaseUrl, other_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
        EXECUTOR_CACHE.clear()
        async with TortoiseContext() as context:
            apps = {
                "app": ("tests.support.models.bulk_models", "here"),
                "archive": ("tests.support.models.archive_models", "there"),
            }
            await context.init(
                config={
                    "connections": {"here": str(db_url), "there": str(other_url)},
                    "apps": {
                        app: {"models": [module], "default_connection": name} for app, (module, name) in apps.items()
                    },
                }
            )
            await context.generate_schemas(safe=False)
            yield context.connections.get("here")

    async def test_a_bulk_write_invalidates_rows_of_its_own_database_only(self, cache: ModelCache) -> None:
        for model, other in ((Book, Record), (Record, Book)):
            await model.bulk_create(books(model))
            oracle = Oracle(cache, Book, Record)
            await oracle.warm(shelf=[7], number=[9])
            written = [
                (model.filter(number=1).update(shelf=7), {1}),
                (model.bulk_update([model(id=2, number=9)], fields=["number"]), {1, 2}),
                (model.filter(number=3).delete(), {1, 2, 3}),
            ]
            for write, gone in written:
                await write
                assert await oracle.invalidated(model) == gone
                assert await oracle.invalidated(other) == set()
            await oracle.check()

    async def test_each_of_two_open_transactions_invalidates_at_its_own_commit(
        self, cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl
    ) -> None:
        """Inside a transaction, models of the other database are still read from the cache."""
        for model in (Book, Record):
            await model.bulk_create(books(model))
        oracle = Oracle(cache, Book, Record)
        await oracle.warm(shelf=[7])
        async with assert_ops(backend, transactions=2) as ops, in_transaction("here"):
            await Book.filter(number=1).update(shelf=7)
            assert (await Record.cache.get(number=1)).shelf == 1
            async with in_transaction("there"):
                await Record.filter(number=2).update(shelf=7)
                await Book.filter(number=2).update(shelf=F("shelf") + 7)
                assert [book.number for book in await Book.cache.filter(shelf=7)] == [1, 2]
            assert await oracle.invalidated(Record) == {2}
            assert await oracle.invalidated(Book) == set()
        assert ops.operations == ["read", "mark", "clear", "mark", "clear"]
        assert await oracle.invalidated(Book) == {1, 2}
        await oracle.check()
        await oracle.warm()
        with suppress(Rollback):
            async with in_transaction("there"):
                await Record.all().update(shelf=3)
                async with in_transaction("here"):
                    await Book.filter(number=3).delete()
                raise Rollback
        assert await oracle.invalidated(Record) == after_rollback(db_url, {1, 2, 3, 4})
        assert await oracle.invalidated(Book) == {3}
        await oracle.check()

    async def test_a_write_to_the_other_database_leaves_lookups_correct(self, cache: ModelCache) -> None:
        """The write may invalidate the model's entries. Lookups still read the model's own database."""
        for model in (Book, Record):
            await model.bulk_create(books(model))
        oracle = Oracle(cache, Book, Record)
        await oracle.warm(shelf=[7])
        there = get_connections().get("there")
        assert await Book.filter(number__lt=3).using_db(there).update(shelf=7) == 2
        assert await QuerySet(Book).filter(shelf=7).count() == 0
        assert await oracle.invalidated(Book) <= {1, 2}
        assert await Book.cache.filter(shelf=7) == []


class TestOneDatabaseByTwoNames:
    pytestmark = pytest.mark.models("tests.support.models.bulk_models")

    async def test_every_write_by_the_other_name_invalidates_its_rows(
        self, cache: ModelCache, backend: CountingBackend, again: BaseDBAsyncClient
    ) -> None:
        await QuerySet(Book).bulk_create(books(Book))
        oracle = Oracle(cache, Book)
        book = await Book.get(number=4)
        book.shelf = 7
        writes: list[tuple[Callable[[], Awaitable[Any]], set[int]]] = [
            (lambda: Book.filter(number=1).using_db(again).update(shelf=7), {1}),
            (lambda: Book.all(using_db=again).filter(number=1).update(shelf=8), {1}),
            (lambda: Book.bulk_update([Book(id=2, shelf=7)], fields=["shelf"], using_db=again), {2}),
            (lambda: Book.bulk_create([Book(id=70, number=70, shelf=7)], using_db=again), {70}),
            (lambda: Book.create(id=71, number=71, shelf=7, using_db=again), {71}),
            (lambda: book.save(using_db=again), {4}),
            (lambda: Book.filter(number=3).using_db(again).delete(), {3}),
            (lambda: book.delete(using_db=again), {4}),
            (lambda: Book.get_or_create({"id": 72, "shelf": 7}, number=72, using_db=again), {72}),
            (lambda: Book.update_or_create({"shelf": 8}, number=72, using_db=again), {72}),
        ]
        for number, (write, touched) in enumerate(writes):
            await oracle.warm(id=[70, 71, 72], number=[70, 71, 72], shelf=[7, 8])
            async with assert_ops(backend, redis=["mark", "clear"]):
                await write()
            assert await oracle.invalidated(Book) == touched, number
            await oracle.check()

    async def test_a_cascading_delete_by_the_other_name_invalidates_its_rows(
        self, cache: ModelCache, again: BaseDBAsyncClient
    ) -> None:
        await populate()
        oracle = Oracle(cache, Account, Order, Profile)
        await oracle.warm()
        await Account.filter(number=1).using_db(again).delete()
        await (await Account.get(number=3)).delete(using_db=again)
        assert await oracle.invalidated(Account) == {account_id(1), account_id(3)}
        assert await oracle.invalidated(Order) == {11, 12, 31, 32}
        assert await oracle.invalidated(Profile) == {account_id(1)}
        await oracle.check()

    async def test_a_transaction_by_the_other_name_invalidates_at_commit(
        self, cache: ModelCache, backend: CountingBackend, again: BaseDBAsyncClient
    ) -> None:
        """Lookups use the model's own connection, so they stay cached and outside the transaction."""
        await Book.bulk_create(books(Book))
        oracle = Oracle(cache, Book)
        await oracle.warm(shelf=[7])
        async with in_transaction(again.connection_name) as client:
            await Book.filter(number=1).using_db(client).update(shelf=7)
            async with in_transaction(again.connection_name) as savepoint:
                await Book.filter(number=2).using_db(savepoint).delete()
            async with assert_ops(backend, sql=0, redis=["read", "read"]):
                assert (await Book.cache.get(number=1)).shelf == 1
                assert await Book.cache.filter(shelf=7) == []
        assert await oracle.invalidated(Book) == {1, 2}
        await oracle.check()


@pytest.mark.no_tables
@pytest.mark.only_on("postgres", because="the others have no schemas inside a database")
class TestSchemas:
    """Two schemas have a table of the same name. A foreign key leads from one schema into the other."""

    @pytest.fixture
    async def database(self, db_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
        async with tortoise_on(db_url, "tests.support.models.schema_models", create=False) as connection:
            columns = "(id SERIAL PRIMARY KEY, number INT UNIQUE, street INT)"
            await connection.execute_script(  # Tortoise sorts tables by name without the schema and fails
                "CREATE SCHEMA north; CREATE SCHEMA south;"
                f"CREATE TABLE north.house {columns}; CREATE TABLE south.house {columns};"
                "CREATE TABLE south.room (id SERIAL PRIMARY KEY, house_id INT REFERENCES north.house ON DELETE CASCADE)"
            )
            yield connection

    async def test_every_write_invalidates_rows_of_its_own_schema_only(self, cache: ModelCache) -> None:
        for model, other in ((House, SouthernHouse), (SouthernHouse, House)):
            oracle = Oracle(cache, House, SouthernHouse, Room)
            await oracle.warm(id=range(1, 10), number=range(1, 10), street=[0, 1, 7])
            await model.bulk_create([model(id=n, number=n, street=n % 2) for n in range(1, 4)])
            assert await oracle.invalidated(model) == {1, 2, 3}
            await model.bulk_create([model(number=n + 6, street=7) for n in (1, 2)], ignore_conflicts=True)
            await model.bulk_create([model(id=3, number=3, street=7)], on_conflict=["number"], update_fields=["street"])
            await oracle.check()
            await oracle.warm()
            already = await oracle.invalidated(other)
            assert await model.filter(number=1).update(street=7) == 1
            assert await model.bulk_update([model(id=2, street=7)], fields=["street"]) == 1
            assert await oracle.invalidated(model) == {1, 2}
            house = await model.get(number=3)
            house.number = 9
            await house.save()
            assert await oracle.invalidated(model) == {1, 2, 3}
            assert await oracle.invalidated(other) == already
            await oracle.check()

    async def test_a_cascade_into_another_schema_invalidates_its_rows(self, cache: ModelCache) -> None:
        await House.bulk_create([House(id=n, number=n) for n in range(1, 5)])
        await Room.bulk_create([Room(id=10 * n, house_id=n) for n in range(1, 5)])
        oracle = Oracle(cache, House, Room)
        await oracle.warm()
        await House.filter(rooms__id=10).delete()
        await (await House.get(id=2)).delete()
        assert await oracle.invalidated(House) == {1, 2}
        assert await oracle.invalidated(Room) == {10, 20}
        await oracle.check()
