"""``cache.disabled()`` and ``enabled=False``: lookups query the database, and writes still invalidate."""

import asyncio

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, ModelCache, cached, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, EventBySlug, LatestEvents, State, User
from tests.support.stored import states

pytestmark = pytest.mark.only_on(
    "sqlite", because="what a cache that is disabled leaves alone is the same for every database"
)


@pytest.fixture
async def event(cache: ModelCache) -> Event:
    kim = await User.create(username="kim")
    return await Event.create(slug="pycon", organizer=kim, state=State.OPEN)


async def test_every_kind_of_lookup_queries_the_database(
    event: Event, cache: ModelCache, backend: CountingBackend
) -> None:
    await Event.cache.get(slug="pycon")
    with cache.disabled():
        async with assert_ops(backend, sql=9, redis=0):
            assert await Event.cache.get(slug="pycon") == event
            assert await Event.cache.get_or_none(id=404) is None
            assert await Event.cache.filter(organizer=event.organizer_id) == [event]  # type: ignore[attr-defined]
            assert await Event.cache.exists(slug="pycon") is True
            assert await Event.cache.get_many([event.id, 404]) == [event]
            assert await EventBySlug("pycon") == event
            assert await LatestEvents(event.organizer_id) == [event]  # type: ignore[attr-defined]
            assert (await (await Event.cache.get(id=event.id)).organizer).username == "kim"
        with pytest.raises(DoesNotExist):
            await Event.cache.get(slug="other")
        assert await BatchCacheQuery(event=Event.cache.get(id=event.id)).get(only_cache=True) == {}
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await Event.cache.get(slug="pycon") == event


async def test_lookups_inside_computed_values_query_the_database_too(
    event: Event, cache: ModelCache, backend: CountingBackend
) -> None:
    computed: list[Event] = []

    @cached()
    async def headline() -> str:
        computed.append(await Event.cache.get(id=event.id))
        return computed[-1].slug

    await Event.cache.get(id=event.id)
    with cache.disabled():
        async with assert_ops(backend, sql=1, redis=0):
            assert await headline() == "pycon"
        inside = asyncio.create_task(headline())
    async with assert_ops(backend, sql=1, redis=["read", "lease", "read", "fill"]):  # both calls compute
        await asyncio.gather(inside, headline())
    assert len(computed) == 3
    async with assert_ops(backend, sql=0, redis=["read"]):
        await Event.cache.get(id=event.id)


async def test_lookups_of_one_tick_still_share_a_statement(
    event: Event, cache: ModelCache, backend: CountingBackend
) -> None:
    with cache.disabled():
        async with assert_ops(backend, sql=1, redis=0):
            assert await asyncio.gather(*[Event.cache.get_or_none(id=n) for n in (event.id, 404, 405)]) == [
                event,
                None,
                None,
            ]


async def test_writes_still_invalidate(event: Event, cache: ModelCache, backend: CountingBackend) -> None:
    assert (await Event.cache.get(slug="pycon")).title == ""
    with cache.disabled():
        async with assert_ops(backend, redis=["mark", "clear"]):
            event.title = "PyCon"
            await event.save()
        async with in_transaction():
            await Event.filter(id=event.id).update(position=7)
        await Event.cache.clear()
    again = await Event.cache.get(slug="pycon")
    assert (again.title, again.position) == ("PyCon", 7)


async def test_lookups_fill_nothing(event: Event, cache: ModelCache) -> None:
    await Event.cache.clear()
    async with cache.disabled():
        await Event.cache.get(id=event.id)
        await Event.cache.filter(venue=None)
    assert await states(cache, Event.cache.get(id=event.id), Event.cache.filter(venue=None)) == ".."


class TestExtent:
    async def test_tasks_started_in_the_block_inherit_it_and_other_tasks_do_not(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.cache.get(id=event.id)
        inside, outside = asyncio.Event(), asyncio.Event()

        async def beside() -> None:
            await inside.wait()
            async with assert_ops(backend, sql=0, redis=["read"]):
                await Event.cache.get(id=event.id)
            outside.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(beside())
            with cache.disabled():
                inside.set()
                await outside.wait()
                async with assert_ops(backend, sql=1, redis=0):
                    await asyncio.create_task(Event.cache.get(id=event.id).resolve())

    async def test_the_block_can_be_nested_and_entered_again(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        off = cache.disabled()
        with off:
            with off, cache.disabled():
                pass
            async with assert_ops(backend, sql=1, redis=0):
                await Event.cache.get(id=event.id)
        async with assert_ops(backend, redis=3):
            await Event.cache.get(id=event.id)

    async def test_the_block_ends_on_an_error_and_can_end_in_another_task(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        with pytest.raises(RuntimeError), cache.disabled():
            raise RuntimeError
        off = cache.disabled()

        async def begin() -> None:
            off.__enter__()

        await asyncio.create_task(begin())
        off.__exit__(None, None, None)
        async with assert_ops(backend, redis=3):
            await Event.cache.get(id=event.id)

    async def test_the_block_applies_to_one_cache(
        self, event: Event, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        async with ModelCache("memory://") as other:
            with other.disabled():
                async with assert_ops(backend, redis=3):
                    await Event.cache.get(id=event.id)
                with cache.disabled():
                    batch = BatchCacheQuery(
                        here=Event.cache.get(id=event.id), there=other.manager(Event).get(id=event.id)
                    )
                    async with assert_ops(backend, sql=2, redis=0):
                        await batch

    @pytest.mark.parametrize("by", ["block", "setting"])
    async def test_a_request_scope_around_is_not_used_either(
        self, by: str, event: Event, backend: CountingBackend, cache: ModelCache
    ) -> None:
        if by == "setting":
            await cache.close()
            cache = await ModelCache(backend, enabled=False).open()
        async with local_cache():
            first = await Event.cache.get(id=event.id)
            async with cache.disabled():
                assert await Event.cache.get(id=event.id) is not first
                assert (await BatchCacheQuery(event=Event.cache.get(id=event.id)))["event"] is not first
            assert (await Event.cache.get(id=event.id) is first) is (by == "block")
        await cache.close()
