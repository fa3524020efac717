"""Cached foreign keys: ``await event.organizer`` reads the cache, and otherwise behaves as in Tortoise."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import NoValuesFetched
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CachedModel, CacheQuery, ModelCache, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.observe.recorder import Recorder
from tests.support.databases import DatabaseUrl
from tests.support.models.models import Event, User, Venue

pytestmark = pytest.mark.models("tests.support.models.models", "tests.query.test_foreignkeys")


class Country(CachedModel):
    code = fields.CharField(max_length=2, primary_key=True)
    number = fields.IntField(unique=True)

    class CacheMeta:
        get_key_fields_list = [("number",)]


class City(CachedModel):
    """A city that refers to a field of a country other than its primary key, and to another city."""

    id = fields.IntField(primary_key=True)
    country: fields.ForeignKeyRelation[Country] = fields.ForeignKeyField(
        "app.Country", to_field="number", related_name="cities"
    )
    capital: fields.ForeignKeyNullableRelation["City"] = fields.ForeignKeyField("app.City", null=True)
    mayor: fields.OneToOneRelation[User] = fields.OneToOneField("app.User", related_name="city")

    class CacheMeta:
        cached_foreignkeys = ["country", "capital", "mayor"]


@pytest.fixture
async def events(database: BaseDBAsyncClient) -> list[Event]:
    """Ten events of two users, five of them in one venue, written before any cache was open."""
    users = [await User.create(username=name) for name in ("kim", "lee")]
    venue = await Venue.create(name="Home", city="Bonn")
    return [
        await Event.create(
            slug=f"event{n}",
            title=f"{n}",
            position=n,
            organizer_id=users[n % 2].id,
            venue_id=venue.id if n < 5 else None,
        )
        for n in range(10)
    ]


@pytest.fixture
async def cache(events: list[Event], backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend) as opened:
        yield opened


@pytest.fixture
async def event(cache: ModelCache, events: list[Event]) -> Event:
    """An event as loaded from the database, without its related rows."""
    return await Event.get(id=events[0].id)


class TestAwaited:
    async def test_the_first_await_takes_one_statement_and_the_next_is_answered_by_the_cache(
        self, event: Event, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
            organizer = await event.organizer
        assert (type(organizer), organizer.username) == (User, "kim")
        async with assert_ops(backend, sql=0, redis=["read"]):
            again = await event.organizer
        assert again == organizer
        assert again is not organizer
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await User.cache.get(id=event.organizer_id) == organizer  # type: ignore[attr-defined]
        venue = await event.venue
        assert isinstance(venue, Venue)
        assert venue.city == "Bonn"

    async def test_writes_to_the_event_and_to_its_organizer_are_seen(self, event: Event) -> None:
        organizer = await event.organizer
        organizer.username = "kimberly"
        await organizer.save()
        assert (await event.organizer).username == "kimberly"
        event.organizer_id = (await User.get(username="lee")).id  # type: ignore[attr-defined]
        assert (await event.organizer).username == "lee"
        await (await event.organizer).delete()
        assert await event.organizer is None

    async def test_a_null_foreign_key_needs_no_io(
        self, cache: ModelCache, events: list[Event], backend: CountingBackend
    ) -> None:
        event = await Event.cache.get(id=events[9].id)
        async with assert_ops(backend, sql=0, redis=0):
            assert await event.venue is None
            assert not event.venue
            assert await BatchCacheQuery(venue=event.venue) == {"venue": None}
            assert await BatchCacheQuery(venue=event.venue).get(only_cache=True, snapshot=False) == {"venue": None}
            assert await asyncio.gather(event.venue.start(), event.venue.options(fill=False)) == [None, None]
        async with in_transaction():
            assert await BatchCacheQuery(venue=event.venue, event=Event.cache.get(id=event.id)) == {
                "venue": None,
                "event": event,
            }

    async def test_observers_are_told_of_a_null_foreign_key_in_a_batch_by_its_model(
        self, events: list[Event], backend: CountingBackend
    ) -> None:
        recorder = Recorder()
        async with ModelCache(backend, observers=[recorder]):
            await BatchCacheQuery(venue=events[9].venue)
        assert recorder.lookups() == [("Venue", "hit")]

    async def test_the_foreign_key_of_an_unsaved_instance_can_be_awaited(
        self, cache: ModelCache, events: list[Event]
    ) -> None:
        assert await Event().organizer is None
        kim = await User.get(username="kim")
        assert await Event(organizer_id=kim.id).organizer == kim
        assert Event(organizer=kim).organizer is kim
        assert await Event(organizer_id=404).organizer is None

    async def test_one_to_one_relations_and_relations_to_other_fields_are_cached(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        country = await Country.create(code="de", number=49)
        kim = await User.get(username="kim")
        berlin = await City.create(country=country, mayor=kim)
        bonn = await City.create(country=country, capital=berlin, mayor=await User.get(username="lee"))
        bonn = await City.cache.get(id=bonn.id)
        for sql in (None, 0):
            async with assert_ops(backend, sql=sql):
                assert await asyncio.gather(bonn.country, bonn.capital) == [country, berlin]
                assert await (await City.cache.get(id=berlin.id)).mayor == kim

    async def test_foreign_keys_of_many_instances_take_one_round_trip(
        self, cache: ModelCache, events: list[Event], backend: CountingBackend
    ) -> None:
        found = await Event.cache.get_many([event.id for event in events])
        async with assert_ops(backend, sql=2) as ops:
            people = await asyncio.gather(
                *[event.organizer for event in found], *[event.venue for event in found if event.venue_id]
            )
        assert ops.operations[:2] == ["read", "lease"]
        assert [person.username for person in people[:10]] == ["kim", "lee"] * 5
        async with assert_ops(backend, sql=0, redis=["read"]):
            batch = await BatchCacheQuery({event.id: event.organizer for event in found})
        assert list(batch.values()) == people[:10]
        async with assert_ops(backend, sql=0, redis=["read"]), asyncio.TaskGroup() as tasks:
            for event in found:
                tasks.create_task(event.organizer.resolve())

    async def test_in_a_transaction_a_foreign_key_queries_the_database(
        self, event: Event, backend: CountingBackend
    ) -> None:
        await event.organizer
        async with in_transaction():
            await User(id=event.organizer_id, username="changed", team=1).save(force_update=True)  # type: ignore[attr-defined]
            async with assert_ops(backend, sql=1, redis=0):
                assert (await event.organizer).username == "changed"

    async def test_in_a_request_scope_a_foreign_key_returns_the_same_object(
        self, event: Event, backend: CountingBackend
    ) -> None:
        with local_cache():
            organizer = await event.organizer
            async with assert_ops(backend, sql=0, redis=0):
                assert await event.organizer is organizer
                assert await User.cache.get(id=organizer.id) is organizer


class TestLikeTortoise:
    async def test_loaded_relations_need_no_io(self, event: Event, backend: CountingBackend) -> None:
        selected = await Event.get(id=event.id).select_related("organizer", "venue")
        prefetched = await Event.get(id=event.id).prefetch_related("organizer")
        await event.fetch_related("organizer")
        assigned = await Event.cache.get(id=event.id)
        kim = await User.cache.get(username="kim")
        assigned.organizer = kim
        async with assert_ops(backend, sql=0, redis=0):
            for instance in (selected, prefetched, event, assigned):
                assert instance.organizer.username == "kim"
                assert await instance.organizer is instance.organizer
            assert selected.venue is not None
            assert selected.venue.city == "Bonn"
        assert assigned.organizer is kim

    async def test_fetch_related_works_on_instances_from_the_cache(
        self, cache: ModelCache, events: list[Event]
    ) -> None:
        for _ in range(2):
            found = await Event.cache.get(id=events[0].id)
            await found.fetch_related("organizer", "venue")
            assert found.organizer.username == "kim"
            assert found.venue is not None
            assert found.venue.name == "Home"
        listed = await Event.cache.filter(organizer=events[0].organizer_id)  # type: ignore[attr-defined]
        await Event.fetch_for_list(listed, "organizer")
        assert {listed_event.organizer.username for listed_event in listed} == {"kim"}

    async def test_a_foreign_key_still_has_the_methods_of_tortoises_query(
        self, event: Event, backend: CountingBackend
    ) -> None:
        query: Any = event.organizer
        assert isinstance(query, CacheQuery)
        async with assert_ops(backend, redis=0):
            assert await query.values("username") == {"username": "kim"}
            assert (await query.prefetch_related("events")).username == "kim"
            assert "SELECT" in query.sql()
        with pytest.raises(AttributeError, match="nonsense"):
            _ = query.nonsense
        assert not hasattr(event.organizer, "username")

    async def test_reverse_relations_are_left_to_tortoise(self, event: Event) -> None:
        organizer = await event.organizer
        assert len(await organizer.events) == 5
        found = await User.cache.get(id=organizer.id)
        with pytest.raises(NoValuesFetched):
            list(found.events)
        await found.fetch_related("events")
        assert len(found.events) == 5

    async def test_filters_and_saves_by_relation_work(self, event: Event) -> None:
        assert await Event.filter(organizer__username="kim").count() == 5
        lee = await User.get(username="lee")
        event.organizer = lee
        await event.save()
        assert (await (await Event.get(id=event.id)).organizer) == lee
        assert await Event.cache.get(organizer=lee, title="0") == event

    async def test_without_an_open_cache_foreign_keys_are_left_to_tortoise(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl, events: list[Event], backend: CountingBackend
    ) -> None:
        for opened in (True, False):
            event = await Event.get(id=events[0].id)
            if opened:
                async with ModelCache(backend):
                    assert isinstance(event.organizer, CacheQuery)
            async with assert_ops(backend, sql=1, redis=0):
                assert isinstance(event.organizer, QuerySet)
                assert (await event.organizer).username == "kim"
            assert await (await Event.get(id=events[9].id)).venue is None
