"""Stale copies under ``DYNAMIC``: returned at once, refreshed in the background, and gone after ``allowtime``."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BackendError,
    BatchCacheQuery,
    InvalidationType,
    MemoryBackend,
    ModelCache,
    StaleInstanceError,
    local_cache,
)
from aiomodelcache.backends.protocol import Lease
from aiomodelcache.encoding.layout import STALE, VALUE, new_token
from aiomodelcache.plans.refresh import ELECTION_SUFFIX
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, Gate, GatedBackend, Moment, gated_sql
from tests.support.models.stale_models import HeaviestVotes, Memo, MemosOf, Ticket, TicketOf, Vote
from tests.support.stored import entries, states

pytestmark = pytest.mark.models("tests.support.models.stale_models")
with_a_clock = pytest.mark.only_on("memory", because="its clock can be turned")


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    """Writes tickets 1 to 40, each in a queue of its own, before a cache opens."""
    await Ticket.bulk_create([Ticket(id=n, number=n, queue=n) for n in range(1, 41)])


@pytest.fixture
async def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture
async def cache(rows: None, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


def row(n: int) -> LookupQuery[Any]:
    return Ticket.cache.get_or_none(id=n)


def in_queue(n: int) -> LookupQuery[Any]:
    return Ticket.cache.filter(queue=n)


async def until_states(cache: ModelCache, expected: str, *queries: LookupQuery[Any]) -> None:
    """Waits until the entries of the lookups have the expected states."""
    async with asyncio.timeout(PATIENCE):
        while await states(cache, *queries) != expected:
            await asyncio.sleep(0.005)


async def vote(n: int, votes: int) -> None:
    ticket = await Ticket.get(id=n)
    ticket.votes = votes
    await ticket.save(update_fields=["votes"])


async def make_stale(cache: ModelCache, n: int = 1, votes: int = 5) -> None:
    """Leaves a stale copy of a ticket that has no votes, while its row has some."""
    await row(n)
    await vote(n, votes)
    assert await states(cache, row(n)) == "S"


class TestAnswers:
    async def test_a_stale_row_is_returned_at_once_and_refreshed_in_the_background(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await row(1)
        ticket = await Ticket.get(id=1)
        ticket.votes = 5
        async with assert_ops(store, sql=1, redis=["mark", "clear"]):
            await ticket.save(update_fields=["votes"])
        gate = store.hold("lease")
        async with assert_ops(store, sql=0, redis=["read"]):
            assert (await row(1)).votes == 0
        async with assert_ops(store, sql=1) as ops:
            gate.open()
            await until_states(cache, "V", row(1))
            assert [name for name in ops.operations if name != "read"] == ["lease", "fill"]
        async with assert_ops(store, sql=0, redis=["read"]):
            assert (await row(1)).votes == 5
        counters = cache.stats.of("Ticket")
        assert (counters.stale, counters.refreshed, counters.refused, counters.misses) == (1, 1, 0, 1)

    async def test_a_thousand_readers_of_a_stale_row_start_one_refresh(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await make_stale(cache)
        async with assert_ops(store, sql=1) as ops:
            gate = store.hold("fill")  # a reader that comes later finds a fresh row
            answers = await asyncio.gather(*[row(1).resolve() for _ in range(1_000)])
            assert ops.operations.count("read") == 1
            assert {answer.votes for answer in answers} == {0}
            gate.open()
            await until_states(cache, "V", row(1))
            assert ops.operations.count("lease") == ops.operations.count("fill") == 1

    async def test_many_stale_rows_are_refreshed_by_one_statement(self, cache: ModelCache, store: GatedBackend) -> None:
        pks = list(range(1, 41))
        await Ticket.cache.get_many(pks)
        async with assert_ops(store, redis=["mark", "clear"]):
            assert await Ticket.filter(id__in=pks).update(votes=5) == 40
        async with assert_ops(store, sql=1) as ops:
            assert {ticket.votes for ticket in await Ticket.cache.get_many(pks)} == {0}
            await until_states(cache, "V" * 40, *map(row, pks))
            assert [name for name in ops.operations if name != "read"] == ["lease", "fill"]
        assert {ticket.votes for ticket in await Ticket.cache.get_many(pks)} == {5}

    async def test_a_stale_list_is_returned_at_once_and_refreshed(self, cache: ModelCache, store: GatedBackend) -> None:
        assert [each.id for each in await in_queue(1)] == [1]
        await Ticket.create(id=101, number=101, queue=1)
        assert await states(cache, in_queue(1)) == "S"
        async with assert_ops(store, sql=1) as ops:
            assert [each.id for each in await in_queue(1)] == [1]
            assert ops.operations[0] == "read"
            await until_states(cache, "V", in_queue(1))
        async with assert_ops(store, sql=0):
            assert [each.id for each in await in_queue(1)] == [1, 101]

    async def test_a_stale_list_is_returned_by_a_process_that_has_no_prediction(self, cache: ModelCache) -> None:
        await in_queue(1)
        await Ticket.create(id=101, number=101, queue=1)
        cache.open_cache.predictions.clear()
        assert [each.id for each in await in_queue(1)] == [1]
        await until_states(cache, "V", in_queue(1))
        assert [each.id for each in await in_queue(1)] == [1, 101]

    async def test_a_stale_absence_is_returned_at_once_and_refreshed(self, cache: ModelCache) -> None:
        assert await row(99) is None
        assert await states(cache, row(99)) == "N"
        await Ticket.create(id=99, number=99)
        assert await states(cache, row(99)) == "S"
        assert await row(99) is None
        await until_states(cache, "V", row(99))
        assert (await row(99)).number == 99

    async def test_a_deleted_row_is_returned_until_it_is_refreshed(self, cache: ModelCache) -> None:
        await row(1)
        await (await Ticket.get(id=1)).delete()
        assert (await row(1)).id == 1
        await until_states(cache, "N", row(1))
        assert await row(1) is None

    async def test_only_the_list_of_a_dynamic_class_may_be_stale(self, cache: ModelCache) -> None:
        """Rows and other lists of the model are never stale."""
        votes = [await Vote.create(id=n, ticket=1, weight=n) for n in (1, 2, 3)]
        assert [each.id for each in await HeaviestVotes(1)] == [3, 2]
        await Vote.cache.filter(ticket=1)
        votes[0].weight = 9
        await votes[0].save()
        assert await states(cache, HeaviestVotes(1), Vote.cache.filter(ticket=1), Vote.cache.get(id=1)) == "SV."
        assert [each.id for each in await HeaviestVotes(1)] == [3, 2]
        assert (await Vote.cache.get(id=1)).weight == 9
        await until_states(cache, "V", HeaviestVotes(1))
        assert [each.id for each in await HeaviestVotes(1)] == [1, 3]

    async def test_a_stale_list_omits_rows_that_have_left_it(self, cache: ModelCache) -> None:
        """Rows that no longer match the list's key are dropped from the result."""
        await Vote.create(id=1, ticket=1)
        moving = await Vote.create(id=2, ticket=1)
        await HeaviestVotes(1)
        await Vote.create(id=3, ticket=1)
        moving.ticket = 2
        await moving.save()
        assert await states(cache, HeaviestVotes(1)) == "S"
        assert [each.id for each in await HeaviestVotes(1)] == [1, 3]

    async def test_a_stale_row_is_replaced_when_it_is_found_by_its_new_key(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        """The stale copy has the old key, so a lookup by the new key reads the row again."""
        ticket = await Ticket.cache.get(number=1)
        ticket.number, ticket.queue = 1001, 7
        await ticket.save()
        assert await states(cache, row(1), Ticket.cache.get(number=1001)) == "SV"
        await store.lease([Lease(row(1).locate(cache.open_cache).key + ELECTION_SUFFIX)], new_token(), 60_000)
        found = await Ticket.cache.get(number=1001)
        assert (found.id, found.queue) == (1, 7)
        assert await states(cache, row(1)) == "V"
        with pytest.raises(DoesNotExist):
            await Ticket.cache.get(number=1)
        assert sorted(each.id for each in await in_queue(7)) == [1, 7]

    async def test_a_stale_row_is_returned_by_its_unique_key(self, cache: ModelCache, store: GatedBackend) -> None:
        query = Ticket.cache.get(number=1)
        await query
        await vote(1, 5)
        gate = store.hold("lease")
        async with assert_ops(store, sql=0, redis=["read"]):
            assert (await query).votes == 0
        gate.open()
        await until_states(cache, "V", row(1))
        assert (await query).votes == 5

    async def test_explain_reports_a_stale_copy(self, cache: ModelCache) -> None:
        await make_stale(cache)
        explained = await Ticket.cache.explain(id=1)
        assert (explained.source, explained.reason) == ("cache", "stale")

    async def test_without_allowtime_no_stale_copy_is_kept(
        self, rows: None, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(Ticket.CacheMeta, "allowtime")
        async with ModelCache(store) as cache:
            await row(1)
            await vote(1, 5)
            assert await states(cache, row(1)) == "."
            assert (await row(1)).votes == 5

    async def test_a_class_without_allowtime_ignores_a_stale_copy(
        self, rows: None, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Models a new version of the program that has removed ``allowtime``."""
        async with ModelCache(store) as cache:
            await make_stale(cache)
        monkeypatch.delattr(Ticket.CacheMeta, "allowtime")
        monkeypatch.setattr(Ticket.CacheMeta, "invalidation", InvalidationType.UNSET)
        async with ModelCache(store) as cache:
            async with assert_ops(store, sql=1, redis=["read", "lease", "fill"]):
                assert (await row(1)).votes == 5
            counters = cache.stats.of("Ticket")
            assert (counters.stale, counters.undecodable, counters.mismatched) == (0, 0, 0)

    async def test_inside_a_transaction_no_stale_copy_is_returned(self, cache: ModelCache, store: GatedBackend) -> None:
        await make_stale(cache)
        async with in_transaction(), assert_ops(store, redis=[]):
            assert (await row(1)).votes == 5

    async def test_an_only_cache_lookup_refreshes_nothing(self, cache: ModelCache, store: GatedBackend) -> None:
        await make_stale(cache)
        async with assert_ops(store, sql=0, redis=["read"]):
            answer = await BatchCacheQuery(ticket=row(1)).get(only_cache=True)
            assert answer["ticket"].votes == 0
            await asyncio.sleep(0)

    async def test_a_write_in_a_local_cache_drops_the_remembered_instance(self, cache: ModelCache) -> None:
        async with local_cache():
            before = await row(1)
            await vote(1, 5)
            after = await row(1)
            assert after is not before


class TestLifetime:
    @with_a_clock
    async def test_allowtime_counts_from_the_first_invalidation(self, rows: None, clock: "Clock") -> None:
        store = GatedBackend(MemoryBackend(clock=clock))
        async with ModelCache(store) as cache:
            await make_stale(cache)
            for seconds in (30, 29.99):
                clock.now += seconds
                await vote(1, 6)
                assert await states(cache, row(1)) == "S", "a second write does not extend allowtime"
            clock.now += 0.02
            assert await states(cache, row(1)) == "."

    @with_a_clock
    async def test_the_duration_of_the_write_counts_towards_allowtime(self, rows: None, clock: "Clock") -> None:
        """The time counts from the mark on. A write slower than ``allowtime`` leaves no stale copy."""
        store = GatedBackend(MemoryBackend(clock=clock))
        async with ModelCache(store, intent_ttl=300) as cache:
            for n, (operation, seconds, left) in enumerate(
                [("mark", 59.0, "S"), ("clear", 59.0, "S"), ("mark", 61.0, "."), ("clear", 61.0, ".")], 1
            ):
                await row(n)
                gate = store.hold(operation, "after" if operation == "mark" else "before")
                writer = asyncio.create_task(vote(n, 5))
                await gate.reached()
                clock.now += seconds
                gate.open()
                await writer
                assert await states(cache, row(n)) == left
                clock.now += 1.1
                assert await states(cache, row(n)) == "."

    @with_a_clock
    async def test_a_stale_copy_does_not_outlive_the_lifetime_of_its_entry(self, rows: None, clock: "Clock") -> None:
        async with ModelCache(MemoryBackend(clock=clock), timeout=600, ttl_jitter=0) as cache:
            await row(1)
            clock.now += 590
            await vote(1, 5)
            clock.now += 9.9
            assert await states(cache, row(1)) == "S"
            clock.now += 0.2
            assert await states(cache, row(1)) == "."

    async def test_allowtime_is_measured_by_the_clock_of_the_backend(
        self, rows: None, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Ticket.CacheMeta, "allowtime", 0.3)
        async with ModelCache(store) as cache:
            await row(1)
            await vote(1, 5)
            began = asyncio.get_running_loop().time()
            while await states(cache, row(1)) == "S":
                await vote(1, 6)
                await asyncio.sleep(0.02)
            assert asyncio.get_running_loop().time() - began < PATIENCE
            assert await states(cache, row(1)) == "."
            assert (await row(1)).votes == 6


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestWrites:
    @pytest.mark.parametrize("last", ["first", "second"])
    async def test_the_last_of_two_writers_leaves_a_stale_copy_only_if_it_replaced_a_value(
        self, cache: ModelCache, store: GatedBackend, last: str
    ) -> None:
        """The first writer replaced the value, the second one an intent."""
        await row(1)
        gates = [store.hold("clear", skip=skip) for skip in (0, 1)]
        writers = [asyncio.create_task(vote(1, 5))]
        await gates[0].reached()
        writers.append(asyncio.create_task(vote(1, 6)))
        await gates[1].reached()
        order = [0, 1] if last == "second" else [1, 0]
        for at, left in zip(order, ("W", "." if last == "second" else "S"), strict=True):
            gates[at].open()
            await writers[at]
            assert await states(cache, row(1)) == left
        assert (await row(1)).votes == (6 if last == "second" else 0)
        await until_states(cache, "V", row(1))
        assert (await row(1)).votes == 6

    @pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
    async def test_a_rolled_back_write_leaves_the_value(self, cache: ModelCache) -> None:
        await row(1)
        await roll_back(vote(1, 5))
        assert await states(cache, row(1)) == "V", "a rolled back write was never marked"

    async def test_a_transaction_leaves_stale_copies(self, cache: ModelCache, store: GatedBackend) -> None:
        for n in (1, 2):
            await row(n)
        async with assert_ops(store, redis=["mark", "clear"]), in_transaction():
            await vote(1, 5)
            await vote(2, 5)
        assert await states(cache, row(1), row(2)) == "SS"
        assert (await row(1)).votes == 0

    async def test_a_refused_write_leaves_no_stale_copy(self, cache: ModelCache) -> None:
        await row(1)
        ticket = await Ticket.get(id=1)
        ticket.number = 2
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await ticket.save()
        assert await states(cache, row(1)) == "."

    async def test_a_write_whose_clear_is_delayed_leaves_no_stale_copy(
        self, rows: None, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with ModelCache(store, breaker_cooldown=0.02) as cache:
            await row(1)
            clear, refused = store.backend.clear, 1

            async def failing(*args: Any) -> Any:
                nonlocal refused
                refused -= 1
                if refused >= 0:
                    raise BackendError("no answer")
                return await clear(*args)

            monkeypatch.setattr(store.backend, "clear", failing)
            await vote(1, 5)
            await until_states(cache, ".", row(1))
            assert refused < 0

    @pytest.mark.slow(because="waits until an intent expires")
    @pytest.mark.usefixtures("impatient")
    async def test_an_unknown_outcome_leaves_no_stale_copy(
        self, rows: None, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        async with ModelCache(store, intent_ttl=0.5) as cache:
            await row(1)
            with gated_sql(database) as sql:
                gate = sql.hold("UPDATE")
                writer = asyncio.create_task(vote(1, 5))
                await gate.reached()
                writer.cancel()
                await asyncio.wait([writer])
            assert await states(cache, row(1)) in ("W", ".")
            await until_states(cache, ".", row(1))

    async def test_manual_invalidation_leaves_no_stale_copy(self, cache: ModelCache) -> None:
        """Invalidates a stale copy, and a value in a transaction."""
        await make_stale(cache)
        assert await Ticket.cache.invalidate(1) == 1
        assert await states(cache, row(1)) == "."
        await row(2)
        async with in_transaction():
            await Ticket.cache.invalidate(2)
        assert await states(cache, row(2)) == "."

    async def test_clear_leaves_no_stale_copy(self, cache: ModelCache) -> None:
        await make_stale(cache)
        await in_queue(2)
        await Ticket.create(id=101, number=101, queue=2)
        await Ticket.cache.clear()
        assert (await row(1)).votes == 5
        assert len(await in_queue(2)) == 2

    async def test_a_bulk_write_past_the_limit_leaves_no_stale_copy(self, rows: None, store: GatedBackend) -> None:
        async with ModelCache(store, bulk_limit=3):
            await row(1)
            await Ticket.filter(id__lt=10).update(votes=5)
            assert (await row(1)).votes == 5


POINTS: list[tuple[str, Moment]] = [
    (operation, moment) for operation in ("lease", "SELECT", "fill") for moment in ("before", "after")
]
"""Steps at which a refreshing reader is held."""


class TestRefreshing:
    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keeps failed refreshes from being retried before the test allows it, however slow the machine is."""
        monkeypatch.setattr("aiomodelcache.engine.background.REFRESH_RETRY_DELAY", 60.0)

    @pytest.mark.parametrize("look", [row, in_queue])
    async def test_a_write_at_any_step_of_a_refresh_leaves_nothing_stale(
        self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, look: Callable[[int], Any]
    ) -> None:
        """An entry that is afterwards not marked as stale has the value in the database."""
        numbers = iter(range(1, 41))
        for operation, moment in POINTS:
            for again in (False, True):  # if True, another reader fills the key meanwhile
                n = next(numbers)
                await look(n)
                await change(look, n)
                assert await states(cache, look(n)) == "S"
                with gated_sql(database) as sql:
                    gate: Gate = (sql if operation == "SELECT" else store).hold(operation, moment)
                    await look(n)
                    await gate.reached()
                    await change(look, n)
                    if again:
                        await Ticket.cache.invalidate(queue=n)
                        await look(n)
                    gate.open()
                    await until_idle(cache)
                [entry] = await entries(cache, look(n))
                if entry is not None and entry[:1] == VALUE:
                    assert await cached_result(look(n)) == await stored_result(look, n), (operation, moment, again)
                else:
                    assert entry is None or entry[:1] == STALE
                await look(n)
                await until_idle(cache)
                assert await cached_result(look(n)) == await stored_result(look, n), (operation, moment, again)

    async def test_another_reader_refreshes_after_the_election_of_a_dead_one_expires(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await make_stale(cache)
        [key] = [row(1).locate(cache.open_cache).key + ELECTION_SUFFIX]
        await store.lease([Lease(key)], new_token(), 60_000)
        async with assert_ops(store, sql=0):
            for _ in range(3):
                assert (await row(1)).votes == 0
                await until_idle(cache)
        await store.delete([key])  # as if the election expired
        cache.open_cache.reader.background.clear_attempts()
        assert (await row(1)).votes == 0
        await until_states(cache, "V", row(1))

    async def test_a_reader_that_lost_the_election_does_not_retry_with_each_lookup(
        self, cache: ModelCache, store: GatedBackend
    ) -> None:
        await make_stale(cache)
        await store.lease([Lease(row(1).locate(cache.open_cache).key + ELECTION_SUFFIX)], new_token(), 60_000)
        async with assert_ops(store, sql=0) as ops:
            for _ in range(10):
                await row(1)
                await until_idle(cache)
            assert ops.operations.count("lease") == 1

    async def test_a_failed_refresh_is_counted_and_logged(
        self, cache: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await make_stale(cache)

        async def failing(*args: Any, **kwargs: Any) -> Any:
            raise OSError("no database")

        with monkeypatch.context() as patched:
            patched.setattr("aiomodelcache.engine.statements.load", failing)
            assert (await row(1)).votes == 0
            await until_idle(cache)
            assert (await row(1)).votes == 0
        assert cache.stats.of("Ticket").unrefreshed == 1
        assert "could not be refreshed: OSError" in caplog.text
        assert await store.read([row(1).locate(cache.open_cache).key + ELECTION_SUFFIX]) == [None], (
            "a failed refresh gives up its election"
        )
        cache.open_cache.reader.background.clear_attempts()
        await row(1)
        await until_states(cache, "V", row(1))

    async def test_refreshes_beyond_the_limit_are_skipped_and_counted(
        self, cache: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aiomodelcache.engine.background.MAX_BACKGROUND_PLANS", 2)
        for n in (1, 2, 3):
            await make_stale(cache, n)
        assert [each.votes for each in await Ticket.cache.get_many([1, 2, 3])] == [0, 0, 0]
        await until_states(cache, "VVS", *map(row, (1, 2, 3)))
        assert cache.stats.of("Ticket").unrefreshed == 1

    async def test_without_the_backend_nothing_is_read_from_the_database(
        self, cache: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await make_stale(cache)
        gate = store.hold("read", "after")
        reader = asyncio.create_task(row(1).resolve())
        await gate.reached()
        cache.open_cache.guarded.has_undelivered = True
        async with assert_ops(store, sql=0, redis=0):
            gate.open()
            assert (await reader).votes == 0
            await until_idle(cache)
        assert cache.stats.of("Ticket").unrefreshed == 0

    async def test_closing_the_cache_waits_for_a_refresh(self, rows: None, store: GatedBackend) -> None:
        async with ModelCache(store) as cache:
            await make_stale(cache)
            await row(1)
            key = row(1).locate(cache.open_cache).key
        [entry] = await store.read([key])
        assert entry is not None
        assert entry[:1] == VALUE


async def roll_back(write: Awaitable[None]) -> None:
    with suppress(RuntimeError):
        async with in_transaction():
            await write
            raise RuntimeError


async def until_idle(cache: ModelCache) -> None:
    """Waits until no background plan is in flight."""
    async with asyncio.timeout(PATIENCE):
        while cache.open_cache.reader.busy:
            await asyncio.sleep(0.001)


async def change(look: Callable[[int], Any], n: int) -> None:
    if look is row:
        ticket = await Ticket.get(id=n)
        ticket.votes += 1
        await ticket.save(update_fields=["votes"])
    else:
        change.last += 1  # type: ignore[attr-defined]
        await Ticket.create(id=change.last, number=change.last, queue=n)  # type: ignore[attr-defined]


change.last = 1000  # type: ignore[attr-defined]


async def cached_result(query: LookupQuery[Any]) -> Any:
    found = await query
    return sorted(each.id for each in found) if isinstance(found, list) else found.votes


async def stored_result(look: Callable[[int], Any], n: int) -> Any:
    if look is row:
        return (await Ticket.get(id=n)).votes
    return sorted([ticket.id for ticket in await Ticket.filter(queue=n)])


async def first(query: Awaitable[Any]) -> Any:
    """Returns the first instance that a lookup finds."""
    found = await query
    return found[0] if isinstance(found, list) else found


async def in_a_batch(query: LookupQuery[Any]) -> Any:
    return (await BatchCacheQuery(ticket=query))["ticket"]


async def owner_of_a_memo() -> Any:
    return await (await Memo.get(id=1)).ticket


async def owner_that_was_prefetched() -> Any:
    memo = await Memo.get(id=1)
    await cast("Any", Memo).cache.prefetch([memo], "ticket")
    return memo.ticket


LOOKUPS: dict[str, Callable[[], Awaitable[Any]]] = {
    "get": lambda: Ticket.cache.get(id=1),
    "get by a unique key": lambda: Ticket.cache.get(number=1),
    "filter": lambda: first(Ticket.cache.filter(queue=1)),
    "get_many": lambda: first(Ticket.cache.get_many([1])),
    "a batch": lambda: in_a_batch(Ticket.cache.get(id=1)),
    "a computed result": lambda: TicketOf(1),
    "a foreign key": owner_of_a_memo,
    "prefetch": owner_that_was_prefetched,
}


class TestSavingAStaleInstance:
    @pytest.fixture(autouse=True)
    async def memo(self, rows: None) -> Memo:
        return await Memo.create(id=1, ticket_id=1)

    @pytest.mark.parametrize("lookup", LOOKUPS)
    async def test_a_full_save_is_refused(self, cache: ModelCache, store: GatedBackend, lookup: str) -> None:
        ask = LOOKUPS[lookup]
        for _ in range(2):
            await ask()
        await make_stale(cache)
        gate = store.hold("lease")
        ticket = await ask()
        assert (ticket.id, ticket.votes) == (1, 0)
        ticket.queue = 7
        for arguments in ({}, {"force_update": True}):
            async with assert_ops(store, sql=0, redis=0):
                with pytest.raises(StaleInstanceError, match=r"This Ticket .*refresh_from_db\(\).*update_fields"):
                    await ticket.save(**arguments)
        await ticket.save(update_fields=["queue"])
        with pytest.raises(StaleInstanceError):  # its other columns are as old as before
            await ticket.save()
        await Ticket.cache.update(ticket, number=101)
        await ticket.refresh_from_db(fields=["queue"])
        with pytest.raises(StaleInstanceError):
            await pickle.loads(pickle.dumps(ticket)).save()
        await ticket.refresh_from_db()
        await ticket.save()
        gate.open()
        stored = await Ticket.get(id=1)
        assert (stored.number, stored.queue, stored.votes) == (101, 7, 5)

    async def test_a_fresh_instance_and_a_clone_are_saved(self, cache: ModelCache) -> None:
        await (await Ticket.cache.get(id=1)).save()
        await cache.manager(Ticket).refresh(id=1)
        await make_stale(cache)
        stale = await Ticket.cache.get(id=1)
        assert stale.votes == 0
        await until_states(cache, "V", row(1))
        await (await Ticket.cache.get(id=1)).save()
        await stale.delete()
        copied = stale.clone()
        copied.number = 99
        await copied.save()
        assert await Ticket.filter(number__in=[1, 99]).values_list("number", "votes") == [(99, 0)]

    async def test_a_stale_list_of_fresh_rows_is_no_obstacle(self, cache: ModelCache) -> None:
        await Vote.bulk_create([Vote(id=n, ticket=1, weight=n) for n in (1, 2)])
        assert [vote.id for vote in await HeaviestVotes(1)] == [2, 1]
        await Vote.create(id=3, ticket=1, weight=3)
        votes = await HeaviestVotes(1)
        assert [vote.id for vote in votes] == [2, 1]
        await votes[0].save()

    async def test_a_model_of_tortoise_is_refused_as_well(self, cache: ModelCache, store: GatedBackend) -> None:
        caches = cache.manager(Memo)
        for ask in (lambda: caches.get(id=1), lambda: first(caches.filter(ticket=1)), lambda: first(MemosOf(1))):
            await ask()
            await Memo.filter(id=1).update(text="newer")
            gate = store.hold("lease")
            memo = await ask()
            memo.page += 1
            with pytest.raises(StaleInstanceError, match="This Memo"):
                await memo.save()
            await memo.save(update_fields=["page"])
            await memo.refresh_from_db()
            await memo.save()
            gate.open()
            assert (await Memo.get(id=1)).text == "newer"
            await caches.refresh(id=1)
