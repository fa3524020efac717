"""``key``, ``explain`` and ``refresh``: the key of a lookup in Redis, the state of its entries, and its new answer."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.expressions import F
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import (
    CacheNotOpen,
    CacheNotRegistered,
    Explanation,
    InvalidationType,
    ModelCache,
    ValueCache,
    cached,
    local_cache,
)
from aiomodelcache.backends.protocol import Clear, Lease
from aiomodelcache.encoding.layout import new_token
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.backends.opening import hurry
from tests.support.databases import DatabaseUrl
from tests.support.gates import PATIENCE, GatedBackend
from tests.support.models.models import Event, EventBySlug, LatestEvents, State, User
from tests.support.models.related_models import CardById, Land, LandOf, Meeting, People, Person, Place, Seat, Town
from tests.support.models.result_models import Best, Member, MemberCount, Points
from tests.support.models.stale_models import Ticket
from tests.support.models.tagged_models import Post as TaggedPost
from tests.support.models.tagged_models import Tag
from tests.support.servers import RedisServer

OFF = InvalidationType.OFF
pytestmark = pytest.mark.only_on(
    "sqlite", because="an explanation asks the store, and a refresh queries the database as a lookup does"
)


class TestKey:
    async def test_key_returns_the_key_in_redis(self, cache: ModelCache, db_url: DatabaseUrl, backend_url: str) -> None:
        kim = await User.create(username="kim & lää")
        await Event.create(slug="pycon", organizer=kim)
        await User.cache.get(username="kim & lää")
        await Event.cache.filter(organizer=kim)
        keys = {
            Event.cache.key(pk=1): f"amc:r:{db_url.dialect}:event:i1",
            User.cache.key(username="kim & lää"): f"amc:i:{db_url.dialect}:user:username:skim & lää",
            Event.cache.key(organizer=kim): f"amc:i:{db_url.dialect}:event:organizer::i1",
        }
        assert list(keys) == list(keys.values())
        if backend_url != "memory://":
            async with Redis.from_url(backend_url, decode_responses=False) as client:
                assert await client.exists(*keys) == 3
                assert {key.encode() for key in keys} <= set(await client.keys())

    async def test_key_takes_a_query(self, cache: ModelCache) -> None:
        assert Event.cache.key(EventBySlug("pycon")) == Event.cache.key(slug="pycon")
        assert Event.cache.key(Event.cache.exists(slug="pycon")) == Event.cache.key(slug__exact="pycon")
        assert Event.cache.key(Event.cache.filter(organizer=1)) == Event.cache.key(organizer_id="1")
        assert Event.cache.key(LatestEvents(1)) != Event.cache.key(organizer=1)

    async def test_wrong_calls_of_key_are_errors(self, cache: ModelCache) -> None:
        wrong: Any = Event.cache
        with pytest.raises(TypeError, match=r'Event\.cache takes either the values of a key, like slug="x", or'):
            wrong.key()
        with pytest.raises(TypeError, match="either the values of a key"):
            wrong.key(EventBySlug("pycon"), slug="pycon")
        with pytest.raises(CacheNotRegistered, match=r"Event has no cache by \(title\)"):
            Event.cache.key(title="PyCon")
        with pytest.raises(ValueError, match=r"Event\.id cannot be looked up by <str>"):
            Event.cache.key(id="x")
        await cache.close()
        with pytest.raises(CacheNotOpen):
            Event.cache.key(id=1)


@pytest.fixture
async def event(cache: ModelCache) -> Event:
    kim = await User.create(username="kim")
    return await Event.create(slug="pycon", organizer=kim, state=State.OPEN)


async def by_id(event: Event) -> Explanation:
    return await Event.cache.explain(id=event.id)


async def by_slug() -> tuple[Any, ...]:
    """Returns the source, the reason, the state of the index and the states of its rows."""
    explanation = await Event.cache.explain(slug="pycon")
    entry = explanation.entry and explanation.entry.state
    return explanation.source, explanation.reason, entry, [row.state for row in explanation.rows]


def raw(query: LookupQuery[Any], cache: ModelCache) -> bytes:
    return query.locate(cache.open_cache).key


class TestExplain:
    async def test_explain_reports_a_row_as_missing_hit_or_negative(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=0, redis=["read"]):
            explanation = await by_id(event)
        assert (explanation.source, explanation.reason) == ("database", "missing")
        assert explanation.query == "<GetQuery Event(id=<int>)>"
        await Event.cache.get(id=event.id)
        async with assert_ops(backend, sql=0, redis=["read"]):
            explanation = await by_id(event)
        assert (explanation.source, explanation.reason) == ("cache", "hit")
        entry = explanation.entry
        assert entry
        assert entry.key == explanation.key == Event.cache.key(id=event.id)
        assert entry.age is not None
        assert entry.expires_in is not None
        assert 0 <= entry.age < 60
        assert 3500 < entry.expires_in + entry.age <= 3600
        assert await User.cache.get_or_none(id=404) is None
        absent = await User.cache.explain(id=404)
        assert (absent.source, absent.reason) == ("cache", "negative")
        assert absent.entry
        assert absent.entry.expires_in is not None
        assert absent.entry.expires_in <= 60

    async def test_explain_reports_an_index_and_its_rows(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.cache.clear()
        await Event.cache.get(slug="pycon")
        async with assert_ops(backend, sql=0, redis=["read", "read"]):
            assert await by_slug() == ("cache", "hit", "hit", ["hit"])
        await Event.cache.update(event, title="PyCon")  # does not invalidate the index
        assert await by_slug() == ("database", "missing", "hit", ["missing"])
        await Event.cache.get(slug="pycon")
        await Event.cache.update(event, slug="other")
        await Event.cache.get(id=event.id)
        assert await by_slug() == ("database", "moved", "hit", ["hit"])
        await event.delete()
        assert await Event.cache.get_or_none(id=event.id) is None
        assert await by_slug() == ("database", "moved", "hit", ["negative"])

    async def test_explain_reports_a_list_and_its_rows(self, event: Event, cache: ModelCache) -> None:
        listed = Event.cache.filter(organizer=event.organizer_id)  # type: ignore[attr-defined]
        await listed
        explanation = await Event.cache.explain(listed)
        assert (explanation.reason, [row.state for row in explanation.rows]) == ("hit", ["hit"])
        assert (await Event.cache.explain(organizer=event.organizer_id)).key == explanation.key  # type: ignore[attr-defined]
        assert (await Event.cache.explain(LatestEvents(1))).reason == "missing"
        await Event.cache.filter(organizer=404)
        assert (await Event.cache.explain(organizer=404)).source == "cache"

    async def test_explain_reports_every_state_of_an_entry(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Event.cache.get(id=event.id)
        key, token = raw(query, cache), new_token()
        await backend.lease([Lease(key)], token, 5_000)
        assert (await by_id(event)).reason == "leased"
        await backend.mark([key], token, 5_000)
        assert (await by_id(event)).reason == "written"
        await backend.clear([Clear(key)], token)
        await query
        [entry] = await backend.read([key])
        assert entry
        bytes_and_reasons = {
            entry[:-1]: "damaged",
            b"nonsense": "damaged",
            b"": "damaged",
            entry[:17] + bytes(8) + entry[25:]: "other version",
            entry[:25] + bytes(16) + entry[41:]: "cleared",
            entry: "hit",
        }
        for stored, reason in bytes_and_reasons.items():
            await put(backend, key, stored)
            counted = counts_of(cache)
            assert (await by_id(event)).reason == reason
            assert counts_of(cache) == counted
        other = await Event.create(slug="other", organizer_id=event.organizer_id, title="x")  # type: ignore[attr-defined]
        await put(backend, raw(Event.cache.get(id=other.id), cache), entry)
        assert (await by_id(other)).reason == "moved"

    async def test_explain_reports_a_cleared_or_written_model(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.cache.get(slug="pycon")
        await Event.cache.clear()
        assert (await by_id(event)).reason == "cleared"
        assert await by_slug() == ("database", "cleared", "hit", ["cleared"])
        epoch, token = cache.open_cache.entries_of(Event).rows.partitions.epochs[0], new_token()
        await backend.mark([epoch], token, 5_000)
        assert await by_slug() == ("database", "written", "hit", ["written"])
        assert (await Event.cache.explain(id=404)).reason == "written"
        await backend.clear([Clear(epoch)], token)

    async def test_explain_fills_and_changes_nothing(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await by_id(event)
        await by_slug()
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
            await Event.cache.get(id=event.id)

    async def test_explain_reports_lookups_that_do_not_read_the_store(
        self, event: Event, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.cache.get(id=event.id)
        async with assert_ops(backend, sql=0, redis=0):
            async with in_transaction():
                assert (await by_id(event)).reason == "transaction"
            with cache.disabled():
                explanation = await by_id(event)
            assert (explanation.source, explanation.reason) == ("database", "disabled")
            assert explanation.entry is None
        async with local_cache():
            assert (await by_id(event)).source == "cache"
            await Event.cache.get(id=event.id)
            async with assert_ops(backend, redis=0):
                assert (await by_id(event)).source == "scope"

    @pytest.mark.only_on("redis", because="its server is frozen")
    @pytest.mark.only_on("sqlite", because="no database is asked")
    async def test_explain_reports_an_unreachable_store(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        kim = await User.create(username="kim")
        async with ModelCache(own_redis.patient_url, breaker_cooldown=60) as cache:
            hurry(cache.backend)
            own_redis.stop()
            assert (await User.cache.explain(id=kim.id)).reason == "unreachable"
            trips = cache.stats.round_trips
            explanation = await User.cache.explain(id=kim.id)  # the breaker is open: no request is sent
            assert (explanation.source, explanation.reason, cache.stats.round_trips) == (
                "database",
                "unreachable",
                trips,
            )
            await kim.save()
            assert (await User.cache.explain(id=kim.id)).reason == "undelivered"
            own_redis.cont()

    async def test_explain_reports_a_lookup_that_cannot_be_cached(self, event: Event) -> None:
        explanation_of_null = await User.cache.explain(email=None)
        assert (explanation_of_null.source, explanation_of_null.reason) == ("database", "uncacheable")


class TestRefresh:
    async def test_refresh_queries_the_database_and_fills(self, event: Event, backend: CountingBackend) -> None:
        await Event.cache.get(slug="pycon")
        await write_past_the_cache(event, title="by another program")
        assert (await Event.cache.get(slug="pycon")).title == ""
        async with assert_ops(backend, sql=2, redis=["clear", "read", "lease", "fill"]):
            refreshed = await Event.cache.refresh(slug="pycon")
        assert isinstance(refreshed, Event)
        assert refreshed.title == "by another program"
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await Event.cache.get(slug="pycon")).title == "by another program"
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await Event.cache.get(id=event.id)).title == "by another program"

    async def test_refresh_returns_the_answer_of_the_lookup(self, event: Event, backend: CountingBackend) -> None:
        organizer = event.organizer_id  # type: ignore[attr-defined]
        async with assert_ops(backend, sql=2, redis=["clear", "read", "lease", "fill"]):
            assert await Event.cache.refresh(id=event.id) == event
        assert await Event.cache.refresh(organizer=organizer) == [event]
        assert await Event.cache.refresh(Event.cache.filter(organizer=organizer)) == [event]
        assert await Event.cache.refresh(Event.cache.count(organizer=organizer)) == 1
        assert await Event.cache.refresh(EventBySlug("pycon")) == event
        assert await LatestEvents(organizer) == [event]
        await write_past_the_cache(event, position=3, organizer_id=(await User.create(username="lee")).id)
        assert await Event.cache.refresh(LatestEvents(organizer)) == []
        assert await Event.cache.refresh(Event.cache.get_or_none(slug="nope")) is None
        assert await Event.cache.refresh(organizer=organizer) == []

    async def test_after_a_refresh_an_earlier_reader_does_not_store_its_old_row(
        self, event: Event, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        """A second reader, which waits for the lease of the earlier one, gets the new row."""
        await cache.close()
        store = GatedBackend(backend)
        async with ModelCache(store, lease_ttl=300), asyncio.timeout(PATIENCE):
            for ask in (lambda: Event.cache.get(id=event.id), lambda: Event.cache.get(slug="pycon")):
                await Event.cache.clear()
                await write_past_the_cache(event, title="old")
                fill = store.hold("fill")
                slow = asyncio.create_task(ask().resolve())
                await fill.reached()
                refused = store.hold("lease", "after")
                waiting = asyncio.create_task(ask().resolve())
                await refused.reached()
                refused.open()
                await write_past_the_cache(event, title="new")
                assert (await Event.cache.refresh(ask())).title == "new"
                assert (await waiting).title == "new"
                fill.open()
                assert (await slow).title == "old"
                assert (await ask()).title == "new"
                assert (await Event.cache.get(id=event.id)).title == "new"

    async def test_refresh_works_in_a_transaction_and_in_a_request_scope(
        self, event: Event, backend: CountingBackend
    ) -> None:
        await Event.cache.get(id=event.id)
        async with in_transaction():
            await write_past_the_cache(event, title="raw")
            async with assert_ops(backend, redis=0):
                assert (await Event.cache.refresh(Event.cache.get(id=event.id))).title == "raw"
        assert (await Event.cache.get(id=event.id)).title == "raw"
        async with local_cache():
            before = await Event.cache.get(id=event.id)
            await write_past_the_cache(event, title="raw again")
            after = await Event.cache.refresh(Event.cache.get(id=event.id))
            assert (before.title, after.title) == ("raw", "raw again")
            assert await Event.cache.get(id=event.id) is after


async def write_past_the_cache(event: Event, **values: Any) -> None:
    """Writes past the cache, as another program would."""
    assert await QuerySet(Event).filter(id=event.id).update(**values) == 1


async def put(backend: CountingBackend, key: bytes, value: bytes) -> None:
    """Replaces the value of a key by any bytes."""
    token = new_token()
    await backend.mark([key], token, 5_000)
    await backend.clear([Clear(key, value or b"x", 60_000)], token)


def counts_of(cache: ModelCache) -> str:
    """Returns the counts of all caches, without those of round trips."""
    return repr(cache.stats.by_cache)


@pytest.mark.models("tests.support.models.result_models")
async def test_computed_results_can_be_explained_and_refreshed(cache: ModelCache, backend: CountingBackend) -> None:
    member = await Member.create(team=1, number=7)
    for query, empty in ((MemberCount(1), 0), (Best(1), None), (Points(1), {"points": {}, "members": ()})):
        assert (await Member.cache.explain(query)).reason == "missing"
        await query
        explanation = await Member.cache.explain(query)
        assert (explanation.source, explanation.reason) == ("cache", "hit")
        assert explanation.key == Member.cache.key(query) != Member.cache.key(id=7)
        await QuerySet(Member).filter(id=member.id).update(team=2)  # past the cache
        assert await query != empty
        assert await Member.cache.refresh(query) == empty
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await query == empty
        await QuerySet(Member).filter(id=member.id).update(team=1)
        await Member.cache.invalidate(member)


@pytest.mark.models("tests.support.models.stale_models")
async def test_explain_reports_a_stale_copy_and_refresh_replaces_it(
    cache: ModelCache, backend: CountingBackend
) -> None:
    ticket = await Ticket.create(number=1)
    for query in (Ticket.cache.get(id=ticket.id), Ticket.cache.filter(queue=1), Ticket.cache.get(number=1)):
        await query
        await Ticket.filter(id=ticket.id).update(votes=F("votes") + 1)
        explanation = await Ticket.cache.explain(query)
        assert (explanation.source, explanation.reason) == ("cache", "stale")
        row = await Ticket.cache.refresh(query)
        assert (row[0] if isinstance(row, list) else row).votes == (await Ticket.get(id=ticket.id)).votes
        assert (await Ticket.cache.explain(query)).reason == "hit"
        await QuerySet(Ticket).filter(id=ticket.id).update(votes=F("votes") + 1)  # past the cache
        row = await Ticket.cache.refresh(query)
        assert (row[0] if isinstance(row, list) else row).votes == (await Ticket.get(id=ticket.id)).votes


async def states_of(query: Any, model: Any) -> tuple[str, str, list[str]]:
    """Returns the source and the reason of a query, and the states of its entries."""
    explanation = await model.cache.explain(query)
    assert explanation.entry
    return explanation.source, explanation.reason, [state.state for state in (explanation.entry, *explanation.rows)]


@pytest.mark.models("tests.support.models.related_models")
async def test_explain_follows_a_path_to_its_end(cache: ModelCache, backend: CountingBackend) -> None:
    land = await Land.create(number=1, name="Hesse")
    town = await Town.create(name="Mainz", land=land)
    place = await Place.create(name="Hall", town=town)
    host = await Person.create(name="kim")
    meeting = await Meeting.create(number=7, place=place, host=host)
    query = LandOf(7)
    for model in (Land, Town, Place, Person, Meeting):
        await model.cache.clear()  # type: ignore[attr-defined]
    assert (await Meeting.cache.explain(query)).reason == "missing"
    assert await query == land
    counted = counts_of(cache)
    async with assert_ops(backend, sql=0):
        assert await states_of(query, Meeting) == ("cache", "hit", ["hit"] * 6)
    assert counts_of(cache) == counted
    async with local_cache():
        assert (await Meeting.cache.explain(query)).source == "cache"
        await query
        assert (await Meeting.cache.explain(query)).source == "scope"
    await Town.filter(id=town.pk).update(name="Mainz am Rhein")
    assert await states_of(query, Meeting) == ("database", "missing", ["hit", "hit", "hit", "missing"])
    await query
    await Land.filter(number=1).update(name="RLP")
    assert (await states_of(query, Meeting))[:2] == ("database", "missing")
    await query
    assert (await states_of(query, Meeting))[:2] == ("cache", "hit")
    await Meeting.filter(id=meeting.pk).update(place_id=None)
    with pytest.raises(DoesNotExist):
        await query
    assert await states_of(query, Meeting) == ("cache", "hit", ["hit", "hit"])


@pytest.mark.models("tests.support.models.related_models")
async def test_explain_follows_lists_and_attached_relations(cache: ModelCache, backend: CountingBackend) -> None:
    host = await Person.create(name="kim")
    people = [host, await Person.create(name="lee")]
    meeting = await Meeting.create(number=7, host=host)
    for person in people:
        await Seat.create(meeting=meeting, person=person)
    query = People(7)
    assert [person.name for person in await query] == ["kim", "lee"]
    source, reason, states = await states_of(query, Meeting)
    assert (source, reason, set(states)) == ("cache", "hit", {"hit"})
    await Seat.create(meeting=meeting, person=await Person.create(name="ann"))
    assert (await states_of(query, Meeting))[:2] == ("database", "missing")

    attached = CardById(meeting.pk)
    await attached
    assert (await states_of(attached, Meeting))[:2] == ("cache", "hit")
    await Person.filter(id=host.pk).update(name="kit")
    assert (await states_of(attached, Meeting))[:2] == ("database", "missing")


@pytest.mark.models("tests.support.models.tagged_models")
async def test_explain_reports_a_many_to_many_list(cache: ModelCache, backend: CountingBackend) -> None:
    post: Any = await TaggedPost.create(title="x")
    tags = [await Tag.create(id=number, place=number) for number in (1, 2)]
    await post.tags.add(*tags)
    explain = TaggedPost.cache.explain
    assert (await explain(post.tags)).reason == "missing"
    await post.tags
    async with assert_ops(backend, sql=0, redis=["read", "read"]):
        explanation = await explain(post.tags)
    assert (explanation.source, explanation.reason) == ("cache", "hit")
    assert explanation.query == "<ManyToManyQuery Post(<int>).tags>"
    assert [row.state for row in explanation.rows] == ["hit", "hit"]
    await Tag.filter(id=1).update(place=3)
    await Tag.cache.get_many([1, 2])
    assert (await explain(post.tags)).reason in ("moved", "missing")
    await post.tags
    assert (await explain(post.tags)).reason == "hit"
    await post.tags.clear()
    assert (await explain(post.tags)).reason == "missing"
    assert await post.tags == []
    assert (await explain(post.tags)).reason == "hit"
    with pytest.raises(CacheNotRegistered, match=r"^Post\.editors has no cached list: name it in cached_manytomany"):
        await explain(post.editors)


class Quota(ValueCache[int | None]):
    async def get_value(self, customer: int) -> int | None:
        return customer or None


@cached(invalidation=InvalidationType.OFF)
async def squared(number: int) -> int:
    return number * number


async def test_values_and_cached_functions_can_be_explained(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    async with assert_ops(backend, sql=0, redis=["read"]):
        missing = await Quota(7).explain()
    assert (missing.source, missing.reason, missing.query) == ("database", "missing", "<Quota(<int>)>")
    await Quota(7)
    found = await Quota(7).explain()
    assert (found.source, found.reason) == ("cache", "hit")
    assert found.entry
    assert found.entry.age is not None
    await Quota(7).invalidate()
    assert (await Quota(7).explain()).reason == "missing"
    await Quota(7)
    await Quota.clear()
    assert (await Quota(7).explain()).reason == "cleared"
    async with local_cache():
        await Quota(7)
        assert (await Quota(7).explain()).source == "scope"

    assert (await squared.explain(3)).reason == "missing"
    await squared(3)
    explanation = await squared.explain(number=3)
    assert (explanation.reason, explanation.key) == ("hit", squared.key(3))
    with cache.disabled():
        assert (await squared.explain(3)).reason == "disabled"
    async with in_transaction():
        assert (await squared.explain(3)).reason == "hit"
        await squared.invalidate(3)
        assert (await squared.explain(3)).reason == "transaction"


class NoSuchQuote(Exception):
    pass


async def test_the_life_left_is_that_of_the_value(cache: ModelCache) -> None:
    """A cached exception and a result may have a lifetime of their own, and None lives as long as an absence."""

    @cached(cache_errors={NoSuchQuote: 7}, invalidation=OFF)
    async def quote(number: int) -> int | None:
        if number == 404:
            raise NoSuchQuote
        return None if number == 0 else number

    @cached(timeout=lambda value: 20 if value == 2 else None, invalidation=OFF)
    async def timed(number: int) -> int:
        return number

    @cached(timeout=lambda users: len(users[0].username), invalidation=OFF)
    async def named() -> list[User]:
        return [await User.create(username="kim")]

    with pytest.raises(NoSuchQuote):
        await quote(404)
    for query in (quote.query(0), quote.query(1), timed.query(1), timed.query(2), named.query()):
        await query
    config = cache.config
    lives = {
        quote.query(404): 7,
        quote.query(0): config.negative_timeout,
        quote.query(1): config.timeout,
        timed.query(1): config.timeout,
        timed.query(2): 20,
        named.query(): None,
    }
    for query, life in lives.items():
        explanation = await query.explain()
        assert explanation.reason == "hit", query
        assert explanation.entry
        left = explanation.entry.expires_in
        assert left == (None if life is None else pytest.approx(life, abs=5)), query


async def test_a_query_of_several_keys_is_not_explained(cache: ModelCache) -> None:
    query: Any = Event.cache.get_many([1, 2])
    with pytest.raises(TypeError, match=r"^Event\.cache takes the query of one key; got <ManyQuery>"):
        await Event.cache.explain(query)
