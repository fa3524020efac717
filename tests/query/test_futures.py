"""``query.start()``: lookups that have begun, which ``gather`` and the like take as they are."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import CacheNotOpen, ModelCache, cached, local_cache
from aiomodelcache.observe.events import Lookup, Operation
from aiomodelcache.observe.observers import Observer
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, User

pytestmark = pytest.mark.only_on("sqlite", because="futures depend on no database")


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    for number in range(1, 11):
        await User.create(id=number, username=f"user{number}", team=number % 2)


def users() -> list["asyncio.Future[User]"]:
    return [User.cache.get(id=number).start() for number in range(1, 11)]


@pytest.mark.unobserved(because="a lookup that observers are told of needs a task")
async def test_a_gather_shares_one_round_trip_and_makes_no_task(cache: ModelCache, backend: CountingBackend) -> None:
    await asyncio.gather(*users())
    for _ in range(3):
        async with assert_ops(backend, sql=0, redis=["read"]):
            futures = users()
            assert not any(isinstance(future, asyncio.Task) for future in futures)
            found = await asyncio.gather(*futures)
        assert [user.id for user in found] == list(range(1, 11))


async def test_each_call_starts_a_lookup_of_its_own(cache: ModelCache, backend: CountingBackend) -> None:
    query = User.cache.get(id=1)
    for _ in range(2):
        first, second, third = await asyncio.gather(query.start(), query.start(), query)
        assert len({id(first), id(second), id(third)}) == 3
    future = query.start()
    assert await future is await future
    async with assert_ops(backend, sql=0, redis=["read"]):
        await query


async def test_it_starts_at_once(cache: ModelCache, backend: CountingBackend) -> None:
    future = User.cache.get(id=1).start()
    while not future.done():
        await asyncio.sleep(0.001)
    assert future.result().username == "user1"


QUERIES: dict[str, Callable[[], Any]] = {
    "a row": lambda: User.cache.get(id=1),
    "no row": lambda: User.cache.get_or_none(id=77),
    "an index": lambda: User.cache.get(username="user2"),
    "many": lambda: User.cache.get_many([3, 1]),
    "a query": lambda: User.cache.query(User.filter(team=1).order_by("id")),
    "a count": lambda: User.cache.query(User.all().count()),
    "options": lambda: User.cache.get(id=1).options(fill=False),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_it_has_the_outcome_of_the_query(name: str, cache: ModelCache) -> None:
    query = QUERIES[name]
    expected = await query()
    for _ in range(3):
        assert await query().start() == expected
        with cache.disabled():
            assert await query().start() == expected
        with cache.without_fill():
            assert await query().start() == expected
        async with local_cache():
            assert await query().start() == expected
            assert await query().start() == expected


async def test_exceptions_are_those_of_the_future(cache: ModelCache) -> None:
    absent, wrong, present = User.cache.get(id=77), User.cache.get(id="seven"), User.cache.get(id=1)
    for _ in range(2):
        outcomes = await asyncio.gather(absent.start(), wrong.start(), present.start(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DoesNotExist, ValueError, User]
    await cache.close()
    future = present.start()
    with pytest.raises(CacheNotOpen):
        await future


async def test_it_needs_an_event_loop(cache: ModelCache) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(User.cache.get(id=1).start)


async def test_a_cancelled_one_leaves_the_others_alone(cache: ModelCache) -> None:
    for _ in range(3):  # misses, and hits
        futures = users()
        futures[0].cancel()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert [user.id for user in outcomes[1:] if isinstance(user, User)] == list(range(2, 11))
        gathering = asyncio.gather(*users())
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering


async def test_the_functions_of_asyncio_take_it(cache: ModelCache) -> None:
    for _ in range(2):
        done, pending = await asyncio.wait(users())
        assert (len(done), pending) == (10, set())
        assert {(await future).id for future in asyncio.as_completed(users())} == set(range(1, 11))
        assert (await asyncio.wait_for(User.cache.get(id=1).start(), 10)).id == 1
        assert (await asyncio.shield(User.cache.get(id=1).start())).id == 1
        future = User.cache.get(id=1).start()
        assert asyncio.ensure_future(future) is future
        await future


async def test_in_a_transaction_the_database_answers(cache: ModelCache, backend: CountingBackend) -> None:
    await asyncio.gather(*users())
    async with in_transaction():
        await User.filter(id=1).update(username="changed")
        async with assert_ops(backend, redis=0, sql=1):
            assert (await User.cache.get(id=1).start()).username == "changed"


@pytest.mark.unobserved(because="a lookup that observers are told of needs a task")
async def test_a_scope_remembers_it(cache: ModelCache, backend: CountingBackend) -> None:
    async with local_cache():
        first = await User.cache.get(id=1).start()
        async with assert_ops(backend, redis=0, sql=0):
            again = User.cache.get(id=1).start()
            assert again.done()
            assert await again is first
            assert await User.cache.get(id=1) is first


async def test_a_cached_function_depends_on_it(cache: ModelCache) -> None:
    @cached
    async def names() -> list[str]:
        found = await asyncio.gather(*[User.cache.get(id=number).start() for number in (1, 2)])
        return [user.username for user in found]

    for _ in range(3):
        assert await names() == ["user1", "user2"]
    [counters] = [each for name, each in cache.stats.by_cache.items() if "names" in name]
    assert counters.hits == 2
    user = await User.get(id=2)
    user.username = "changed"
    await user.save()
    assert await names() == ["user1", "changed"]


async def test_observers_are_told_of_it(database: BaseDBAsyncClient, backend_url: str) -> None:
    class Ended(Observer):
        def __init__(self) -> None:
            self.outcomes: list[str | None] = []

        def end(self, operation: Operation) -> None:
            if isinstance(operation, Lookup):
                self.outcomes.append(operation.outcome)

    ended = Ended()
    async with ModelCache(backend_url, observers=[ended]):
        for _ in range(2):
            await User.cache.get(id=1).start()
    assert ended.outcomes == ["miss", "hit"]


async def test_near_entries_answer_it(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(backend_url, near=True) as cache:
        for _ in range(4):
            found = await User.cache.get(id=1).start()
            assert found.username == "user1"
        assert cache.stats.near.hits == (0 if backend_url == "memory://" else 2)


async def test_a_query_class_of_ones_own_is_awaited(cache: ModelCache) -> None:
    class Shouted(type(User.cache.get(id=1))):  # type: ignore[misc]
        def __await__(self) -> Any:
            user = yield from super().__await__()
            user.username = user.username.upper()
            return user

    assert (await Shouted(User, {"id": 1}).start()).username == "USER1"
    assert (await Event.cache.get_or_none(slug="x").start()) is None
