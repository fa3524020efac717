"""``assert_ops`` counts the operations of all tasks, and reports them if a count is wrong."""

import asyncio
import inspect
import logging
from unittest.mock import AsyncMock, create_autospec

import pytest
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionContextPooled
from tortoise.models import Model
from tortoise.transactions import in_transaction

from aiomodelcache import CacheNotOpen, MemoryBackend, ModelCache, RedisBackend
from aiomodelcache.backends.protocol import Backend, Clear, Lease
from aiomodelcache.engine import publishing
from aiomodelcache.testing import CountingBackend, assert_ops, count_ops
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import User


class Pebble(Model):
    """A model with a table that only this module uses."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, default="")


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(create_autospec(Backend, instance=True))


@pytest.mark.models("tests.testing.test_counting")
@pytest.mark.only_on("no store", because="it is about SQL alone")
class TestSql:
    async def test_statements_of_all_tasks_are_counted(self, database: BaseDBAsyncClient) -> None:
        async with assert_ops(sql=4, transactions=0) as ops:
            async with asyncio.TaskGroup() as tasks:
                for name in ("a", "b", "c"):
                    tasks.create_task(Pebble.create(name=name))
            assert len(ops.statements) == 3
            await Pebble.all().count()
        assert [statement.split()[0] for statement in ops.statements] == ["INSERT"] * 3 + ["SELECT"]

    async def test_a_bulk_insert_and_a_script_count_as_one_statement_each(self, database: BaseDBAsyncClient) -> None:
        async with assert_ops(sql=2):
            await Pebble.bulk_create([Pebble(name="a"), Pebble(name="b")])
            await database.execute_script("DELETE FROM pebble")

    async def test_transactions_are_counted_separately(self, database: BaseDBAsyncClient) -> None:
        async with assert_ops(sql=2, transactions=1), in_transaction() as outer:
            await Pebble.create(name="a", using_db=outer)
            async with in_transaction() as inner:
                await Pebble.create(name="b", using_db=inner)

    async def test_opening_a_connection_is_not_counted(self, database: BaseDBAsyncClient) -> None:
        await database.close()
        async with assert_ops(sql=1):
            await Pebble.all()

    async def test_a_wrong_count_is_reported_with_the_statements(self, database: BaseDBAsyncClient) -> None:
        with pytest.raises(AssertionError, match=r"Expected sql=0.*but saw\n  sql=1\n    SELECT .*pebble"):
            async with assert_ops(sql=0):
                await Pebble.all()
        with pytest.raises(AssertionError, match=r"transactions=0 (.|\n)*  transactions=1"):
            async with assert_ops(transactions=0), in_transaction():
                pass


class TestRoundTrips:
    async def test_operations_are_counted_and_named(self, backend: CountingBackend) -> None:
        await backend.open()
        await backend.read([b"before"])
        async with assert_ops(backend, sql=0, redis=3) as ops:
            await backend.read([b"k"])
            await backend.lease([], b"t", 1)
            await backend.fill([])
        assert ops.operations == ["read", "lease", "fill"]
        async with assert_ops(backend, redis=["mark", "clear", "delete"]):
            await backend.mark([b"k"], b"t", 1)
            await backend.clear([], b"t")
            await backend.delete([b"k"])
        await backend.close()

    async def test_a_wrong_count_is_reported_with_the_operations(self, backend: CountingBackend) -> None:
        with pytest.raises(AssertionError, match=r"redis=2(.|\n)*  redis=1 \['read'\]"):
            async with assert_ops(backend, redis=2):
                await backend.read([b"k"])
        with pytest.raises(AssertionError, match=r"redis=\['lease'\]"):
            async with assert_ops(backend, redis=["lease"]):
                await backend.read([b"k"])

    async def test_an_error_in_the_block_is_raised_instead_of_a_wrong_count(self, backend: CountingBackend) -> None:
        with pytest.raises(KeyError):
            async with assert_ops(backend, redis=1):
                raise KeyError

    async def test_keys_that_may_have_been_written_are_recorded(self, backend: CountingBackend) -> None:
        await backend.read([b"a"])
        await backend.lease([Lease(b"b")], b"t", 1, [b"c"])
        await backend.mark([b"d"], b"t", 1)
        await backend.clear([Clear(b"d")], b"t", [b"e"])
        assert backend.keys == {b"b", b"c", b"d", b"e"}

    async def test_arguments_and_answers_are_passed_through(self) -> None:
        inner = create_autospec(Backend, instance=True)
        inner.read = AsyncMock(return_value=[b"v"])
        assert await CountingBackend(inner).read([b"k"]) == [b"v"]
        inner.read.assert_awaited_once_with([b"k"])

    @pytest.mark.parametrize("name", [name for name in vars(Backend) if not name.startswith("_")])
    def test_the_proxy_has_every_method_of_the_protocol(self, name: str) -> None:
        assert inspect.signature(getattr(CountingBackend, name)) == inspect.signature(getattr(Backend, name))


@pytest.mark.models("tests.support.models.models")
class TestOpenCache:
    async def test_the_default_cache_is_counted(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        async with ModelCache(backend_url) as cache:
            async with assert_ops(redis=3, sql=1) as ops:
                assert await User.cache.get_or_none(id=1) is None
            assert ops.operations == ["read", "lease", "fill"]
            await User.cache.get_or_none(id=1)
            assert ops.operations == ["read", "lease", "fill"]
            assert type(cache.backend) is (MemoryBackend if backend_url == "memory://" else RedisBackend)

    async def test_another_cache_can_be_counted(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        async with ModelCache(backend_url), ModelCache(backend_url, namespace="other") as other:
            async with assert_ops(other, redis=0), assert_ops(redis=["read", "lease", "fill"]):
                await User.cache.get_or_none(id=1)
            async with assert_ops(cache=other, redis=["read", "lease", "fill"]):
                await other.manager(User).get_or_none(id=1)

    async def test_counts_may_be_nested(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        async with ModelCache(backend_url), assert_ops(redis=4, sql=1):
            with count_ops() as ops:
                await User.cache.get_or_none(id=1)
            assert (len(ops.operations), len(ops.statements)) == (3, 1)
            async with assert_ops(redis=1, sql=0):
                await User.cache.get_or_none(id=1)

    async def test_counts_may_overlap(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        logger = logging.getLogger("tortoise.db_client")
        async with ModelCache(backend_url) as cache:
            guarded_backend = cache.open_cache.guarded
            before = (logger.level, logger.disabled, list(logger.filters), guarded_backend.backend)
            enter = TransactionContextPooled.__aenter__
            first, second = count_ops(), count_ops()
            first_ops = first.__enter__()
            await User.cache.get_or_none(id=1)
            second_ops = second.__enter__()
            await User.cache.get_or_none(id=2)
            first.__exit__(None, None, None)
            async with in_transaction():
                await User.all()
            await User.cache.get_or_none(id=3)
            second.__exit__(None, None, None)
            assert (len(first_ops.operations), len(first_ops.statements), first_ops.transactions) == (6, 2, 0)
            assert (len(second_ops.operations), len(second_ops.statements), second_ops.transactions) == (6, 3, 1)
            assert (logger.level, logger.disabled, list(logger.filters), guarded_backend.backend) == before
            assert TransactionContextPooled.__aenter__ is enter

    @pytest.mark.only_on("no store", because="no cache is open")
    async def test_only_counts_of_statements_work_without_an_open_cache(self, database: BaseDBAsyncClient) -> None:
        with pytest.raises(CacheNotOpen, match="open a ModelCache before the block"):
            async with assert_ops(redis=0):
                pass
        with pytest.raises(CacheNotOpen):
            async with assert_ops(ModelCache("memory://")):
                pass
        async with assert_ops(sql=1) as ops:
            await User.all()
        assert ops.operations == []


@pytest.mark.only_on("no store", because="it is about SQL alone")
@pytest.mark.models("tests.support.models.models")
class TestLogging:
    logger = logging.getLogger("tortoise.db_client")

    async def test_counting_logs_no_additional_statement(
        self, database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with count_ops(), count_ops() as ops:
            await User.all()
            assert caplog.messages == []
            self.logger.warning("from elsewhere, %s", "too")
        assert caplog.messages == ["from elsewhere, too"]
        assert [statement.split()[0] for statement in ops.statements] == ["SELECT"]

    async def test_counting_does_not_suppress_logging(
        self, database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, logger=self.logger.name), count_ops():
            await User.all()
        assert len(caplog.messages) == 1

    async def test_statements_are_counted_although_the_logger_is_disabled(
        self, database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(self.logger, "disabled", True)
        async with assert_ops(sql=1):
            await User.all()
            self.logger.error("no")
        assert self.logger.disabled
        assert caplog.messages == []

    async def test_counting_is_refused_while_all_logging_is_disabled(self, database: BaseDBAsyncClient) -> None:
        logging.disable(logging.CRITICAL)
        try:
            with pytest.raises(RuntimeError, match="undo it"), count_ops():
                pass
        finally:
            logging.disable(logging.NOTSET)
        async with assert_ops(sql=1):
            await User.all()


@pytest.mark.only_on("sqlite", because="it is about blocks")
@pytest.mark.only_on("no store", because="its store is in memory")
class TestWithoutAsync:
    async def test_a_plain_block_asserts_like_an_async_one(self, database: BaseDBAsyncClient) -> None:
        async with ModelCache("memory://"):
            user = await User.create(username="kim")
            with assert_ops(redis=["read", "lease", "fill"], sql=1) as ops:
                await User.cache.get(id=user.id)
            assert len(ops.statements) == 1
            with pytest.raises(AssertionError, match=r"Expected sql=0, redis=None"), assert_ops(sql=0):
                await User.filter(id=1)
            with pytest.raises(ZeroDivisionError), assert_ops(sql=7):
                raise ZeroDivisionError

    async def test_one_assertion_may_be_used_again_and_nested(self, database: BaseDBAsyncClient) -> None:
        once = assert_ops(sql=1)
        for _ in range(2):
            with once:
                await User.all()
        with assert_ops(sql=2):
            await User.all()
            async with once:
                await User.all()

    async def test_without_an_open_cache_round_trips_cannot_be_asserted(self) -> None:
        with pytest.raises(CacheNotOpen, match="none is open"), assert_ops(redis=0):
            pass


@pytest.mark.only_on("sqlite", because="it is about blocks")
@pytest.mark.only_on("no store", because="its store is in memory")
def test_a_block_may_run_an_event_loop_of_its_own(db_url: DatabaseUrl) -> None:
    async def main() -> None:
        async with tortoise_on(db_url, "tests.support.models.models"), ModelCache("memory://"):
            user = await User.create(username="kim")
            await User.cache.get(id=user.id)
            await User.cache.get(id=user.id)

    with assert_ops(transactions=0) as ops:
        asyncio.run(main())
    assert [each.split()[0] for each in ops.statements[-2:]] == ["INSERT", "SELECT"]


@pytest.mark.only_on("sqlite", because="counters depend on no database")
@pytest.mark.only_on("memory", because="the test has a store of its own")
async def test_counters_that_are_published_in_the_background_are_not_counted(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sent at any time, so a count of a block would be another one every now and then."""
    monkeypatch.setattr(publishing, "PUBLISH_INTERVAL", 0.0)
    backend = CountingBackend(MemoryBackend())
    async with ModelCache(backend, publish_stats=True) as cache:
        await cache.fleet()
        before = cache.stats.round_trips
        async with assert_ops(redis=0):
            while cache.stats.round_trips < before + 3:
                await asyncio.sleep(0)
        async with assert_ops(redis=["fill", "read"]):
            await cache.fleet()
