"""``prefetch`` of the reverse of foreign keys, and ``get_many`` by a key that several rows share."""

import asyncio
from typing import Any

import pytest

from aiomodelcache import BatchCacheQuery, CacheNotRegistered, ModelCache, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.list_models import Site, Talk, Thread, Track
from tests.support.models.models import Event, State, User, Venue

pytestmark = pytest.mark.models("tests.support.models.models", "tests.support.models.list_models")


@pytest.fixture
async def users(cache: ModelCache) -> list[User]:
    """Four users with as many events as their numbers, in the order of their positions. Half of them have a venue."""
    users = [await User.create(username=str(number)) for number in range(4)]
    venue = await Venue.create(id="3fa85f64-5717-4562-b3fc-2c963f66afa6", name="Hall", city="Bonn")
    await Event.bulk_create(
        [
            Event(slug=f"{n}{at}", title=str(at), position=-at, organizer=users[n], venue=venue if at % 2 else None)
            for n in range(4)
            for at in range(n)
        ]
    )
    return users


def titles(rows: Any) -> str:
    return "".join([row.title for row in rows])


class TestPrefetch:
    async def test_lists_of_all_instances_take_one_statement_and_then_one_round_trip(
        self, users: list[User], backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=1):
            await User.cache.prefetch(users, "events")
        again = await User.all().order_by("id")
        async with assert_ops(backend, sql=0, redis=["read"]):
            await User.cache.prefetch(again, "events")
        async with assert_ops(backend, sql=0, redis=0):
            for loaded in (users, again):
                assert [titles(user.events) for user in loaded] == ["", "0", "10", "210"]  # type: ignore[attr-defined]
                assert [len(user.events) for user in loaded] == [0, 1, 2, 3]  # type: ignore[attr-defined]
            assert [event.title async for event in users[3].events] == ["2", "1", "0"]  # type: ignore[attr-defined]
            await User.cache.prefetch(users, "events")

    async def test_the_result_is_that_of_prefetch_related(self, users: list[User]) -> None:
        expected = await User.all().order_by("id").prefetch_related("events")
        await User.cache.prefetch(users, "events")
        for user, other in zip(users, expected, strict=True):
            mine, theirs = user.events.related_objects, other.events.related_objects  # type: ignore[attr-defined]
            assert mine == theirs
            assert [row.__dict__ for row in mine] == [row.__dict__ for row in theirs]

    async def test_prefetch_follows_lists_to_the_relations_of_their_rows(
        self, users: list[User], backend: CountingBackend
    ) -> None:
        await User.cache.prefetch(users, "events__venue", "events__organizer")
        again = await User.all().order_by("id")
        async with assert_ops(backend, sql=0, redis=["read", "read"]):
            await User.cache.prefetch(again, "events__venue", "events__organizer")
        events = again[3].events  # type: ignore[attr-defined]
        assert [event.venue.name if event.venue else None for event in events] == [None, "Hall", None]
        assert [event.organizer.username for event in events] == ["3", "3", "3"]

    async def test_writes_are_seen_and_loaded_lists_are_kept(self, users: list[User]) -> None:
        await User.cache.prefetch(users, "events")
        await Event.filter(slug="32").update(organizer_id=users[0].id)
        await (await Event.get(slug="31")).delete()
        await Event.create(slug="new", title="n", position=9, organizer=users[1])
        again = await User.all().order_by("id")
        await User.cache.prefetch(again, "events")
        assert [titles(user.events) for user in again] == ["2", "0n", "10", "0"]  # type: ignore[attr-defined]
        await User.cache.prefetch(users, "events")
        assert titles(users[3].events) == "210"  # type: ignore[attr-defined]

    async def test_two_instances_of_a_row_have_lists_of_their_own(self, users: list[User]) -> None:
        twice = [await User.get(id=users[2].id), await User.get(id=users[2].id)]
        await User.cache.prefetch(twice, "events")
        first, second = [user.events.related_objects for user in twice]  # type: ignore[attr-defined]
        assert first == second
        assert first is not second

    async def test_relations_without_a_list_are_errors_with_their_remedy(self, cache: ModelCache) -> None:
        with pytest.raises(CacheNotRegistered, match=r"Talk\.labels .* that no cached_manytomany names"):
            await Talk.cache.prefetch([], "labels")
        with pytest.raises(CacheNotRegistered, match=r"Site\.rooms .* make Room a CachedModel .* add \(\"site\","):
            await Site.cache.prefetch([], "rooms")
        with pytest.raises(ValueError, match=r"Track\.talks cannot be prefetched for an instance without id"):
            await Track.cache.prefetch([Track(name="new")], "talks")


class TestGetMany:
    async def test_all_rows_of_the_values_follow_each_other(self, users: list[User], backend: CountingBackend) -> None:
        ids = [users[3].id, users[0].id, users[1].id, users[3].id, 404]
        async with assert_ops(backend, sql=1):
            assert titles(await Event.cache.get_many(ids, key="organizer")) == "2100"
        async with assert_ops(backend, sql=0, redis=["read"]):
            found = await Event.cache.get_many(ids, key="organizer")
        assert [event.slug for event in found] == ["32", "31", "30", "10"]
        async with assert_ops(backend, sql=1):  # the list of one value is missing
            assert titles(await Event.cache.get_many([users[2], users[1]], key="organizer_id")) == "100"
        await Event.filter(slug="31").update(organizer_id=users[0].id)
        assert [event.slug for event in await Event.cache.get_many(ids, key="organizer")] == ["32", "30", "31", "10"]

    async def test_keys_of_several_fields(self, users: list[User], backend: CountingBackend) -> None:
        await Event.filter(title="0").update(state=State.OPEN)
        pairs = [(users[2].id, State.OPEN), (users[3].id, "draft"), (users[0].id, State.OPEN)]
        for sql in (1, 0):
            async with assert_ops(backend, sql=sql):
                found = await Event.cache.get_many(pairs, key=("organizer", "state"))
            assert [event.slug for event in found] == ["20", "32", "31"]

    async def test_it_batches_and_is_remembered_by_a_scope(self, users: list[User], backend: CountingBackend) -> None:
        query = Event.cache.get_many([users[3].id, users[2].id], key="organizer")
        await asyncio.gather(query, User.cache.get(id=users[0].id))
        async with assert_ops(backend, sql=0, redis=["read"]):
            result = await BatchCacheQuery(many=query, user=User.cache.get(id=users[0].id))
        assert titles(result["many"]) == "21010"
        async with local_cache():
            events = await Event.cache.filter(organizer=users[3].id)
            found, again = await query, await query
            assert found[0] is again[0] is events[0]
        async with assert_ops(backend, sql=0, redis=["read"]):
            await asyncio.gather(query, query)

    async def test_a_key_that_is_not_declared_is_an_error(self, cache: ModelCache) -> None:
        with pytest.raises(CacheNotRegistered, match=r"Event has no cache by \(title\)"):
            await Event.cache.get_many(["x"], key="title")
        with pytest.raises(CacheNotRegistered, match="in_bulk needs a unique key"):
            await Event.cache.in_bulk([State.OPEN], key="state")
        assert await Thread.cache.get_many([404]) == []
