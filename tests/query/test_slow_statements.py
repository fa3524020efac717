"""Statements that take longer than a lease lives: the lease is extended, and what they have found is stored."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, ModelCache
from aiomodelcache.backends.protocol import Fill
from aiomodelcache.testing import CountingBackend
from tests.support.gates import Gate, awaited, gated_sql, until
from tests.support.models.models import Event, User

LEASE_TTL = 0.6
ON_ONE = pytest.mark.only_on("sqlite", because="the store decides")


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend, lease_ttl=LEASE_TTL) as opened:
        yield opened


class FillsFail(CountingBackend):
    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        raise BackendError("failed on purpose")


@asynccontextmanager
async def slow(connection: BaseDBAsyncClient, lookup: Any, *, skip: int = 0) -> AsyncIterator[Gate]:
    """Holds the statement of a lookup for the block, which begins when the database has answered."""
    with gated_sql(connection) as gates:
        gate = gates.hold("SELECT", "after", skip=skip)
        reader = asyncio.create_task(awaited(lookup))
        await gate.reached()
        try:
            yield gate
        finally:
            gate.open()
            await reader


async def outlast(cache: ModelCache, leases: float = 2) -> None:
    """Waits until leases that were not extended would have expired."""
    ends, extended = time.monotonic() + leases * LEASE_TTL, cache.stats.extended_leases
    await until(lambda: time.monotonic() > ends and cache.stats.extended_leases > extended)


@ON_ONE
async def test_what_a_slow_statement_has_found_is_stored(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    user = await User.create(username="kim")
    async with slow(database, User.cache.get(id=user.id)):
        await outlast(cache)
    assert (cache.stats.of("User").fills, cache.stats.of("User").refused) == (1, 0)
    assert await User.cache.get(id=user.id) == user
    assert cache.stats.statements == 1


@ON_ONE
async def test_an_absence_and_a_list_are_stored_too(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    user = await User.create(username="kim")
    for lookup in (User.cache.get_or_none(username="lee"), Event.cache.filter(organizer=user)):
        async with slow(database, lookup):
            await outlast(cache)
        before = cache.stats.statements
        await lookup
        assert cache.stats.statements == before


@ON_ONE
async def test_a_row_that_an_index_finds_late_is_not_stored(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    """Its key was not known before the statement, so that no lease could be extended. It is stored by its key then."""
    await User.create(username="kim")
    await cache.backend.delete([User.cache.key(username="kim").encode()])  # the hint that the writer has left
    async with slow(database, User.cache.get(username="kim")):
        await outlast(cache)
    assert [cache.stats.of(name).fills for name in ("User(username)", "User")] == [1, 0]
    for statements in (2, 2):
        assert (await User.cache.get(username="kim")).username == "kim"
        assert cache.stats.statements == statements


@ON_ONE
async def test_a_write_during_a_slow_statement_counts(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    user = await User.create(username="kim")
    async with slow(database, User.cache.get(id=user.id)):
        await outlast(cache, 1)
        await User.filter(id=user.id).update(username="lee")
        extended, ends = cache.stats.extended_leases, time.monotonic() + LEASE_TTL
        await until(lambda: time.monotonic() > ends)
    assert cache.stats.extended_leases == extended
    assert (cache.stats.of("User").fills, cache.stats.of("User").refused) == (0, 1)
    assert (await User.cache.get(id=user.id)).username == "lee"


@ON_ONE
async def test_leases_are_extended_for_a_while_only(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    async with ModelCache(backend, lease_ttl=LEASE_TTL, load_ttl=LEASE_TTL) as cache:
        user = await User.create(username="kim")
        async with slow(database, User.cache.get(id=user.id)):
            await outlast(cache, 1)
            key = User.cache.key(id=user.id).encode()
            async with asyncio.timeout(10):
                while (await backend.read([key]))[0] is not None:
                    await asyncio.sleep(0.01)
        assert (cache.stats.of("User").fills, cache.stats.of("User").refused) == (0, 1)


@ON_ONE
async def test_other_lookups_of_the_process_wait_for_a_slow_statement(
    cache: ModelCache, database: BaseDBAsyncClient
) -> None:
    user = await User.create(username="kim")
    async with slow(database, User.cache.get(id=user.id)):
        others = [asyncio.create_task(awaited(User.cache.get(id=user.id))) for _ in range(3)]
        await outlast(cache)
    assert await asyncio.gather(*others) == [user] * 3
    assert cache.stats.statements == 1


@ON_ONE
async def test_a_store_that_fails_meanwhile_is_no_error(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    async with ModelCache(FillsFail(backend.backend), lease_ttl=LEASE_TTL) as cache:
        user = await User.create(username="kim")
        async with slow(database, User.cache.get(id=user.id)):
            await until(lambda: cache.stats.backend_errors)
        assert cache.stats.extended_leases == 0


@ON_ONE
async def test_a_fast_statement_costs_no_request_more(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    lease_ttl = 3.0  # so that a busy machine does not make the statement slow
    async with ModelCache(backend, lease_ttl=lease_ttl) as cache:
        user = await User.create(username="kim")
        before = cache.stats.round_trips
        async with slow(database, User.cache.get(id=user.id)):
            ends = time.monotonic() + lease_ttl * 0.2
            await until(lambda: time.monotonic() > ends)
        assert cache.stats.round_trips - before == 3
        assert cache.stats.extended_leases == 0
