"""Invalidation policies: under ``OFF`` writes invalidate nothing, under ``RESET`` they refill the entries at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, ValueCache, cached, local_cache
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import GatedBackend, gated_sql
from tests.support.models.stale_models import (
    HeaviestVote,
    Plan,
    PlanCount,
    Score,
    Tariff,
    TariffsOfLevel,
    TicketVotes,
    Vote,
)
from tests.support.stored import states
from tests.write.test_stale import until_idle

pytestmark = pytest.mark.models("tests.support.models.stale_models")


@pytest.fixture
async def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    await Plan.bulk_create([Plan(id=n, number=n) for n in range(1, 6)])
    await Score.bulk_create([Score(id=n, number=n) for n in range(1, 6)])
    async with ModelCache(store, timeout=3600) as opened:
        yield opened


class TestOff:
    async def test_writes_send_nothing_and_keep_cached_entries(self, cache: ModelCache, store: GatedBackend) -> None:
        looks: list[LookupQuery[Any]] = [
            Plan.cache.get(id=1),
            Plan.cache.get(number=1),
            Plan.cache.filter(level=1),
            Plan.cache.get_or_none(id=99),
        ]
        before = [await look for look in looks]
        plan = await Plan.get(id=1)
        plan.level = 2
        async with assert_ops(store, redis=[]):
            await plan.save()
            await Plan.create(id=99, number=99, level=1)
            await Plan.filter(id=2).update(level=2)
            await Plan.filter(id=3).delete()
            await (await Plan.get(id=4)).delete()
            async with in_transaction():
                await Plan.filter(id=5).update(level=7)
        async with assert_ops(store, sql=0):
            assert [await look for look in looks] == before
        assert (await Plan.cache.get(id=1)).level == 1

    @pytest.mark.parametrize(
        "forget",
        [
            lambda plan: Plan.cache.invalidate(plan),
            lambda plan: Plan.cache.invalidate(1),
            lambda plan: Plan.cache.invalidate([1]),
            lambda plan: Plan.cache.invalidate(number=1),
            lambda plan: Plan.cache.invalidate(Plan.filter(id=1)),
            lambda plan: Plan.filter(id=1).invalidate_cache(),  # type: ignore[attr-defined]
            lambda plan: Plan.cache.clear(),
        ],
    )
    async def test_manual_invalidation_and_clear_still_work(
        self, cache: ModelCache, forget: Callable[[Plan], Awaitable[Any]]
    ) -> None:
        await Plan.cache.get(number=1)
        assert len(await Plan.cache.filter(level=2)) == 0
        plan = await Plan.get(id=1)
        plan.level = 2
        await plan.save()
        await forget(plan)
        assert (await Plan.cache.get(number=1)).level == 2
        assert [each.id for each in await Plan.cache.filter(level=2)] == [1]

    async def test_a_list_class_with_a_policy_of_its_own_is_invalidated_while_its_rows_are_not(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        """The list is read again after writes that may change it. Its rows follow the model and stay cached."""
        await Tariff.bulk_create([Tariff(id=n) for n in range(1, 4)])
        assert len(await TariffsOfLevel(1)) == 3
        tariff = await Tariff.get(id=1)
        tariff.price = 5
        async with assert_ops(store, redis=[]):
            await tariff.save()
        async with assert_ops(store, redis=["mark", "clear"]):
            await Tariff.create(id=4)
        assert [each.id for each in await TariffsOfLevel(1)] == [1, 2, 3, 4]
        assert (await Tariff.cache.get(id=1)).price == 0
        await (await Tariff.get(id=2)).delete()
        assert [each.id for each in await TariffsOfLevel(1)] == [1, 3, 4]

    async def test_a_result_changes_only_by_manual_invalidation(self, cache: ModelCache, store: GatedBackend) -> None:
        assert await PlanCount(1) == 5
        await Plan.filter(id=1).delete()
        assert await PlanCount(1) == 5
        await Plan.cache.invalidate(level=1)
        assert await PlanCount(1) == 4

    async def test_a_bulk_write_past_the_limit_clears_a_model_only_if_one_of_its_classes_follows_writes(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await Tariff.bulk_create([Tariff(id=n) for n in range(1, 4)])
        async with ModelCache(store, bulk_limit=2):
            await Plan.cache.get(id=1)
            await Tariff.cache.get(id=1)
            async with assert_ops(store, redis=[]):
                await Plan.filter(id__lt=5).update(level=2)
            await Tariff.filter(id__lt=5).update(level=2)
            assert (await Plan.cache.get(id=1)).level == 1
            assert (await Tariff.cache.get(id=1)).level == 2


class TestReset:
    async def test_written_entries_are_filled_again_before_any_lookup(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        score = await Score.cache.get(number=1)
        await Score.cache.filter(team=1)
        score.points = 7
        async with assert_ops(store) as ops:
            await score.save()
            assert ops.operations[:2] == ["mark", "clear"], "the write does not wait for the fill"
            await until_idle(cache)
        looks = [Score.cache.get(id=1), Score.cache.get(number=1), Score.cache.filter(team=1)]
        assert await states(cache, *looks) == "VVV"  # type: ignore[arg-type]
        async with assert_ops(store, sql=0):
            assert (await looks[0]).points == (await looks[1]).points == 7  # type: ignore[union-attr]
            assert len(await Score.cache.filter(team=1)) == 5
        assert cache.stats.of("Score").reset == 1

    async def test_many_written_rows_are_filled_by_one_statement(self, cache: ModelCache, store: GatedBackend) -> None:
        async with assert_ops(store) as ops:
            await Score.filter(id__lt=4).update(points=5)
            await until_idle(cache)
            assert len([each for each in ops.statements if each.startswith("SELECT") and "FOR UPDATE" not in each]) == 1
            assert ops.operations == ["mark", "clear", "read", "lease", "fill"]
        async with assert_ops(store, sql=0, redis=["read"]):
            assert [each.points for each in await Score.cache.get_many([1, 2, 3])] == [5, 5, 5]

    async def test_a_deleted_row_is_filled_as_absent(self, cache: ModelCache, store: GatedBackend) -> None:
        await (await Score.get(id=1)).delete()
        await until_idle(cache)
        assert await states(cache, Score.cache.get(id=1)) == "N"
        async with assert_ops(store, sql=0):
            with pytest.raises(DoesNotExist):
                await Score.cache.get(id=1)

    async def test_a_transaction_fills_after_its_commit(self, cache: ModelCache, store: GatedBackend) -> None:
        async with in_transaction():
            await Score.filter(id=1).update(points=5)
            await until_idle(cache)
            assert store.operations == []
        await until_idle(cache)
        async with assert_ops(store, sql=0):
            assert (await Score.cache.get(id=1)).points == 5

    @pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
    async def test_a_rollback_fills_nothing(self, cache: ModelCache, store: GatedBackend) -> None:
        with pytest.raises(RuntimeError):
            await _rolled_back()
        await until_idle(cache)
        assert store.operations == []

    async def test_manual_invalidation_fills_again(self, cache: ModelCache) -> None:
        await Score.cache.invalidate(1)
        await until_idle(cache)
        assert await states(cache, Score.cache.get(id=1), Score.cache.get(number=1)) == "VV"

    async def test_a_result_is_computed_again_after_a_write(self, cache: ModelCache, store: GatedBackend) -> None:
        await Vote.create(id=1, ticket=1, weight=3)
        await until_idle(cache)
        async with assert_ops(store, sql=0):
            assert await HeaviestVote(1) == 3
        await Vote.filter(id=1).update(weight=9)
        await until_idle(cache)
        async with assert_ops(store, sql=0):
            assert await HeaviestVote(1) == 9
        assert cache.stats.of("HeaviestVote").reset == 2

    async def test_a_result_that_fails_to_compute_counts_as_unrefreshed(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        vote = await Vote.create(id=1, ticket=1)
        await until_idle(cache)
        await vote.delete()
        await until_idle(cache)
        assert cache.stats.of("HeaviestVote").unrefreshed == 1

    async def test_a_write_during_the_fill_leaves_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT", "after")
            await Score.filter(id=1).update(points=5)
            await gate.reached()
            await Score.filter(id=1).update(points=6)
            gate.open()
            await until_idle(cache)
        assert (await Score.cache.get(id=1)).points == 6

    async def test_without_the_backend_nothing_is_read_from_the_database(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        gate = store.hold("clear", "after")
        writer = asyncio.create_task(_update())
        await gate.reached()
        cache.open_cache.guarded.has_undelivered = True
        async with assert_ops(store, sql=0, redis=0):
            gate.open()
            await writer
            await until_idle(cache)
        cache.open_cache.guarded.has_undelivered = False
        assert cache.stats.of("Score").unrefreshed == 0

    async def test_a_closing_cache_fills_nothing(self, database: BaseDBAsyncClient, store: GatedBackend) -> None:
        await Score.create(id=1, number=1)
        async with ModelCache(store) as cache:
            gate = store.hold("clear", "after")
            writer = asyncio.create_task(_update())
            await gate.reached()
            closing = asyncio.create_task(cache.close())
            await asyncio.sleep(0)
            async with assert_ops(store, redis=0):
                gate.open()
                await asyncio.gather(writer, closing)

    async def test_a_request_reads_its_own_write(self, cache: ModelCache) -> None:
        async with local_cache():
            score = await Score.cache.get(id=1)
            score.points = 7
            await score.save()
            assert (await Score.cache.get(id=1)).points == 7


async def _update() -> None:
    await Score.filter(id=1).update(points=5)


async def _rolled_back() -> None:
    async with in_transaction():
        await _update()
        raise RuntimeError


class Quote(ValueCache[int]):
    """A value that depends on no model."""

    allowtime = 60
    price: ClassVar = 1

    async def get_value(self, name: str) -> int:
        return self.price


@cached(allowtime=60)
async def quoted(name: str) -> int:
    return Quote.price


class TestStaleValues:
    """Values without a model: only manual invalidation makes them stale, and starts their ``allowtime``."""

    @pytest.fixture(autouse=True)
    def price(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        return lambda price: monkeypatch.setattr(Quote, "price", price)

    @pytest.mark.parametrize("query", [lambda: Quote("gold"), lambda: quoted.query("gold")])
    async def test_a_stale_value_is_returned_at_once_and_computed_in_the_background(
        self, cache: ModelCache, store: GatedBackend, query: Callable[[], Any], price: Callable[[int], None]
    ) -> None:
        assert await query() == 1
        price(2)
        async with assert_ops(store, redis=["mark", "clear"]):
            await query().invalidate()
        async with assert_ops(store) as ops:
            assert await query() == 1
            assert ops.operations == ["read"]
            await until_idle(cache)
            assert ops.operations == ["read", "lease", "fill"]
        async with assert_ops(store, redis=["read"]):
            assert await query() == 2

    async def test_in_a_transaction_the_value_is_computed_and_outside_it_stays_stale(
        self, cache: ModelCache, price: Callable[[int], None]
    ) -> None:
        assert await Quote("gold") == 1
        price(2)
        async with in_transaction():
            await Quote("gold").invalidate()
            assert await Quote("gold") == 2
        assert await Quote("gold") == 1
        await until_idle(cache)
        assert await Quote("gold") == 2

    async def test_clear_leaves_no_stale_value(self, cache: ModelCache, price: Callable[[int], None]) -> None:
        assert await Quote("gold") == 1
        await Quote("gold").invalidate()
        price(2)
        await Quote.clear()
        assert await Quote("gold") == 2


class TestStaleResults:
    """Results under ``DYNAMIC``, with stale copies."""

    async def test_a_stale_value_is_returned_at_once_and_computed_in_the_background(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await Vote.create(id=1, ticket=1, weight=3)
        assert await TicketVotes(1) == 3
        await Vote.create(id=2, ticket=1, weight=4)
        await until_idle(cache)
        gate = store.hold("lease")
        async with assert_ops(store, sql=0, redis=["read"]):
            assert await TicketVotes(1) == 3
        gate.open()
        await until_idle(cache)
        async with assert_ops(store, sql=0, redis=["read"]):
            assert await TicketVotes(1) == 7
        assert (cache.stats.of("TicketVotes").stale, cache.stats.of("TicketVotes").refreshed) == (1, 1)

    async def test_a_write_at_any_step_of_a_refresh_leaves_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        pk = 0
        for operation in ("lease", "SELECT", "fill"):
            for moment in ("before", "after"):
                pk += 3
                await Vote.create(id=pk, ticket=pk)
                assert await TicketVotes(pk) == 1
                await Vote.create(id=pk + 1, ticket=pk)
                with gated_sql(database) as sql:
                    gate = (sql if operation == "SELECT" else store).hold(operation, moment)  # type: ignore[arg-type]
                    assert await TicketVotes(pk) == 1
                    await gate.reached()
                    await Vote.create(id=pk + 2, ticket=pk)
                    gate.open()
                    await until_idle(cache)
                await TicketVotes(pk)
                await until_idle(cache)
                assert await TicketVotes(pk) == 3, (operation, moment)
