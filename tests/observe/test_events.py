"""Each kind of event, on real stores and databases."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, InvalidationType, MemoryBackend, ModelCache, cached, local_cache
from aiomodelcache.contrib import http as http  # its queries are queries, too
from aiomodelcache.observe import Breaker, Computation, Fill, Lookup, RoundTrip, Statement, Write
from aiomodelcache.query.base import CacheQuery, ObservedQuery
from aiomodelcache.testing import CountingBackend
from tests.observe.recorder import Recorder, request
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.models import Event, EventBySlug, LatestEvents, User
from tests.support.servers import RedisServer

ON_SQLITE = pytest.mark.only_on("sqlite", because="the events are the same for every database")


async def test_a_miss_has_a_lookup_its_requests_a_statement_and_a_fill(
    event: Event, database: BaseDBAsyncClient, recorder: Recorder
) -> None:
    await Event.cache.get(id=event.id)
    [lookup] = recorder.operations(Lookup)
    assert (lookup.cache, lookup.kind, lookup.outcome, lookup.background) == ("Event", "GetQuery", "miss", False)
    assert lookup.error is None
    assert [(each.command, each.keys) for each in recorder.operations(RoundTrip)] == [
        ("read", 2),
        ("lease", 2),
        ("fill", 1),
    ]
    [statement] = recorder.operations(Statement)
    assert (statement.model, statement.table, statement.keys, statement.lookups) == ("Event", "event", 1, (lookup,))
    assert (statement.connection, statement.dialect) == (database.connection_name, database.capabilities.dialect)
    assert [each.lookups for each in recorder.operations(RoundTrip)] == [(lookup,)] * 3
    assert lookup.duration is not None
    assert statement.duration is not None
    assert lookup.duration >= statement.duration > 0
    [fill] = recorder.noted(Fill)
    assert (fill.cache, fill.accepted, fill.reason) == ("Event", True, None)
    assert fill.size > 0
    assert set(recorder.begun) == set(recorder.ended)


async def test_a_hit_has_a_lookup_and_one_request(event: Event, recorder: Recorder) -> None:
    await Event.cache.get(slug="pycon")
    await Event.cache.get(slug="pycon")  # the index is predicted now
    recorder.clear()
    await Event.cache.get(slug="pycon")
    [lookup] = recorder.operations(Lookup)
    assert (lookup.cache, lookup.outcome, len(lookup.keys)) == ("Event(slug)", "hit", 1)
    assert lookup.size > 0
    [trip] = recorder.operations(RoundTrip)
    assert (trip.command, trip.keys, trip.lookups) == ("read", 3, (lookup,))
    assert recorder.operations(Statement) == []
    assert recorder.notes == []


@ON_SQLITE
async def test_the_text_of_an_operation_shows_how_it_went_and_no_value(event: Event, recorder: Recorder) -> None:
    await Event.cache.get(slug="pycon")
    texts = [repr(operation) for operation in recorder.ended]
    assert [text for text in texts if "pycon" in text] == []
    assert {text.partition("(")[0] for text in texts} == {"Lookup", "RoundTrip", "Statement"}
    [lookup] = recorder.operations(Lookup)
    assert repr(lookup).startswith("Lookup(duration=0.")
    assert "cache='Event(slug)', kind='GetQuery', outcome='miss'" in repr(lookup)


@ON_SQLITE
@pytest.mark.only_on("redis", because="the name is that of the store's class")
async def test_a_round_trip_names_the_class_of_the_store(event: Event, recorder: Recorder) -> None:
    await Event.cache.get(id=event.id)
    assert {trip.backend for trip in recorder.operations(RoundTrip)} == {"RedisBackend"}


@ON_SQLITE
async def test_a_known_absence_is_told_from_a_hit(event: Event, recorder: Recorder) -> None:
    for _ in range(2):
        with pytest.raises(DoesNotExist):
            await Event.cache.get(slug="none")
        assert await Event.cache.get_or_none(id=404) is None
    assert recorder.lookups() == [
        ("Event(slug)", "miss"),
        ("Event", "miss"),
        ("Event(slug)", "absent"),
        ("Event", "absent"),
    ]
    errors = [type(each.error) for each in recorder.operations(Lookup)]
    assert errors == [DoesNotExist, type(None)] * 2


@ON_SQLITE
async def test_a_request_scope_is_told_from_a_hit(event: Event, recorder: Recorder) -> None:
    async with local_cache():
        await Event.cache.get(id=event.id)
        await Event.cache.get(id=event.id)
        await BatchCacheQuery(event=Event.cache.get(id=event.id))
    assert recorder.lookups() == [("Event", "miss"), ("Event", "scope"), ("Event", "scope")]


@ON_SQLITE
async def test_a_bypass_says_why(event: Event, cache: ModelCache, recorder: Recorder) -> None:
    with cache.disabled():
        await Event.cache.get(id=event.id)
    async with in_transaction():
        await Event.cache.get(id=event.id)
        await BatchCacheQuery(event=Event.cache.get(id=event.id))
    reasons = [(each.outcome, each.reason) for each in recorder.operations(Lookup)]
    assert reasons == [("bypass", "disabled"), ("bypass", "transaction"), ("bypass", "transaction")]
    assert [each.lookups for each in recorder.operations(Statement)] == [
        (each,) for each in recorder.operations(Lookup)
    ]


@ON_SQLITE
async def test_settings_of_a_lookup_and_of_blocks_leave_its_name(
    event: Event, cache: ModelCache, recorder: Recorder
) -> None:
    await Event.cache.get(id=event.id).options(cache=False)
    with cache.disabled(Event):
        await Event.cache.get(id=event.id)
        await BatchCacheQuery(event=Event.cache.get(id=event.id))
    await Event.cache.get(id=event.id).options(fill=False)
    assert [(each.kind, each.outcome, each.reason) for each in recorder.operations(Lookup)] == [
        ("GetQuery", "bypass", "disabled"),
        ("GetQuery", "bypass", "disabled"),
        ("GetQuery", "bypass", "disabled"),
        ("GetQuery", "miss", None),
    ]
    assert recorder.noted(Fill) == []


@ON_SQLITE
@pytest.mark.only_on("memory", because="it has a store with gates")
async def test_a_lookup_that_waits_for_the_fill_of_another(database: BaseDBAsyncClient, recorder: Recorder) -> None:
    store = GatedBackend(MemoryBackend())
    async with ModelCache(store, observers=[recorder]):
        user = await User.create(username="kim")
        gate = store.hold("fill")
        first = asyncio.create_task(User.cache.get(id=user.id).resolve())
        await gate.reached()
        second = asyncio.create_task(User.cache.get(id=user.id).resolve())
        async with asyncio.timeout(PATIENCE):
            while len(recorder.operations(RoundTrip)) < 6:  # mark, clear, read, lease, and those of the second
                await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, second)
    assert recorder.lookups() == [("User", "miss"), ("User", "waited")]


@ON_SQLITE
async def test_only_cache_misses_say_so(event: Event, recorder: Recorder) -> None:
    assert await BatchCacheQuery(event=Event.cache.get(id=event.id)).get(only_cache=True) == {}
    [lookup] = recorder.operations(Lookup)
    assert (lookup.outcome, lookup.reason) == ("miss", "only_cache")
    assert recorder.operations(Statement) == []


async def test_every_kind_of_query_names_its_class_and_its_keys(event: Event, recorder: Recorder) -> None:
    @cached
    async def titles(prefix: str) -> list[str]:
        return [prefix + each.title for each in await Event.all()]

    organizer = event.organizer_id  # type: ignore[attr-defined]
    await Event.cache.get_many([event.id, 404])
    await Event.cache.filter(organizer=organizer)
    await Event.cache.filter(organizer=organizer)[0:1]
    await Event.cache.filter(organizer=organizer).order_by("-id")
    await Event.cache.exists(slug="pycon")
    await EventBySlug("pycon")
    await LatestEvents(organizer)
    await Event.cache.query(Event.filter(slug="pycon"))
    await titles("x")
    await (await Event.cache.get(id=event.id)).organizer
    found = [(each.cache, each.kind, len(each.keys)) for each in recorder.operations(Lookup)]
    names = "test_every_kind_of_query_names_its_class_and_its_keys.<locals>.titles"
    assert found == [
        ("Event", "ManyQuery", 2),
        ("Event(organizer)", "FilterQuery", 1),
        ("Event(organizer)", "SliceQuery", 1),
        ("Event(organizer)", "OrderedQuery", 1),
        ("Event(slug)", "ExistsQuery", 1),
        ("Event(slug)", "EventBySlug", 1),
        ("Event(organizer)", "LatestEvents", 1),
        ("Event.query", "QuerysetQuery", 1),
        (f"{__name__}.{names}", "ValueQuery", 1),
        ("Event", "GetQuery", 1),
        ("User", "ForeignKeyQuery", 1),
    ]
    assert [each.cache for each in recorder.operations(Computation)] == ["Event.query", f"{__name__}.{names}"]
    assert all(each.key.count("#") == 1 and "pycon" not in each.key for each in recorder.operations(Lookup))


async def test_lookups_of_one_tick_share_requests_and_statements(event: Event, recorder: Recorder) -> None:
    other = await Event.create(slug="other", organizer=await User.create(username="lee"))
    recorder.clear()
    await asyncio.gather(Event.cache.get(id=event.id), Event.cache.get(id=other.id))
    await BatchCacheQuery(a=Event.cache.get(id=event.id), b=Event.cache.get(id=other.id))
    lookups = recorder.operations(Lookup)
    assert [each.outcome for each in lookups] == ["miss", "miss", "hit", "hit"]
    [statement] = recorder.operations(Statement)
    assert (set(statement.lookups), statement.keys) == ({*lookups[:2]}, 2)
    trips = [(each.command, set(each.lookups)) for each in recorder.operations(RoundTrip)]
    merged = {*lookups[:2]}
    assert trips == [("read", merged), ("lease", merged), ("fill", merged), ("read", {*lookups[2:]})]


async def test_events_come_in_the_context_of_the_caller(event: Event, recorder: Recorder) -> None:
    async def look_up(name: str) -> None:
        request.set(name)
        await Event.cache.get(id=event.id)
        await BatchCacheQuery(event=Event.cache.get(slug="pycon"))

    await asyncio.create_task(look_up("a request"))
    for lookup in recorder.operations(Lookup):
        assert recorder.requests[lookup] == ["a request", "a request"]
        assert lookup.context[request] == "a request"
    for operation in [*recorder.operations(Statement), *recorder.operations(RoundTrip)]:
        assert operation.context[request] == "a request"
    for fill in recorder.noted(Fill):
        assert recorder.requests[fill] == ["a request"] * len(recorder.requests[fill])


async def test_a_computation_encloses_the_lookups_that_it_makes(event: Event, recorder: Recorder) -> None:
    @cached
    async def title() -> str:
        return (await Event.cache.get(id=event.id)).title

    await title()
    outer, inner = recorder.begun[0], [each for each in recorder.begun if isinstance(each, Lookup)][1]
    [computation] = recorder.operations(Computation)
    assert computation.lookups == (outer,)
    order = recorder.ended
    assert recorder.begun.index(computation) < recorder.begun.index(inner)
    assert order.index(inner) < order.index(computation) < order.index(outer)


async def test_a_write_is_announced_and_cleared_in_its_context(event: Event, recorder: Recorder) -> None:
    async def write() -> None:
        request.set("a write")
        event.title = "new"
        await event.save()

    await asyncio.create_task(write())
    assert [(note.stage, note.caches) for note in recorder.noted(Write)] == [
        ("announced", ("Event",)),
        ("cleared", ("Event",)),
    ]
    assert all(note.keys for note in recorder.noted(Write))
    assert [recorder.requests[note] for note in recorder.noted(Write)] == [["a write"], ["a write"]]
    trips = recorder.operations(RoundTrip)
    assert [(each.command, each.context[request]) for each in trips] == [("mark", "a write"), ("clear", "a write")]


@ON_SQLITE
async def test_a_refused_fill_says_that_a_writer_was_in_the_way(
    event: Event, database: BaseDBAsyncClient, recorder: Recorder
) -> None:
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT", "after")
        reader = asyncio.create_task(Event.cache.get(id=event.id).resolve())
        await gate.reached()
        await Event.filter(id=event.id).update(title="new")
        gate.open()
        await reader
    assert [(fill.accepted, fill.reason) for fill in recorder.noted(Fill)] == [(False, "replaced")]


@ON_SQLITE
async def test_a_row_that_was_leased_late_is_not_stored_after_its_deadline(
    database: BaseDBAsyncClient, backend: CountingBackend, recorder: Recorder
) -> None:
    store = GatedBackend(backend)
    async with ModelCache(store, observers=[recorder], lease_ttl=0.6) as cache:
        user = await User.create(username="kim")
        await cache.backend.delete([User.cache.key(username="kim").encode()])  # the hint that the writer has left
        gate = store.hold("lease", "after", skip=1)
        reader = asyncio.create_task(User.cache.get(username="kim").resolve())
        await gate.reached()
        await asyncio.sleep(0.7)  # longer than the lease lives
        gate.open()
        assert await reader == user
    assert [(fill.accepted, fill.reason) for fill in recorder.noted(Fill)] == [(False, "late"), (True, None)]


@ON_SQLITE
@pytest.mark.only_on("memory", because="it has a server of its own")
async def test_a_fill_that_does_not_arrive_is_a_fault_and_then_a_bypass(
    database: BaseDBAsyncClient, own_redis: RedisServer, recorder: Recorder
) -> None:
    async with ModelCache(own_redis.url, observers=[recorder], breaker_cooldown=60):
        first, second = await User.create(username="kim"), await User.create(username="lee")
        with gated_sql(database) as gates:
            gate, later = gates.hold("SELECT", "after"), gates.hold("SELECT", "after")
            readers = [asyncio.create_task(User.cache.get(id=first.id).resolve())]
            await gate.reached()
            readers.append(asyncio.create_task(User.cache.get(username="lee").resolve()))
            await later.reached()
            own_redis.kill()
            gate.open()
            await readers[0]
            later.open()
            assert await readers[1] == second
    assert {(fill.cache, fill.reason) for fill in recorder.noted(Fill)} == {
        ("User", "fault"),
        ("User(username)", "bypass"),
    }


@ON_SQLITE
async def test_a_failed_statement_releases_the_lease(
    event: Event, database: BaseDBAsyncClient, recorder: Recorder
) -> None:
    await database.execute_query('ALTER TABLE "event" RENAME TO "away"')
    with pytest.raises(Exception, match="no such table"):
        await Event.cache.get(id=event.id)
    [lookup] = recorder.operations(Lookup)
    [statement] = recorder.operations(Statement)
    assert lookup.outcome == "miss"
    assert lookup.error is statement.error is not None
    assert [(fill.accepted, fill.reason) for fill in recorder.noted(Fill)] == [(False, "released")]


@ON_SQLITE
async def test_a_stale_copy_and_its_refresh(cache: ModelCache, recorder: Recorder) -> None:
    values = iter([1, 2])

    @cached(allowtime=60, timeout=60, invalidation=InvalidationType.OFF)
    async def number() -> int:
        return next(values)

    await number()
    await number.invalidate()
    recorder.clear()
    assert await number() == 1
    async with asyncio.timeout(PATIENCE):
        while not any(isinstance(each, Lookup) and each.background for each in recorder.ended):
            await asyncio.sleep(0)
    caller, refresh = sorted(recorder.operations(Lookup), key=lambda each: each.background)
    assert (caller.outcome, refresh.kind, refresh.outcome) == ("stale", "refresh", "miss")
    assert refresh.cache == caller.cache
    [computation] = recorder.operations(Computation)
    assert computation.lookups == (refresh,)


@ON_SQLITE
async def test_the_last_good_value_is_stale(cache: ModelCache, recorder: Recorder) -> None:
    values = iter([1])

    @cached(stale_if_error=60, timeout=60, invalidation=InvalidationType.OFF)
    async def number() -> int:
        for value in values:
            return value
        raise OSError("the exchange is closed")

    await number()
    await number.invalidate()
    recorder.clear()
    assert await number() == 1
    [lookup] = recorder.operations(Lookup)
    assert (lookup.outcome, lookup.reason, lookup.error) == ("stale", "failed", None)
    [computation] = recorder.operations(Computation)
    assert isinstance(computation.error, OSError)


@ON_SQLITE
@pytest.mark.only_on("memory", because="it has a server of its own")
async def test_a_server_that_is_gone(database: BaseDBAsyncClient, own_redis: RedisServer, recorder: Recorder) -> None:
    async with ModelCache(own_redis.url, observers=[recorder], breaker_cooldown=0.01) as cache:
        user = await User.create(username="kim")
        await User.cache.get(id=user.id)
        recorder.clear()
        own_redis.kill()
        await User.cache.get(id=user.id)
        await User.filter(id=user.id).update(team=2)
        await User.cache.get(id=user.id)
        assert [(each.outcome, each.reason) for each in recorder.operations(Lookup)] == [
            ("fault", None),
            ("bypass", "undelivered"),
        ]
        assert [(each.state, bool(each.reason)) for each in recorder.noted(Breaker)] == [("open", True)]
        assert [each.stage for each in recorder.noted(Write)] == ["undelivered"]
        assert {type(each.error).__name__ for each in recorder.operations(RoundTrip)} == {"BackendError"}
        own_redis.restart()
        async with asyncio.timeout(PATIENCE):
            while cache.open_cache.guarded.has_undelivered:
                await asyncio.sleep(0.01)
        assert [each.stage for each in recorder.noted(Write)] == ["undelivered", "delivered"]
        assert recorder.noted(Breaker)[-1].state == "closed"
    assert set(recorder.begun) == set(recorder.ended)


@ON_SQLITE
async def test_a_caller_that_is_cancelled(event: Event, database: BaseDBAsyncClient, recorder: Recorder) -> None:
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT")
        single = asyncio.create_task(Event.cache.get(id=event.id).resolve())
        batch = asyncio.create_task(BatchCacheQuery(event=Event.cache.get(id=event.id)).get())
        await gate.reached()
        single.cancel()
        batch.cancel()
        await asyncio.wait([single, batch])
        errors = [type(each.error) for each in recorder.operations(Lookup)]
        assert errors == [asyncio.CancelledError] * 2
        gate.open()
    await Event.cache.get(id=event.id)
    assert set(recorder.begun) == set(recorder.ended)


def subclasses(cls: type[CacheQuery[Any]]) -> Iterator[type[CacheQuery[Any]]]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_query_names_its_entries_to_observers() -> None:
    own = {each for each in subclasses(CacheQuery) if each.__module__.startswith("aiomodelcache.")}
    assert len(own) > 20
    assert {each for each in own if each.located is CacheQuery.located} == {ObservedQuery}


@ON_SQLITE
async def test_a_bad_value_is_a_lookup_that_failed(cache: ModelCache, recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="id"):
        await Event.cache.get(id="no number")
    [lookup] = recorder.operations(Lookup)
    assert (lookup.outcome, type(lookup.error), lookup.keys, lookup.key) == ("error", ValueError, (), "")
