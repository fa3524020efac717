"""Misses beyond what the database bears: they wait, share statements, and lose their patience."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, CacheError, DatabaseOverloaded, ModelCache
from aiomodelcache.engine import load_limit
from aiomodelcache.observe import Observer, Overload
from aiomodelcache.testing import CountingBackend
from tests.support.busy import busy, settled, started
from tests.support.gates import PATIENCE, WAITING, Outside, awaited, until
from tests.support.models.music import Album, AlbumById, Artist, NewestAlbums

pytestmark = pytest.mark.models("tests.support.models.music")
ON_SQLITE = pytest.mark.only_on("sqlite", because="no statement differs in it")


@pytest.fixture
async def albums(database: BaseDBAsyncClient) -> None:
    """Writes artists and their albums 1 to 40 before a cache opens."""
    for number in range(1, 41):
        artist = await Artist.create(id=number, name=f"artist {number}")
        await Album.create(id=number, barcode=number, artist=artist)


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_no_more_statements_are_in_flight_than_the_limit(
    database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_limit, "HARMLESS", PATIENCE)  # a busy machine does not lower the limit
    async with ModelCache(backend, load_limit=2) as cache, busy(database) as statements:
        lookups: list[asyncio.Task[Any]] = []
        for number in range(1, 41):
            lookups.append(await started(NewestAlbums(number)))
            await until(lambda: statements.in_flight + cache.stats.queued_loads >= len(lookups))
        most = 0
        for left in range(40, 0, -1):
            await until(partial(statements.are_in_flight, min(2, left)))
            await settled()
            most = max(most, statements.in_flight)
            statements.end(1)
        found = await asyncio.gather(*lookups)
        assert [rows[0].id for rows in found] == list(range(1, 41))
        assert most == 2
        assert cache.stats.queued_loads == 38
        assert cache.stats.load_limits == {database.connection_name: 2}


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_lookups_of_one_key_share_the_next_statement(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend, load_limit=1) as cache, busy(database) as statements:
        lookups: list[asyncio.Task[Any]] = [asyncio.create_task(NewestAlbums(1).resolve())]
        await until(lambda: statements.in_flight)
        lookups += [await started(AlbumById(number)) for number in range(1, 41)]
        await until(lambda: len(cache.open_cache.reader._leases._flights) == 41)
        await settled()
        statements.end_all()
        await asyncio.gather(*lookups)
        assert cache.stats.statements <= 3, "the latest may not have joined the batch that waits"
        assert cache.stats.of("AlbumById").fills + cache.stats.of("Album").fills >= 40


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_a_shared_statement_asks_for_no_more_values_than_batch_size(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend, load_limit=1, batch_size=10) as cache, busy(database) as statements:
        lookups: list[asyncio.Task[Any]] = [asyncio.create_task(NewestAlbums(1).resolve())]
        await until(lambda: statements.in_flight)
        lookups += [await started(AlbumById(number)) for number in range(1, 41)]
        await until(lambda: len(cache.open_cache.reader._leases._flights) == 41)
        await settled()
        statements.end(1)
        await until(lambda: lookups[0].done() and statements.in_flight)
        statements.end(1)
        await until(lambda: sum(lookup.done() for lookup in lookups) > 1)  # without the others
        assert sum(lookup.done() for lookup in lookups) <= 11
        statements.end_all()
        assert len(await asyncio.gather(*lookups)) == 41
        assert 5 <= cache.stats.statements <= 7


class Noted(Observer):
    def __init__(self) -> None:
        self.notes: list[Overload] = []

    def note(self, note: Any) -> None:
        if isinstance(note, Overload):
            self.notes.append(note)


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_a_lookup_that_has_waited_too_long_fails(
    database: BaseDBAsyncClient, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Noted()
    async with ModelCache(backend, load_limit=1, load_wait=0.05, observers=[observer]) as cache:
        warm = await AlbumById(1)
        async with busy(database) as statements:
            first = asyncio.create_task(NewestAlbums(1).resolve())
            await until(lambda: statements.in_flight)
            with pytest.raises(DatabaseOverloaded, match=r"^Album: .* 0\.05 s for one of 1 statements") as error:
                await AlbumById(2)
            assert isinstance(error.value, CacheError)
            assert not isinstance(error.value, BackendError)
            assert await AlbumById(1) == warm, "what the cache holds is still answered"
        await first
        assert cache.stats.overloaded_loads == 1
        assert [(note.connection, note.lookups, note.limit) for note in observer.notes] == [("sqlite", 1, 1)]
        assert "lookups of Album have waited 0.05 s for a statement on sqlite" in caplog.text
        assert (await AlbumById(2)).id == 2, "its lease was given back"
        assert (await AlbumById(2)).id == 2
        assert cache.stats.of("Album").fills + cache.stats.of("AlbumById").fills >= 2


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_a_lookup_that_has_waited_too_long_may_go_on(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend, load_limit=1, load_wait=0.05, on_overload="proceed") as cache:
        async with busy(database) as statements:
            lookups = [asyncio.create_task(awaited(query)) for query in (NewestAlbums(1), AlbumById(2))]
            await until(lambda: statements.in_flight == 2)
            statements.end_all()
            await asyncio.gather(*lookups)
        assert cache.stats.overloaded_loads == 1


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_a_statement_that_fails_makes_room(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    async with ModelCache(backend, load_limit=1):
        await database.execute_script("ALTER TABLE album RENAME TO away")
        outcomes = await asyncio.gather(*[awaited(AlbumById(n)) for n in range(1, 9)], return_exceptions=True)
        assert all(isinstance(outcome, Exception) for outcome in outcomes)
        await database.execute_script("ALTER TABLE away RENAME TO album")
        assert (await AlbumById(1)).id == 1


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_a_cache_closes_while_lookups_wait(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    cache = ModelCache(backend, load_limit=1, lease_ttl=0.05)
    await cache.open()
    async with busy(database) as statements:
        lookups = [await started(NewestAlbums(number)) for number in (1, 2, 3)]
        await until(lambda: statements.in_flight)
        await cache.close()
        outcomes = await asyncio.gather(*lookups, return_exceptions=True)
    assert {type(outcome).__name__ for outcome in outcomes} == {"CacheNotOpen"}


@ON_SQLITE
@pytest.mark.usefixtures("albums")
async def test_another_process_is_waited_for_while_the_database_is_busy(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    """A statement of its own would only queue. So it waits longer than ``lease_wait`` for what the other one finds."""
    async with ModelCache(backend) as other, ModelCache(backend, load_limit=1, lease_wait=0.05) as cache:
        async with busy(database) as statements:
            theirs = asyncio.create_task(other.manager(Album).get(id=1).resolve())
            await until(lambda: statements.in_flight == 1)
            own = asyncio.create_task(cache.manager(Album).get(id=2).resolve())
            await until(lambda: statements.in_flight == 2)
            waiting = asyncio.create_task(cache.manager(Album).get(id=1).resolve())
            ends = time.monotonic() + 0.3
            await until(lambda: time.monotonic() > ends)
            assert cache.stats.queued_loads == 0
            statements.end(1)
            assert await theirs == await waiting
            statements.end_all()
            await own
        assert cache.stats.statements == 1


@pytest.mark.only_on("postgres", because="it can tell how many statements wait for a lock")
@pytest.mark.usefixtures("albums")
async def test_the_database_sees_no_more_statements_than_the_limit(
    database: BaseDBAsyncClient, backend: CountingBackend, outside: Outside
) -> None:
    async with ModelCache(backend, load_limit=3) as cache:
        async with in_transaction() as transaction:
            await transaction.execute_query("LOCK TABLE album IN ACCESS EXCLUSIVE MODE")
            lookups = []
            for number in range(1, 41):  # each in a tick of its own: those of one tick send their statements in turn
                lookups.append(outside(NewestAlbums(number).resolve()))
                await until(lambda: cache.stats.statements + cache.stats.queued_loads == len(lookups))
            most = 0
            ends = time.monotonic() + 0.5
            async with asyncio.timeout(PATIENCE):
                while most < 2 or time.monotonic() < ends:
                    # In a transaction, PostgreSQL would show what it has shown first.
                    await transaction.execute_query("SELECT pg_stat_clear_snapshot()")
                    [row] = await transaction.execute_query_dict(WAITING["postgres"])
                    most = max(most, int(row["Value"]))
                    assert most <= 3
                    await asyncio.sleep(0.005)
        assert len(await asyncio.gather(*lookups)) == 40
