"""Ad-hoc queries beyond what the database bears: each statement waits, and none while it holds up another one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import DatabaseOverloaded, ModelCache, cached
from aiomodelcache.engine import load_limit
from aiomodelcache.observe import Overload
from aiomodelcache.testing import CountingBackend
from tests.query.test_overload import Noted
from tests.support.busy import Busy, busy, settled, started
from tests.support.gates import PATIENCE, awaited, until
from tests.support.models.music import Album, Artist

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("sqlite", because="no statement differs in it"),
]

Query = Callable[[int], Any]
QUERIES: dict[str, Query] = {
    "query": lambda number: Album.cache.query(Album.filter(id=number)),
    "cached": lambda number: Album.filter(id=number).cached(),
    "get": lambda number: Album.cache.query(Album.get(id=number)),
    "count": lambda number: Album.cache.query(Album.filter(id=number).count()),
    "exists": lambda number: Album.cache.query(Album.filter(id=number).exists()),
    "values": lambda number: Album.cache.query(Album.filter(id=number).values("id")),
    "in_bulk": lambda number: Album.cache.query(Album.all().in_bulk([number], "id")),
}


@pytest.fixture
async def statements(database: BaseDBAsyncClient) -> AsyncIterator[Busy]:
    """The statements of a connection that is not observed yet, and of albums 1 to 20."""
    for number in range(1, 21):
        artist = await Artist.create(id=number, name=f"artist {number}")
        await Album.create(id=number, barcode=number, artist=artist)
    async with busy(database) as held:
        yield held


def opened(backend: CountingBackend, **settings: Any) -> ModelCache:
    return ModelCache(backend, inspect_columns=False, **settings)


async def most_in_flight(statements: Busy, lookups: list[asyncio.Task[Any]]) -> int:
    """Ends one statement after the other. Returns the largest number that were in flight."""
    most = 0
    while not all(lookup.done() for lookup in lookups):
        await until(lambda: statements.in_flight or all(lookup.done() for lookup in lookups))
        await settled()
        most = max(most, statements.in_flight)
        statements.end(1)
    return most


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_no_more_statements_of_queries_are_in_flight_than_the_limit(
    query: Query, statements: Busy, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_limit, "HARMLESS", PATIENCE)
    async with opened(backend, load_limit=2) as cache:
        lookups = [asyncio.create_task(awaited(query(number))) for number in range(1, 21)]
        lookups.append(asyncio.create_task(awaited(Album.cache.get(barcode=1))))
        assert await most_in_flight(statements, lookups) == 2
        assert all(lookup.result() is not None for lookup in lookups)
        assert cache.stats.queued_loads == 19, "lookups and queries wait for the same statements"
        again = [asyncio.create_task(awaited(query(number))) for number in range(1, 21)]
        assert await most_in_flight(statements, again) == 0, "all answers were stored"


async def test_a_query_holds_no_statement_while_another_one_of_its_own_waits(
    statements: Busy, backend: CountingBackend
) -> None:
    """Prefetching sends statements inside, at once where Tortoise can."""
    async with opened(backend, load_limit=1) as cache:
        queries: list[Any] = [
            Album.filter(id=number).prefetch_related("artist__albums", "producer") for number in range(1, 6)
        ]
        lookups = [asyncio.create_task(awaited(Album.cache.query(query))) for query in queries]
        assert await most_in_flight(statements, lookups) == 1
        assert [[album.id for album in lookup.result()[0].artist.albums] for lookup in lookups] == [
            [1], [2], [3], [4], [5]
        ]  # fmt: skip
        assert cache.stats.of("Album.query").fills == 5


async def test_a_computation_may_look_up_what_waits_for_a_statement(statements: Busy, backend: CountingBackend) -> None:
    """Each awaits others of its kind, which other tasks await at the same time."""

    @cached(timeout=60)
    async def chain(number: int) -> int:
        if number > 8:
            return number
        [album] = await Album.cache.query(Album.filter(id=number))
        assert (await Album.cache.get(barcode=number)).id == album.id
        return int(await chain(number + 1))

    async with opened(backend, load_limit=1):
        lookups = [asyncio.create_task(chain(number)) for number in range(8, 0, -1)]
        assert await most_in_flight(statements, lookups) == 1
        assert [lookup.result() for lookup in lookups] == [9] * 8


async def test_a_query_that_has_begun_goes_first(statements: Busy, backend: CountingBackend) -> None:
    """Others would let it wait once more, for as long as it has waited already, and its lease would end."""
    async with opened(backend, load_limit=1) as cache:
        begun = await started(Album.cache.query(Album.filter(id=1).prefetch_related("artist")))
        await until(lambda: statements.in_flight)
        later = []
        for number in range(2, 6):
            later.append(await started(Album.cache.query(Album.filter(id=number))))
            await until(lambda: cache.stats.queued_loads == len(later))
        for _ in range(3):  # the second one begins before Tortoise asks for artists
            await until(lambda: statements.in_flight)
            await settled()
            statements.end(1)
        await until(begun.done)
        assert not any(lookup.done() for lookup in later[1:])
        statements.end_all()
        await asyncio.gather(*later)


async def test_an_answer_that_has_waited_is_of_the_time_of_its_statement(
    statements: Busy, backend: CountingBackend, database: BaseDBAsyncClient
) -> None:
    """The versions of its tables were read when it began to wait. They are read again."""
    async with opened(backend, load_limit=1) as cache:
        first = await started(Album.cache.query(Album.filter(id=1)))
        await until(lambda: statements.in_flight)
        waiting = await started(Album.cache.query(Album.filter(id=2).values_list("year", flat=True)))
        await until(lambda: cache.stats.queued_loads)
        await Album.filter(id=2).update(year=1999)
        statements.end_all()
        await first
        assert await waiting == [1999]
        misses = cache.stats.of("Album.query").misses
        again: Any = await Album.cache.query(Album.filter(id=2).values_list("year", flat=True))
        assert again == [1999]
        assert cache.stats.of("Album.query").misses == misses


async def test_a_query_that_has_waited_too_long_fails(
    statements: Busy, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Noted()
    async with opened(backend, load_limit=1, load_wait=0.05, observers=[observer]) as cache:
        first = await started(Album.cache.query(Album.filter(id=1)))
        await until(lambda: statements.in_flight)
        with pytest.raises(DatabaseOverloaded, match=r"^Album\.query: .* 0\.05 s for one of 1 statements"):
            await Album.cache.query(Album.filter(id=2))
        statements.end_all()
        assert [album.id for album in await first] == [1]
        assert cache.stats.overloaded_loads == cache.stats.queued_loads == 1
        assert observer.notes == [Overload(connection="sqlite", lookups=1, limit=1)]
        assert "lookups of Album.query have waited 0.05 s for a statement on sqlite" in caplog.text
        fills = cache.stats.of("Album.query").fills
        assert [album.id for album in await Album.cache.query(Album.filter(id=2))] == [2]
        assert cache.stats.of("Album.query").fills == fills + 1, "its lease was given back"


async def test_a_query_that_has_waited_too_long_may_go_on(statements: Busy, backend: CountingBackend) -> None:
    async with opened(backend, load_limit=1, load_wait=0.05, on_overload="proceed") as cache:
        lookups = [await started(Album.cache.query(Album.filter(id=number))) for number in (1, 2)]
        await until(lambda: statements.in_flight == 2)
        statements.end_all()
        await asyncio.gather(*lookups)
        assert cache.stats.overloaded_loads == 1
        assert not cache.open_cache.reader.overloads._admissions.saturated()


async def test_a_query_that_fails_makes_room(
    statements: Busy, backend: CountingBackend, database: BaseDBAsyncClient
) -> None:
    statements.end_all()
    async with opened(backend, load_limit=1):
        await database.execute_script("ALTER TABLE album RENAME TO away")
        queries = [Album.cache.query(Album.filter(id=number)) for number in range(1, 6)]
        outcomes = await asyncio.gather(*map(awaited, queries), return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} == {"OperationalError"}
        await database.execute_script("ALTER TABLE away RENAME TO album")
        assert [album.id for album in await queries[0]] == [1]


async def test_a_cache_closes_while_queries_wait(statements: Busy, backend: CountingBackend) -> None:
    cache = opened(backend, load_limit=1, lease_ttl=0.05)
    await cache.open()
    lookups = [await started(Album.cache.query(Album.filter(id=number))) for number in (1, 2, 3)]
    await until(lambda: statements.in_flight)
    await cache.close()
    outcomes = await asyncio.gather(*lookups, return_exceptions=True)
    assert {type(outcome).__name__ for outcome in outcomes} == {"CacheNotOpen"}


async def test_statements_in_a_transaction_wait_for_nothing(statements: Busy, backend: CountingBackend) -> None:
    from tortoise.transactions import in_transaction

    async with opened(backend, load_limit=1):
        first = await started(Album.cache.query(Album.filter(id=1)))
        await until(lambda: statements.in_flight)
        async with in_transaction():
            assert [album.id for album in await Album.cache.query(Album.filter(id=2))] == [2]
            assert not first.done()
        statements.end_all()
        await first


async def test_a_page_after_a_row_that_is_gone_waits_too(statements: Busy, backend: CountingBackend) -> None:
    async with opened(backend, load_limit=1) as cache:
        statements.end_all()
        albums = Album.cache.filter(artist=1)
        page = await albums.page(1, size=1)
        await Album.filter(id=1).delete()
        admission = cache.open_cache.reader.overloads._admissions.admission_to(Album._meta.db)
        admission.in_flight += 1
        following = await started(albums.after(page.cursor, size=1))
        await until(lambda: cache.stats.queued_loads)
        assert not following.done()
        admission.leave()
        assert (await following).items == []
