"""The sums of settings that bound how old an answer may be after another program's write.

Each case reads once, right before or right after the end of its sum. Time passes by a clock of the test.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import MemoryBackend, ModelCache
from aiomodelcache.backends.redis.connection import PipelinedConnection
from aiomodelcache.relay import Relay
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.triggers.installation import install
from aiomodelcache.testing import assert_ops
from tests.relay.test_bound import LAG, Bound, answered_by_cache, by_pk, create_rows, opened
from tests.support.gates import GatedBackend, until
from tests.support.models import bound_models
from tests.support.models.bound_models import Author, Stock, name_if_up

pytestmark = [
    pytest.mark.models("tests.support.models.bound_models"),
    pytest.mark.only_on("sqlite", because="the database plays no part in it"),
]

BEFORE, AFTER = -1.0, 1.0
"""Seconds from the end of a sum to a read."""
BEGAN = 1_000.0
"""The beginning of time, at which everything is cached and another program writes."""
ON_MEMORY = pytest.mark.only_on("memory", because="its clock is the test's")


class NearTime:
    """The clock of near entries and their connection. Messages of the server get lost from a moment on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        self.is_deaf = False
        on_push = PipelinedConnection._on_push

        def on_push_unless_deaf(connection: PipelinedConnection, message: Any) -> None:
            if not self.is_deaf:
                on_push(connection, message)

        monkeypatch.setattr(PipelinedConnection, "_on_push", on_push_unless_deaf)
        monkeypatch.setattr("aiomodelcache.backends.near.monotonic", self)
        monkeypatch.setattr("aiomodelcache.backends.redis.connection.time", SimpleNamespace(monotonic=self))

    def __call__(self) -> float:
        return monotonic() + self.passed


@asynccontextmanager
async def timed(database: BaseDBAsyncClient, **settings: Any) -> AsyncIterator[tuple[Bound, Relay]]:
    """Opens a cache whose store has the clock of the bound, and a relay that has claimed."""
    clock: list[Any] = []
    store = GatedBackend(MemoryBackend(clock=lambda: clock[0]() if clock else BEGAN))
    await store.open()
    async with ModelCache(store, relay_lag=LAG, ttl_jitter=0, **settings) as cache:
        bound = Bound(cache, store, database)
        clock.append(bound.clock)
        [(_, tables)] = captured_tables(cache.open_cache).items()
        await install(database, tables)
        await bound.watch.close()
        await create_rows()
        relay = Relay(cache)
        await drain(bound, relay)
        yield bound, relay
    await store.close()


async def drain(bound: Bound, relay: Relay) -> None:
    """Lets the relay invalidate and claim, and the process learn of it."""
    for each in relay.drains:
        each.claim_at_once()
    await relay.drain()
    await bound.watch.ask()


@ON_MEMORY
@pytest.mark.parametrize(("moment", "name"), [(BEFORE, "old"), (AFTER, "new")])
@pytest.mark.parametrize("lives", [True, False])
async def test_a_stale_copy_adds_its_allowtime(
    database: BaseDBAsyncClient, backend_url: str, moment: float, name: str, lives: bool
) -> None:
    """A write of the library begins right before the relay invalidates, and leaves the copy after that."""
    async with timed(database) as (bound, relay):

        async def stock() -> Any:
            return (await Stock.cache.get(id=1)).name

        await answered_by_cache(stock)
        await bound.write("UPDATE stock SET name = 'new'")
        bound.clock.now += LAG - 1
        gate = bound.store.hold("clear")
        saving = asyncio.create_task((await Stock.get(id=1)).save())
        await gate.reached()
        await drain(bound, relay)
        gate.open()
        await saving
        if lives:
            bound.clock.now += LAG - 10
            await drain(bound, relay)
            bound.clock.now += 10 + moment
        else:
            bound.clock.now += LAG + moment  # the claim ends with the copy
        assert await stock() == name


@ON_MEMORY
async def test_a_last_good_value_has_a_sum_of_its_own_while_a_relay_lives(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers for its ``timeout`` and ``stale_if_error``, from its computation on."""
    async with timed(database) as (bound, relay):
        assert await answered_by_cache(lambda: name_if_up(1)) == "old"
        await bound.write("UPDATE author SET name = 'new'")
        monkeypatch.setattr(bound_models, "is_down", True)
        for passed in (LAG - 1, 900 + 300 + BEFORE):
            bound.clock.now = BEGAN + passed
            await drain(bound, relay)
            assert await name_if_up(1) == "old"
        bound.clock.now = BEGAN + 900 + 300 + AFTER
        with pytest.raises(ConnectionError):
            await name_if_up(1)


@ON_MEMORY
async def test_a_last_good_value_needs_a_relay_that_lives(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with timed(database) as (bound, _):
        assert await answered_by_cache(lambda: name_if_up(1)) == "old"
        await bound.write("UPDATE author SET name = 'new'")
        monkeypatch.setattr(bound_models, "is_down", True)
        bound.clock.now += LAG + BEFORE
        assert await name_if_up(1) == "old"
        bound.clock.now += AFTER - BEFORE
        with pytest.raises(ConnectionError):
            await name_if_up(1)


@pytest.mark.only_on("redis", because="near entries need a server that reports changes")
@pytest.mark.parametrize(("moment", "name"), [(BEFORE, "old"), (AFTER, "new")])
async def test_a_message_on_its_way_adds_the_near_lag(
    database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch, moment: float, name: str
) -> None:
    """The relay invalidates as late as it may, and the near connection was answered right before."""
    time = NearTime(monkeypatch)
    settings: dict[str, Any] = {"near": True, "near_lag": LAG, "socket_timeout": 10 * LAG, "timeout": 100 * LAG}
    async with opened(database, backend_url, **settings) as bound, ModelCache(backend_url) as other:
        near = bound.cache.open_cache.guarded.near

        def wait(seconds: float) -> None:
            time.passed += seconds
            bound.clock.now += seconds

        assert await answered_by_cache(by_pk) == "old"
        async with assert_ops(sql=0, redis=0):
            await by_pk()
        await bound.write("UPDATE author SET name = 'new'")
        wait(LAG - 1)
        assert await by_pk() == "old"
        await until(lambda: near._trusted_until > time() + LAG / 2)  # by the answer to a PING
        time.is_deaf = True
        await other.manager(Author).invalidate(1)
        await bound.live()
        wait(LAG - 10)
        await bound.live()
        wait(10 + moment)
        assert await by_pk() == name
