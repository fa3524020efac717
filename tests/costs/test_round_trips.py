"""The contract of what lookups cost, in round trips to the backend and SQL statements."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, CacheQuery, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, gated_sql
from tests.support.models.models import Event, EventBySlug, LatestEvents, State, User, Venue

NUMBER = 100


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    """Writes users, venues and events 1 to 100 before a cache opens."""
    numbers = range(1, NUMBER + 1)
    await User.bulk_create([User(id=n, username=f"user{n}", email=f"{n}@example.org", team=n % 10) for n in numbers])
    await Venue.bulk_create([Venue(id=venue_id(n), name=f"venue{n}", city="Bonn") for n in numbers])
    await Event.bulk_create(
        [
            Event(
                id=n,
                slug=f"event{n}",
                title=f"Event {n}",
                state=State.OPEN,
                position=-n,
                organizer_id=1 + n % 10,
                venue_id=venue_id(1 + n % 5),
            )
            for n in numbers
        ]
    )


@pytest.fixture
async def cache(rows: None, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend) as opened:
        yield opened


def venue_id(n: int) -> uuid.UUID:
    return uuid.UUID(int=n)


def venues() -> Any:
    return Venue.cache  # type: ignore[attr-defined]


class TestHits:
    async def test_the_first_lookup_is_one_statement_and_the_second_none(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for query in (
            Event.cache.get(id=1),
            Event.cache.get(slug="event2"),
            Event.cache.get(organizer=4, title="Event 3"),
            EventBySlug("event4"),
            Event.cache.filter(organizer=1),
            Event.cache.filter(venue=venue_id(2)),
            LatestEvents(2),
            venues().get(city="Bonn", name="venue7"),
            User.cache.exists(username="user1"),
            User.cache.count(team=3),
            Event.cache.get(pk=404),
            User.cache.filter(team=404),
        ):
            for sql in (1, 0):
                async with assert_ops(backend, sql=sql) as ops:
                    await asyncio.gather(query, return_exceptions=True)
                assert sql or ops.operations == ["read"], query

    async def test_an_index_without_a_prediction_costs_a_second_read(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend) as other:
            queries: list[Callable[[Any], CacheQuery[Any]]] = [
                lambda events: events.get(slug="event1"),
                lambda events: events.filter(organizer=1),
                lambda events: events.count(venue=venue_id(3)),
                lambda events: events.get_many(["event7", "event8"], "slug"),
            ]
            here, there = Event.cache, other.manager(Event)
            for query in queries:
                answer = await query(here)
                for events, reads in ((there, 2), (there, 1), (here, 1)):
                    async with assert_ops(backend, sql=0, redis=["read"] * reads):
                        assert await query(events) == answer
                cache.open_cache.predictions.clear()
                for reads in (2, 1):
                    async with assert_ops(backend, sql=0, redis=["read"] * reads):
                        assert await query(here) == answer

    async def test_a_row_that_was_saved_here_is_found_without_another_index_query(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Event.create(id=1000, slug="new", title="New", organizer_id=1)
        async with assert_ops(backend, sql=1) as ops:
            assert (await Event.cache.get(slug="new")).title == "New"
        assert "slug" not in ops.statements[0].partition("WHERE")[2]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await Event.cache.get(slug="new")).title == "New"

    async def test_a_hundred_gathered_hits_of_all_kinds_share_one_read(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        queries: list[Awaitable[Any]] = []
        for n in range(1, 11):
            queries += [
                User.cache.get(id=n),
                User.cache.get_or_none(username=f"user{n}"),
                User.cache.get_many([n, 100 - n]),
                User.cache.filter(team=n % 10),
                venues().get(pk=venue_id(n)),
                EventBySlug(f"event{n}"),
                Event.cache.filter(organizer=n),
                Event.cache.exists(id=1000 + n),
                Event.cache.count(organizer=n),
                LatestEvents(n),
            ]
        assert len(queries) == NUMBER
        answers = await asyncio.gather(*queries)
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await asyncio.gather(*queries) == answers


class TestMisses:
    async def test_a_hundred_misses_by_one_kind_of_key_are_one_statement(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        queries: dict[str, Callable[[Any, int], CacheQuery[Any]]] = {
            "pk": lambda events, n: events.get(id=n),
            "slug": lambda events, n: events.get(slug=f"event{n}"),
            "list": lambda events, n: events.filter(organizer=n),
            "pair": lambda events, n: events.get(organizer_id=1 + n % 10, title=f"Event {n}"),
        }
        for name, query in queries.items():
            async with ModelCache(backend, namespace=name) as cold:
                events = cold.manager(Event)
                async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
                    answers = await asyncio.gather(*[query(events, n) for n in range(1, NUMBER + 1)])
                async with assert_ops(backend, sql=0, redis=["read"]):
                    assert await asyncio.gather(*[query(events, n) for n in range(1, NUMBER + 1)]) == answers

    async def test_get_many_is_one_statement_for_all_missing_rows(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for key, values in (("pk", [*range(1, 101)]), ("slug", [f"event{n}" for n in range(1, 101)])):
            async with ModelCache(backend, namespace=key) as cold:
                events = cold.manager(Event)
                await asyncio.gather(*[events.get(**{key: value}) for value in values[:10]])
                async with assert_ops(backend, sql=1) as ops:
                    assert [event.id for event in await events.get_many(values, key)] == [*range(1, 101)]
                assert ops.operations[:2] == ["read", "lease"]
                async with assert_ops(backend, sql=0, redis=["read"]):
                    assert len(await events.in_bulk(values, key)) == NUMBER

    async def test_misses_of_several_models_share_read_and_lease(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        queries = [
            *[User.cache.get(id=n) for n in range(1, 21)],
            *[Event.cache.get(slug=f"event{n}") for n in range(21, 41)],
            *[Event.cache.filter(venue=venue_id(n)) for n in range(1, 6)],
            *[venues().get(pk=venue_id(n)) for n in range(1, 21)],
        ]
        async with assert_ops(backend, sql=4) as ops:
            answers = await asyncio.gather(*queries)
        assert ops.operations[:2] == ["read", "lease"]
        assert set(ops.operations[2:]) == {"fill"}
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await asyncio.gather(*queries) == answers

    async def test_hits_do_not_wait_for_misses(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        await User.cache.get(id=1)
        with gated_sql(database) as sql:
            gate = sql.hold("SELECT")
            miss = asyncio.create_task(User.cache.get(id=2).resolve())
            async with assert_ops(backend, sql=0, redis=2):  # the hit and the miss share a read
                assert (await User.cache.get(id=1)).id == 1
                await gate.reached()
            gate.open()
            assert (await miss).id == 2


class TestSingleFlight:
    async def test_many_tasks_that_miss_one_key_in_one_tick_are_one_statement(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        queries: list[Callable[[], CacheQuery[Any]]] = [
            lambda: Event.cache.get(id=1),
            lambda: Event.cache.get(slug="event2"),
            lambda: Event.cache.filter(organizer=3),
            lambda: Event.cache.get_or_none(id=404),
        ]
        for query in queries:
            async with assert_ops(backend, sql=1), asyncio.TaskGroup() as tasks:
                waiters = [tasks.create_task(query().resolve()) for _ in range(NUMBER)]
            assert all(task.result() == waiters[0].result() for task in waiters)

    async def test_tasks_that_miss_a_key_during_its_load_wait_for_the_load(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        queries: list[Callable[[], CacheQuery[Any]]] = [
            lambda: Event.cache.get(id=1),
            lambda: Event.cache.get(slug="event2"),
            lambda: Event.cache.filter(organizer=3),
        ]
        for query in queries:
            async with assert_ops(backend, sql=1) as ops:
                with gated_sql(database) as sql:
                    gate = sql.hold("SELECT")
                    waiters = [asyncio.create_task(query().resolve()) for _ in range(10)]
                    await gate.reached()
                    for wave in range(2, 5):
                        waiters += [asyncio.create_task(query().resolve()) for _ in range(10)]
                        async with asyncio.timeout(PATIENCE):
                            while ops.operations.count("lease") < wave:
                                await asyncio.sleep(0)
                    gate.open()
                    answers = await asyncio.gather(*waiters)
            assert len(answers) == 40
            assert all(answer == answers[0] for answer in answers)


class TestOneTick:
    async def test_tasks_of_one_tick_share_one_read(self, cache: ModelCache, backend: CountingBackend) -> None:
        queries = [Event.cache.get(slug="event1"), User.cache.get(id=1), Event.cache.filter(organizer=2)]
        expected = await asyncio.gather(*queries)

        async with assert_ops(backend, sql=0, redis=["read"]), asyncio.TaskGroup() as tasks:
            waiters = [tasks.create_task(query.resolve()) for query in queries]
        assert [task.result() for task in waiters] == expected

        found: dict[int, Any] = {}

        async def look_up(number: int) -> None:
            found[number] = await queries[number]

        async with assert_ops(backend, sql=0, redis=["read"]), anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(look_up, number)
        assert [found[number] for number in range(3)] == expected

        async with assert_ops(backend, sql=0, redis=["read"]):
            batch = await BatchCacheQuery(dict(enumerate(queries)))
        assert list(batch.values()) == expected

        async with assert_ops(backend, sql=0, redis=["read"]):
            first, batch, second = await asyncio.gather(
                queries[0], BatchCacheQuery(dict(enumerate(queries))), queries[1]
            )
        assert (first, list(batch.values()), second) == (expected[0], expected, expected[1])

    async def test_lookups_during_a_read_share_the_next_read(self, cache: ModelCache, backend: CountingBackend) -> None:
        await asyncio.gather(*[User.cache.get(id=n) for n in range(1, 10)])

        async def one_after_the_other(*numbers: int) -> None:
            for n in numbers:
                assert (await User.cache.get(id=n)).id == n

        async with assert_ops(backend, sql=0, redis=["read"] * 3), asyncio.TaskGroup() as tasks:
            for first in (1, 4, 7):
                tasks.create_task(one_after_the_other(first, first + 1, first + 2))
