"""Settings of one lookup by ``options``, and blocks that restrict some lookups."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    InvalidationType,
    MemoryBackend,
    ModelCache,
    ValueCache,
    cached,
    local_cache,
)
from aiomodelcache.testing import CountingBackend, assert_ops, count_ops
from tests.support.gates import PATIENCE
from tests.support.models.models import Event, EventBySlug, LatestEvents, User
from tests.support.stored import states

pytestmark = pytest.mark.only_on("sqlite", because="what a lookup stores is the same for every database")

computed: list[int] = []


@cached
async def user_names() -> list[str]:
    computed.append(1)
    return [user.username for user in await User.all().order_by("id")]


class Number(ValueCache[int]):
    invalidation = InvalidationType.OFF

    async def get_value(self) -> int:
        computed.append(1)
        return len(computed)


@pytest.fixture(autouse=True)
def nothing_computed() -> None:
    computed.clear()


@pytest.fixture
async def event(cache: ModelCache) -> Event:
    kim = await User.create(username="kim")
    return await Event.create(id=1, slug="pycon", organizer=kim)


def lookups() -> dict[str, Callable[[], Any]]:
    return {
        "row": lambda: Event.cache.get(id=1),
        "index": lambda: Event.cache.get(slug="pycon"),
        "list": lambda: Event.cache.filter(organizer=1),
        "slice": lambda: Event.cache.filter(organizer=1)[:5],
        "ordered": lambda: Event.cache.filter(organizer=1).order_by("-id"),
        "count": lambda: Event.cache.count(organizer=1),
        "many": lambda: Event.cache.get_many([1, 2]),
        "class": lambda: EventBySlug("pycon"),
        "class list": lambda: LatestEvents(1),
        "query": lambda: Event.cache.query(Event.filter(id=1)),
    }


class TestOptions:
    @pytest.mark.parametrize("kind", lookups())
    async def test_without_fill_a_lookup_reads_and_stores_nothing(
        self, kind: str, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = lookups()[kind]()
        expected = await query.options(cache=False)
        for _ in range(2):
            with count_ops(backend) as ops:
                assert await query.options(fill=False) == expected
            assert ops.statements
            assert not {"fill", "delete"} & {*ops.operations}
        for _ in range(2):
            await query
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await query.options(fill=False) == expected

    @pytest.mark.parametrize("kind", lookups())
    async def test_without_cache_a_lookup_sends_nothing_to_the_store(
        self, kind: str, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = lookups()[kind]()
        expected = await query
        async with local_cache():
            await query
            with count_ops(backend) as ops:
                assert await query.options(cache=False) == expected
            assert ops.statements
            assert not ops.operations

    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_a_timeout_shortens_the_life_of_what_it_stores(self, database: BaseDBAsyncClient) -> None:
        now = 0.0
        async with ModelCache(MemoryBackend(clock=lambda: now), timeout=600, ttl_jitter=0, refresh_ahead=0) as cache:
            await User.create(id=1, username="kim")
            await User.cache.filter(team=0).options(timeout="10s")
            await user_names.query().options(timeout="2h")
            now = 9.0
            assert await states(cache, User.cache.filter(team=0), User.cache.get(id=1)) == "VV"
            now = 11.0
            assert await states(cache, User.cache.filter(team=0), User.cache.get(id=1)) == ".."
            await user_names()
            now = 601.0
            await user_names()
            assert len(computed) == 2

    async def test_a_wrong_timeout_is_refused(self, cache: ModelCache) -> None:
        with pytest.raises(CacheConfigurationError, match=r"GetQuery.*options: timeout is 0: it must be above zero"):
            Event.cache.get(id=1).options(timeout=0)

    async def test_in_a_batch_each_query_has_its_own(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        batch = BatchCacheQuery(
            stored=Event.cache.get(id=1), names=user_names.query().options(fill=False), user=User.cache.get(id=1)
        )
        await batch
        async with assert_ops(backend, sql=1, redis=["read", "lease"]):  # the version of the table
            assert (await batch)["names"] == ["kim"]
        assert await BatchCacheQuery(names=user_names.query().options(fill=False)).get(only_cache=True) == {}

    async def test_in_a_transaction_it_reads_there(self, event: Event, cache: ModelCache) -> None:
        async with in_transaction():
            await Event.filter(id=1).update(title="new")
            assert (await Event.cache.get(id=1).options(fill=False)).title == "new"

    @pytest.mark.parametrize("options", [{"fill": False}, {"cache": False}, {"timeout": 60}], ids=str)
    async def test_a_computation_follows_what_it_has_read_so(
        self, options: dict[str, Any], event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        @cached
        async def title() -> str:
            return (await Event.cache.get(slug="pycon").options(**options)).title

        assert await title() == ""
        async with assert_ops(backend, sql=0):
            assert await title() == ""
        await Event.filter(id=1).update(title="new")
        assert await title() == "new"

    async def test_the_scope_of_a_request_keeps_what_was_not_stored(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with local_cache():
            first = await Event.cache.get(id=1).options(fill=False)
            async with assert_ops(backend, sql=0, redis=0):
                assert await Event.cache.get(id=1) is first


class TestDisabled:
    @pytest.mark.parametrize("kind", lookups())
    async def test_lookups_of_a_model_query_the_database(
        self, kind: str, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = lookups()[kind]()
        await query
        await User.cache.get(id=1)
        with cache.disabled(Event, User):
            for ask in (query, BatchCacheQuery(one=query)):
                with count_ops(backend) as ops:
                    await ask
                assert ops.statements
                assert not ops.operations
        with cache.disabled(User), cache.without_fill(User):
            async with assert_ops(backend, sql=0):
                await query

    async def test_a_class_a_function_and_values_are_disabled_alone(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        every: list[Callable[[], Awaitable[Any]]] = [EventBySlug("pycon").resolve, user_names, Number().resolve]
        targets: list[Any] = [EventBySlug, user_names, Number]
        for ask in every:
            await ask()
        for target, own in zip(targets, every, strict=True):
            with cache.disabled(target):
                for ask in every:
                    async with assert_ops(backend, redis=0 if ask is own else 1):
                        await ask()

    async def test_foreign_keys_and_prefetches_follow_the_model_that_they_lead_to(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await User.cache.get(id=1)
        fetched, again = await Event.cache.get(id=1), await Event.cache.get(id=1)
        with cache.disabled(User):
            async with assert_ops(backend, sql=1, redis=0):
                await fetched.organizer
            async with assert_ops(backend, sql=1, redis=0):
                await Event.cache.prefetch([fetched], "organizer")
        with cache.disabled(Event):
            async with assert_ops(backend, sql=0, redis=1):
                await again.organizer

    async def test_tasks_that_the_block_starts_are_in_it_and_others_are_not(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.cache.get(id=1)
        entered, leave = asyncio.Event(), asyncio.Event()

        async def block() -> None:
            with cache.disabled(Event):
                entered.set()
                async with asyncio.timeout(PATIENCE):
                    await leave.wait()
                async with assert_ops(backend, sql=1, redis=0), asyncio.TaskGroup() as tasks:
                    tasks.create_task(Event.cache.get(id=1).resolve())

        task = asyncio.create_task(block())
        await entered.wait()
        async with assert_ops(backend, sql=0, redis=1):
            await Event.cache.get(id=1)
        leave.set()
        await task

    async def test_explain_says_so(self, event: Event, cache: ModelCache) -> None:
        with cache.disabled(Event):
            assert (await Event.cache.explain(id=1)).reason == "disabled"
            assert (await User.cache.explain(id=1)).reason == "missing"

    @pytest.mark.parametrize("target", [Event(id=1), "Event", int, None], ids=lambda target: type(target).__name__)
    async def test_other_targets_are_refused(self, target: Any, cache: ModelCache) -> None:
        for block in (cache.disabled, cache.without_fill):
            with pytest.raises(TypeError, match="takes models, cache classes and cached functions"):
                block(target)


class TestWithoutFill:
    @pytest.mark.parametrize("kind", lookups())
    async def test_lookups_store_nothing_and_writes_invalidate(
        self, kind: str, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = lookups()[kind]()
        with cache.without_fill():
            for _ in range(2):
                with count_ops(backend) as ops:
                    await query
                assert ops.statements
                assert not {"fill", "delete"} & {*ops.operations}
        for _ in range(2):
            await query
        with cache.without_fill(Event):
            async with assert_ops(backend, sql=0, redis=["read"]):
                await query.options(timeout=60)
            await Event.filter(id=1).update(title="new", state="open")
            with count_ops(backend) as ops:
                await query
            assert ops.statements


class TestRefresh:
    async def test_a_refresh_computes_and_stores(self, cache: ModelCache, backend: CountingBackend) -> None:
        assert await Number() == 1
        assert await Number().refresh() == 2
        assert await Number() == 2
        assert await user_names.refresh() == []
        async with assert_ops(backend, redis=1, sql=0):
            assert await user_names() == []

    async def test_a_computation_that_began_before_is_not_stored(self, cache: ModelCache) -> None:
        entered, go = asyncio.Event(), asyncio.Event()

        @cached(invalidation=InvalidationType.OFF)
        async def value() -> int:
            if entered.is_set():
                return 2
            entered.set()
            async with asyncio.timeout(PATIENCE):
                await go.wait()
            return 1

        early = asyncio.create_task(value.query().resolve())
        await entered.wait()
        assert await value.refresh() == 2
        go.set()
        assert await early == 1
        assert await value() == 2

    async def test_it_raises_although_there_is_a_last_good_value(self, cache: ModelCache) -> None:
        fails = False

        @cached(stale_if_error="5m", allowtime="5m", invalidation=InvalidationType.OFF)
        async def value() -> int:
            if fails:
                raise ValueError
            return 1

        await value()
        fails = True
        with pytest.raises(ValueError):
            await value.refresh()
        assert await value() == 1

    async def test_in_a_transaction_it_takes_effect_at_commit(self, cache: ModelCache) -> None:
        assert await Number() == 1
        async with in_transaction():
            assert await Number().refresh() == 2
        assert await Number() == 3
