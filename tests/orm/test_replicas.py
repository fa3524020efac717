"""A router that reads from a replica: no old row is stored, and with ``replica_lag`` misses are read from the replica.

Two databases act as primary and replica. A write reaches the replica when the test calls ``replicate``.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext
from tortoise.exceptions import IntegrityError
from tortoise.query_utils import Prefetch
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfigurationError, ModelCache
from aiomodelcache.config import CacheConfig
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.gates import GatedBackend, gated_sql
from tests.support.models.replica_models import Account, Accounts, Card, Total
from tests.support.stored import expire_intents, states

pytestmark = pytest.mark.only_on("sqlite", because="which connection is asked depends on no database")

LONG = 30.0
"""A number of seconds that is longer than any test."""


class Router:
    """A router for Tortoise, which creates it without arguments."""

    primary: ClassVar[str]
    replica: ClassVar[str]

    def db_for_read(self, model: type) -> str:
        return self.replica

    def db_for_write(self, model: type) -> str:
        return self.primary


@pytest.fixture
async def replica(db_url: DatabaseUrl, other_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    """The connection of the replica. Tortoise is initialised with both databases and the router."""
    async with tortoise_on(other_url, "tests.support.models.replica_models"):
        pass
    Router.primary, Router.replica = db_url.dialect, other_url.dialect
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:
        await context.init(
            config={
                "connections": {Router.primary: str(db_url), Router.replica: str(other_url)},
                "apps": {
                    "app": {"models": ["tests.support.models.replica_models"], "default_connection": Router.primary}
                },
                "routers": [Router],
            }
        )
        await context.generate_schemas(safe=False)
        yield context.connections.get(Router.replica)


async def replicate(replica: BaseDBAsyncClient) -> None:
    """Copies all accounts of the primary to the replica."""
    rows = await QuerySet(Account).using_db(Account._choose_db(True)).values()
    await QuerySet(Account).using_db(replica).delete()
    if rows:
        await QuerySet(Account).using_db(replica).bulk_create([Account(**row) for row in rows])


async def replicate_with_debt(replica: BaseDBAsyncClient, account: Account) -> None:
    """Replicates, and sets the account's balance on the replica to -1, so that a read shows its origin."""
    await replicate(replica)
    await QuerySet(Account).using_db(replica).filter(id=account.id).update(balance=-1)


@pytest.fixture
async def account(replica: BaseDBAsyncClient) -> Account:
    """An account with another balance on the replica, written before a cache was open."""
    account = await Account.create(number=7, branch=1, balance=10)
    await replicate_with_debt(replica, account)
    return account


class TestWithoutALag:
    async def test_the_cache_never_asks_the_replica(
        self, account: Account, backend: CountingBackend, replica: BaseDBAsyncClient
    ) -> None:
        assert (await Account.get(id=account.id)).balance == -1  # the router is in use
        card = await Card.create(account=account)
        async with ModelCache(backend):
            for _ in range(2):
                found = [
                    await Account.cache.get(id=account.id),
                    await Account.cache.get(number=7),
                    *await Account.cache.filter(branch=1),
                    *await Account.cache.get_many([account.id]),
                    await card.account,
                ]
                assert [row.balance for row in found] == [10] * 5
            assert await Total(1) == 10
            await Account.cache.clear()
            await Card.cache.prefetch([card], "account")
            assert card.account.balance == 10

    async def test_computed_results_are_read_from_the_primary(
        self, replica: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend):
            assert (await Total(1), await Accounts(1)) == (0, 0)
            await Account.create(number=1, branch=1, balance=5)  # not replicated
            assert (await Total(1), await Accounts(1)) == (5, 1)
            assert await Account.filter(branch=1) == []  # outside the method the router is unchanged

    async def test_queries_are_read_from_the_primary(
        self, replica: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        """``Account.all()`` names the replica, as the router chose it."""
        async with ModelCache(backend):
            for number in range(1, 4):
                account = await Account.create(number=number, balance=number)  # not replicated
                await Card.create(number=number, account=account)
                for accounts in (Account.all, Account.filter):
                    cards = Prefetch("cards", Card.all())
                    for _ in range(2):
                        rows = await Account.cache.query(accounts().order_by("id").prefetch_related(cards))
                        assert [row.balance for row in rows] == [*range(1, number + 1)]
                        assert [len(row.cards) for row in rows] == [1] * number
            async with assert_ops(sql=0, redis=["read"]):
                await Account.cache.query(Account.all().order_by("id").prefetch_related(Prefetch("cards", Card.all())))

    async def test_the_rows_that_a_queryset_invalidates_are_read_from_the_primary(
        self, replica: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend):
            account = await Account.create(number=1, balance=5)  # not replicated
            assert (await Account.cache.get(id=account.id)).balance == 5
            await QuerySet(Account).using_db(Account._choose_db(True)).update(balance=6)  # not captured
            assert await Account.cache.invalidate(Account.filter(number=1)) == 1
            assert (await Account.cache.get(id=account.id)).balance == 6
            await QuerySet(Account).using_db(Account._choose_db(True)).update(balance=7)
            assert await Account.filter(number=1).invalidate_cache() == 1
            assert (await Account.cache.refresh(Account.cache.get(id=account.id))).balance == 7


class TestMisses:
    @pytest.fixture
    async def cache(self, account: Account, backend: CountingBackend) -> AsyncIterator[ModelCache]:
        async with ModelCache(backend, replica_lag=LONG) as opened:
            yield opened

    async def test_a_row_is_read_from_the_replica_and_stored(
        self, account: Account, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
            assert (await Account.cache.get(id=account.id)).balance == -1
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await Account.cache.get(id=account.id)).balance == -1

    async def test_a_row_that_was_written_is_read_from_the_primary_and_not_stored(
        self, account: Account, cache: ModelCache, backend: CountingBackend, replica: BaseDBAsyncClient
    ) -> None:
        await QuerySet(Account).using_db(Account._choose_db(True)).bulk_create([Account(number=8)])  # not captured
        [other] = await QuerySet(Account).using_db(Account._choose_db(True)).filter(number=8)
        await replicate_with_debt(replica, account)
        account.balance = 20
        async with assert_ops(backend, redis=["mark", "clear", "mark"]):
            await account.save()
        for _ in range(2):
            async with assert_ops(backend, sql=1, redis=["read", "lease"]):
                assert (await Account.cache.get(id=account.id)).balance == 20
        async with assert_ops(backend, sql=2):  # one on each database
            assert [row.balance for row in await Account.cache.get_many([other.id, account.id])] == [0, 20]
        assert await states(cache, Account.cache.get(id=account.id)) == "W"

    async def test_a_row_that_another_process_wrote_is_read_from_the_primary(
        self, account: Account, cache: ModelCache, backend: CountingBackend, replica: BaseDBAsyncClient
    ) -> None:
        """Writes are marked in the store, which all processes share."""
        await cache.close()
        async with ModelCache(backend, replica_lag=LONG):
            await Account.filter(id=account.id).update(balance=20)
        async with ModelCache(backend, replica_lag=LONG):
            assert (await Account.cache.get(id=account.id)).balance == 20

    @pytest.mark.parametrize("how", ["delete", "create", "update", "bulk", "transaction", "invalidate", "clear"])
    async def test_a_row_that_was_written_in_any_way_is_read_from_the_primary(
        self, how: str, account: Account, cache: ModelCache, backend: CountingBackend, replica: BaseDBAsyncClient
    ) -> None:
        expected: int | None = 20
        pk = account.id
        assert (await Account.cache.get(id=pk)).balance == -1
        if how == "delete":
            await account.delete()
            expected = None
        elif how == "create":
            assert await Account.cache.get_or_none(id=404) is None
            pk = (await Account.create(id=404, number=9, balance=20)).id
        elif how == "update":
            await Account.cache.update(account, balance=20)
        elif how == "bulk":
            await Account.filter(branch=1).update(balance=20)
        elif how == "transaction":
            async with in_transaction(Router.primary):
                await Account.cache.update(account, balance=20)
        else:
            await QuerySet(Account).using_db(Account._choose_db(True)).filter(id=pk).update(balance=20)
            await (Account.cache.invalidate(pk) if how == "invalidate" else Account.cache.clear())
        for _ in range(2):
            found = await Account.cache.get_or_none(id=pk)
            assert (found and found.balance) == expected
            assert [row.balance for row in await Account.cache.get_many([pk])] == ([expected] if found else [])

    async def test_beyond_the_bulk_limit_the_whole_model_is_read_from_the_primary(
        self, account: Account, backend: CountingBackend, cache: ModelCache, replica: BaseDBAsyncClient
    ) -> None:
        await cache.close()
        await Account.create(number=8, branch=1)
        async with ModelCache(backend, replica_lag=LONG, bulk_limit=1) as cache:
            await Account.cache.get(id=account.id)
            await Account.filter(branch=1).update(balance=20)
            for _ in range(2):
                async with assert_ops(backend, sql=1):
                    assert (await Account.cache.get(id=account.id)).balance == 20

    async def test_rows_looked_up_by_other_fields_are_read_from_the_primary(
        self, account: Account, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """The cache does not know the primary keys before the read, so it cannot tell if the rows were just written."""
        for _ in range(2):
            assert (await Account.cache.get(number=7)).balance == 10
            assert [row.balance for row in await Account.cache.filter(branch=1)] == [10]
            assert (await Total(1), await Accounts(1)) == (10, 1)
        assert (await Account.cache.get(id=account.id)).balance == 10

    async def test_after_a_failed_write_rows_are_read_from_the_replica_again(
        self, account: Account, cache: ModelCache
    ) -> None:
        async with in_transaction(Router.primary) as connection:
            await Account.filter(id=account.id).update(balance=20)
            assert (await Account.cache.get(id=account.id)).balance == 20
            await connection.rollback()
        assert (await Account.cache.get(id=account.id)).balance == -1
        card = Card(id=5, account=account, number=1)
        await QuerySet(Card).using_db(Account._choose_db(True)).bulk_create([Card(account=account, number=1)])
        with pytest.raises(IntegrityError):  # after the row was marked
            await card.save()
        assert await states(cache, Card.cache.get(id=5)) == "."

    async def test_without_the_store_rows_are_read_from_the_primary(
        self, account: Account, cache: ModelCache, backend: CountingBackend
    ) -> None:
        with cache.disabled():
            assert (await Account.cache.get(id=account.id)).balance == 10
        await cache.close()
        async with ModelCache(backend, replica_lag=LONG, enabled=False):
            assert (await Account.cache.get(id=account.id)).balance == 10


async def test_after_the_lag_rows_are_read_from_the_replica_again(
    account: Account, backend: CountingBackend, replica: BaseDBAsyncClient
) -> None:
    async with ModelCache(backend, replica_lag=LONG) as cache:
        await Account.filter(id=account.id).update(balance=20)
        query = Account.cache.get(id=account.id)
        assert (await query).balance == 20
        await replicate_with_debt(replica, account)
        await expire_intents(cache, query)
        assert (await query).balance == -1
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await query).balance == -1


async def test_a_reader_overtaken_by_a_write_does_not_store_the_old_row(
    account: Account, backend: CountingBackend, replica: BaseDBAsyncClient
) -> None:
    store = GatedBackend(backend)
    async with ModelCache(store, replica_lag=LONG) as cache:
        query = Account.cache.get(id=account.id)
        with gated_sql(replica) as gates:
            select = gates.hold("SELECT", "after")
            slow = asyncio.create_task(query.resolve())
            await select.reached()
            await Account.cache.update(account, balance=20)
            select.open()
            assert (await slow).balance == -1  # it began before the write
        assert (await query).balance == 20
        await replicate(replica)
        await expire_intents(cache, query)
        assert (await query).balance == 20


async def test_intents_live_longer_by_a_readers_time_and_the_replica_lag(
    account: Account, backend: CountingBackend
) -> None:
    """The COMMIT may come at the end of ``intent_ttl``. From then on a reader may be late, and the replica may lag."""
    ttls: list[int] = []

    class Store(CountingBackend):
        async def mark(self, keys: list[bytes], token: bytes, ttl_ms: int, *args: object) -> object:  # type: ignore[override]
            ttls.append(ttl_ms)
            return await super().mark(keys, token, ttl_ms, *args)  # type: ignore[arg-type]

    async with ModelCache(Store(backend), replica_lag=0.5, intent_ttl=10, lease_ttl=3):
        await account.save()
    assert ttls == [13_500, 500]


@pytest.mark.parametrize("wrong", [0, -1, "1", True])
def test_a_lag_must_be_a_positive_number_of_seconds(wrong: object) -> None:
    with pytest.raises(
        CacheConfigurationError, match=r"CacheConfig\.replica_lag is .*: (it must be above zero|write seconds)"
    ):
        CacheConfig(replica_lag=wrong)  # type: ignore[arg-type]
