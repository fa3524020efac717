"""What writes do to the entries of a class: nothing, by ``OFF``; fill them again right away, by ``RESET``."""

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
from tests.write.test_stale import finished

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
    async def test_writes_send_nothing_and_are_not_seen(self, cache: ModelCache, store: GatedBackend) -> None:
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
    async def test_by_hand_everything_goes(self, cache: ModelCache, forget: Callable[[Plan], Awaitable[Any]]) -> None:
        await Plan.cache.get(number=1)
        assert len(await Plan.cache.filter(level=2)) == 0
        plan = await Plan.get(id=1)
        plan.level = 2
        await plan.save()
        await forget(plan)
        assert (await Plan.cache.get(number=1)).level == 2
        assert [each.id for each in await Plan.cache.filter(level=2)] == [1]

    async def test_a_class_of_its_own_over_rows_that_are_left_alone(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        """Its list is found anew after each write; the rows in it are as old as rows may be."""
        await Tariff.bulk_create([Tariff(id=n) for n in range(1, 4)])
        assert len(await TariffsOfLevel(1)) == 3
        tariff = await Tariff.get(id=1)
        tariff.price = 5
        async with assert_ops(store, redis=["mark", "clear"]):
            await tariff.save()
        assert [each.id for each in await TariffsOfLevel(1)] == [1, 2, 3]
        assert (await Tariff.cache.get(id=1)).price == 0
        await (await Tariff.get(id=2)).delete()
        assert [each.id for each in await TariffsOfLevel(1)] == [1, 3]

    async def test_a_result_that_is_left_alone(self, cache: ModelCache, store: GatedBackend) -> None:
        assert await PlanCount(1) == 5
        await Plan.filter(id=1).delete()
        assert await PlanCount(1) == 5
        await Plan.cache.invalidate(level=1)
        assert await PlanCount(1) == 4

    async def test_a_bulk_write_past_the_limit(self, cache: ModelCache, store: GatedBackend) -> None:
        """Everything about a model goes if any class of it is to follow writes."""
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
    async def test_what_was_written_is_there_without_being_asked_for(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        score = await Score.cache.get(number=1)
        await Score.cache.filter(team=1)
        score.points = 7
        async with assert_ops(store) as ops:
            await score.save()
            assert ops.operations[:2] == ["mark", "clear"], "the write does not wait for it"
            await finished(cache)
        looks = [Score.cache.get(id=1), Score.cache.get(number=1), Score.cache.filter(team=1)]
        assert await states(cache, *looks) == "VVV"  # type: ignore[arg-type]
        async with assert_ops(store, sql=0):
            assert (await looks[0]).points == (await looks[1]).points == 7  # type: ignore[union-attr]
            assert len(await Score.cache.filter(team=1)) == 5
        assert cache.stats.of("Score").reset == 1

    async def test_many_rows_are_one_statement(self, cache: ModelCache, store: GatedBackend) -> None:
        async with assert_ops(store) as ops:
            await Score.filter(id__lt=4).update(points=5)
            await finished(cache)
            assert len([each for each in ops.statements if each.startswith("SELECT") and "FOR UPDATE" not in each]) == 1
            assert ops.operations == ["mark", "clear", "read", "lease", "fill"]
        async with assert_ops(store, sql=0, redis=["read"]):
            assert [each.points for each in await Score.cache.get_many([1, 2, 3])] == [5, 5, 5]

    async def test_a_deleted_row_is_known_to_be_absent(self, cache: ModelCache, store: GatedBackend) -> None:
        await (await Score.get(id=1)).delete()
        await finished(cache)
        assert await states(cache, Score.cache.get(id=1)) == "N"
        async with assert_ops(store, sql=0):
            with pytest.raises(DoesNotExist):
                await Score.cache.get(id=1)

    async def test_after_the_commit_of_a_transaction(self, cache: ModelCache, store: GatedBackend) -> None:
        async with in_transaction():
            await Score.filter(id=1).update(points=5)
            await finished(cache)
            assert store.operations == []
        await finished(cache)
        async with assert_ops(store, sql=0):
            assert (await Score.cache.get(id=1)).points == 5

    async def test_not_after_a_rollback(self, cache: ModelCache, store: GatedBackend) -> None:
        with pytest.raises(RuntimeError):
            await _rolled_back()
        await finished(cache)
        assert store.operations == []

    async def test_by_hand_too(self, cache: ModelCache) -> None:
        await Score.cache.invalidate(1)
        await finished(cache)
        assert await states(cache, Score.cache.get(id=1), Score.cache.get(number=1)) == "VV"

    async def test_a_result(self, cache: ModelCache, store: GatedBackend) -> None:
        await Vote.create(id=1, ticket=1, weight=3)
        await finished(cache)
        async with assert_ops(store, sql=0):
            assert await HeaviestVote(1) == 3
        await Vote.filter(id=1).update(weight=9)
        await finished(cache)
        async with assert_ops(store, sql=0):
            assert await HeaviestVote(1) == 9
        assert cache.stats.of("HeaviestVote").reset == 2

    async def test_a_result_that_cannot_be_computed(self, cache: ModelCache, store: GatedBackend) -> None:
        vote = await Vote.create(id=1, ticket=1)
        await finished(cache)
        await vote.delete()
        await finished(cache)
        assert cache.stats.of("HeaviestVote").unrefreshed == 1

    async def test_a_write_that_overtakes_it(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT", "after")
            await Score.filter(id=1).update(points=5)
            await gate.reached()
            await Score.filter(id=1).update(points=6)
            gate.open()
            await finished(cache)
        assert (await Score.cache.get(id=1)).points == 6

    async def test_without_the_store_nothing_is_asked_of_the_database(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        gate = store.hold("clear", "after")
        writer = asyncio.create_task(_update())
        await gate.reached()
        cache.open_cache.guarded.has_undelivered = True
        async with assert_ops(store, sql=0, redis=0):
            gate.open()
            await writer
            await finished(cache)
        cache.open_cache.guarded.has_undelivered = False
        assert cache.stats.of("Score").unrefreshed == 0

    async def test_not_when_the_cache_closes(self, database: BaseDBAsyncClient, store: GatedBackend) -> None:
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

    async def test_a_request_that_writes_sees_what_it_wrote(self, cache: ModelCache) -> None:
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
    """Values of no model are invalidated by hand only, so that this is what ``allowtime`` counts from."""

    @pytest.fixture(autouse=True)
    def price(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        return lambda price: monkeypatch.setattr(Quote, "price", price)

    @pytest.mark.parametrize("query", [lambda: Quote("gold"), lambda: quoted.query("gold")])
    async def test_is_answered_at_once_and_computed_meanwhile(
        self, cache: ModelCache, store: GatedBackend, query: Callable[[], Any], price: Callable[[int], None]
    ) -> None:
        assert await query() == 1
        price(2)
        async with assert_ops(store, redis=["mark", "clear"]):
            await query().invalidate()
        async with assert_ops(store) as ops:
            assert await query() == 1
            assert ops.operations == ["read"]
            await finished(cache)
            assert ops.operations == ["read", "lease", "fill"]
        async with assert_ops(store, redis=["read"]):
            assert await query() == 2

    async def test_in_a_transaction(self, cache: ModelCache, price: Callable[[int], None]) -> None:
        assert await Quote("gold") == 1
        price(2)
        async with in_transaction():
            await Quote("gold").invalidate()
            assert await Quote("gold") == 2
        assert await Quote("gold") == 1
        await finished(cache)
        assert await Quote("gold") == 2

    async def test_clearing_is_at_once(self, cache: ModelCache, price: Callable[[int], None]) -> None:
        assert await Quote("gold") == 1
        await Quote("gold").invalidate()
        price(2)
        await Quote.clear()
        assert await Quote("gold") == 2


class TestStaleResults:
    """Computed results under ``DYNAMIC``."""

    async def test_is_answered_at_once_and_computed_meanwhile(self, cache: ModelCache, store: GatedBackend) -> None:
        await Vote.create(id=1, ticket=1, weight=3)
        assert await TicketVotes(1) == 3
        await Vote.create(id=2, ticket=1, weight=4)
        await finished(cache)
        gate = store.hold("lease")
        async with assert_ops(store, sql=0, redis=["read"]):
            assert await TicketVotes(1) == 3
        gate.open()
        await finished(cache)
        async with assert_ops(store, sql=0, redis=["read"]):
            assert await TicketVotes(1) == 7
        assert (cache.stats.of("TicketVotes").stale, cache.stats.of("TicketVotes").refreshed) == (1, 1)

    async def test_a_write_at_any_step_of_it(
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
                    await finished(cache)
                await TicketVotes(pk)
                await finished(cache)
                assert await TicketVotes(pk) == 3, (operation, moment)
