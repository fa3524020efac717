"""``transaction_as_autocommit``: in a transaction that is rolled back, a cache works as in autocommit mode."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import get_current_context
from tortoise.exceptions import DoesNotExist, IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import CacheError, ModelCache
from aiomodelcache.testing import assert_ops, transaction_as_autocommit
from tests.support.models.models import Event, User


@pytest.fixture
async def rolled_back(database: BaseDBAsyncClient) -> AsyncIterator[None]:
    """The transaction that many applications wrap around each test."""
    async with in_transaction() as transaction:
        yield
        await transaction.rollback()
    assert await User.all().count() == 0


@pytest.fixture
async def cache(rolled_back: None, backend_url: str) -> AsyncIterator[ModelCache]:
    with transaction_as_autocommit():
        async with ModelCache(backend_url) as opened:
            yield opened


class TestWithout:
    async def test_lookups_in_an_ordinary_transaction_query_the_database_and_fill_nothing(
        self, rolled_back: None, backend_url: str
    ) -> None:
        async with ModelCache(backend_url):
            await User.create(id=1, username="kim")
            for _ in range(2):
                async with assert_ops(sql=1, redis=0):
                    await User.cache.get(id=1)

    @pytest.mark.only_on("no store", because="no cache is open")
    async def test_the_block_needs_an_open_transaction(self, database: BaseDBAsyncClient) -> None:
        with pytest.raises(CacheError, match="no transaction is open"), transaction_as_autocommit():
            pass

    async def test_the_block_is_refused_while_a_cache_is_open(self, rolled_back: None, backend_url: str) -> None:
        async with ModelCache(backend_url):
            with pytest.raises(CacheError, match="a cache is open"), transaction_as_autocommit():
                pass

    @pytest.mark.only_on("no store", because="no cache is open")
    async def test_the_block_restores_the_connection_of_the_transaction(self, rolled_back: None) -> None:
        context = get_current_context()
        assert context is not None
        [before] = context.connections.all()
        with transaction_as_autocommit():
            assert context.connections.all() != [before]
        assert context.connections.all() == [before]

    async def test_the_block_is_in_the_transaction_although_a_cache_was_open_before(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        """An open cache observes the connection, by methods of its own."""
        async with ModelCache(backend_url):
            pass
        async with in_transaction() as transaction:
            with transaction_as_autocommit():
                async with ModelCache(backend_url), in_transaction():
                    await User.create(id=1, username="kim")
            await transaction.rollback()
        assert await User.all().count() == 0


class TestReads:
    async def test_the_second_lookup_is_answered_by_the_cache(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        assert await User.cache.get(username="kim") == kim
        async with assert_ops(sql=0, redis=1):
            assert await User.cache.get(username="kim") == kim

    async def test_misses_of_many_tasks_share_a_statement(self, cache: ModelCache) -> None:
        await User.bulk_create([User(id=number, username=str(number)) for number in range(1, 21)])
        async with assert_ops(sql=1):
            found = await asyncio.gather(*[User.cache.get(id=number) for number in range(1, 21)])
        assert [user.id for user in found] == list(range(1, 21))


class TestWrites:
    async def test_each_write_invalidates_at_once(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim", team=1)
        assert await User.cache.filter(team=2) == []
        assert (await User.cache.get(username="kim")).team == 1
        kim.team = 2
        async with assert_ops(redis=["mark", "clear"], transactions=0):
            await kim.save()
        assert (await User.cache.get(username="kim")).team == 2
        await User.filter(team=2).update(team=3)
        assert [user.team for user in await User.cache.filter(team=3)] == [3]
        await kim.delete()
        assert await User.cache.get_or_none(username="kim") is None

    async def test_a_delete_invalidates_the_rows_that_it_cascades_to(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        await Event.create(slug="pycon", organizer=kim)
        await Event.cache.get(slug="pycon")
        await kim.delete()
        with pytest.raises(DoesNotExist):
            await Event.cache.get(slug="pycon")

    async def test_a_refused_statement_does_not_undo_others(self, cache: ModelCache) -> None:
        await User.create(id=1, username="kim")
        with pytest.raises(IntegrityError):
            await User.create(id=1, username="lee")
        with pytest.raises(IntegrityError):
            await User.bulk_create([User(id=2, username="lee"), User(id=1, username="mia")])
        assert [user.username for user in await User.all()] == ["kim"]
        assert (await User.cache.get(id=1)).username == "kim"


class TestTransactions:
    async def test_the_commit_of_an_inner_transaction_invalidates(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        await User.cache.get(id=kim.id)
        async with assert_ops(redis=["mark", "clear"], transactions=1), in_transaction():
            kim.team = 5
            await kim.save()
            assert (await User.cache.get(id=kim.id)).team == 5
        assert (await User.cache.get(id=kim.id)).team == 5

    async def test_lookups_in_an_inner_transaction_fill_nothing(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        async with in_transaction(), assert_ops(sql=1, redis=0):
            await User.cache.get(id=kim.id)

    async def test_the_rollback_of_an_inner_transaction_restores_its_rows(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")

        async def fail() -> None:
            async with in_transaction():
                await User.filter(id=kim.id).update(team=5)
                await User.create(username="lee")
                assert (await User.cache.get(id=kim.id)).team == 5
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        assert (await User.cache.get(id=kim.id)).team == 0
        assert await User.cache.get_or_none(username="lee") is None
        assert await User.all().count() == 1

    async def test_an_inner_transaction_can_be_ended_explicitly(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        async with in_transaction() as transaction:
            await User.filter(id=kim.id).update(team=5)
            await transaction.rollback()
        async with in_transaction() as transaction:
            await User.filter(id=kim.id).update(email="kim@example.org")
            await transaction.commit()
        found = await User.cache.get(id=kim.id)
        assert (found.team, found.email) == (0, "kim@example.org")

    async def test_savepoints_of_an_inner_transaction_work(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        await User.cache.get(id=kim.id)

        async def fail() -> None:
            async with in_transaction() as inner:
                await User.filter(id=kim.id).using_db(inner).update(team=6)
                raise KeyError

        async with in_transaction():
            async with in_transaction() as inner:
                await User.filter(id=kim.id).using_db(inner).update(team=5)
            with pytest.raises(KeyError):
                await fail()
        assert (await User.cache.get(id=kim.id)).team == 5

    async def test_other_tasks_wait_for_an_inner_transaction(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            async with in_transaction() as transaction:
                await User.filter(id=kim.id).update(team=5)
                inside.set()
                await go_on.wait()
                await transaction.rollback()

        async def read() -> int:
            go_on.set()
            return (await User.get(id=kim.id)).team

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            await inside.wait()
            assert await read() == 0

    async def test_an_inner_transaction_that_cannot_begin_releases_the_connection(
        self, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = in_transaction()
        with monkeypatch.context() as patched:
            patched.setattr(type(begun.client), "begin", None)
            with pytest.raises(TypeError):
                async with begun:
                    pass
        assert await User.all().count() == 0

    async def test_closing_the_connection_does_not_end_the_transaction(self, cache: ModelCache) -> None:
        context = get_current_context()
        assert context is not None
        [connection] = context.connections.all()
        await connection.close()
        async with connection.acquire_connection() as raw:
            assert raw is not None
        assert await User.all().count() == 0
