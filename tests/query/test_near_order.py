"""Lookups of one process go forward: a near entry is not older than what an earlier lookup has returned.

The messages about another process's write are held back, while lookups see the write by another way.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, QuerysetCache
from aiomodelcache.testing import assert_ops
from tests.backends.proxy import Proxy
from tests.protocol.interleavings.questions import on_cache
from tests.query.test_near_cache import caches, create_event, near_soon, rename_in_other_process
from tests.support.gates import GatedBackend, awaited, gated_sql
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

pytestmark = [
    pytest.mark.usefixtures("near_server"),
    pytest.mark.only_on("redis", because="near entries need a server that reports changes"),
    pytest.mark.only_on("sqlite", because="near entries are bytes of a store"),
]


@dataclass
class Processes:
    """This process, whose messages can be held back, and another one."""

    cache: ModelCache
    backend: GatedBackend
    proxy: Proxy
    other: ModelCache
    event: Event
    database: BaseDBAsyncClient

    async def rename_unheard(self) -> None:
        """Renames the event in the other process. The message about that stays on its way."""
        self.proxy.answering.clear()
        await rename_in_other_process(self.other, self.event, "new")
        assert self.cache.open_cache.guarded.near.holds(self.key)

    @property
    def key(self) -> bytes:
        return self.cache.open_cache.models[Event].rows.key(self.event.id)


@asynccontextmanager
async def processes(
    database: BaseDBAsyncClient, server: RedisServer, backend_url: str, **settings: Any
) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        event = await create_event()
        proxy = await stack.enter_async_context(Proxy(server.port))
        proxy.held = b"TRACKING"
        cache, backend, _ = await stack.enter_async_context(caches(proxy.url, **settings))
        other = await stack.enter_async_context(ModelCache(server.url))
        stack.callback(proxy.answering.set)
        await near_soon(lambda: Event.cache.get(id=event.id), backend)
        yield Processes(cache, backend, proxy, other, event, database)


async def in_a_transaction(here: Processes) -> str:
    await here.rename_unheard()
    async with in_transaction():
        return (await Event.cache.get(id=here.event.id)).title


async def without_the_cache(here: Processes) -> str:
    await here.rename_unheard()
    with here.cache.disabled():
        return (await Event.cache.get(id=here.event.id)).title


async def by_an_index_that_misses(here: Processes) -> str:
    gate = here.backend.hold("lease")
    async with asyncio.TaskGroup() as tasks:
        lookup = tasks.create_task(awaited(Event.cache.get(slug="pycon")))
        await gate.reached()
        await here.rename_unheard()
        gate.open()
    return lookup.result().title


async def by_a_statement_that_takes_long(here: Processes) -> str:
    """The lookup begins before the entry that is near is stored."""
    near = here.cache.open_cache.guarded.near
    await here.other.manager(Event).invalidate(here.event.id)
    with gated_sql(here.database) as gates:
        gate = gates.hold("SELECT")
        async with asyncio.TaskGroup() as tasks:
            with here.cache.disabled():
                lookup = tasks.create_task(awaited(Event.cache.get(id=here.event.id)))
                await gate.reached()
            await near_soon(lambda: Event.cache.get(id=here.event.id), here.backend)
            assert near.holds(here.key)
            await here.rename_unheard()
            gate.open()
        return lookup.result().title


WAYS: dict[str, Callable[[Processes], Awaitable[str]]] = {
    "in a transaction": in_a_transaction,
    "without the cache": without_the_cache,
    "by an index that misses": by_an_index_that_misses,
    "by a statement that takes long": by_a_statement_that_takes_long,
}


async def title_after_all(here: Processes) -> str:
    """Looks the event up, and lets the messages arrive as soon as the lookup waits for them."""
    lookup = asyncio.create_task(awaited(Event.cache.get(id=here.event.id)))
    await asyncio.sleep(0)
    here.proxy.answering.set()
    return (await lookup).title


@pytest.mark.parametrize("see", WAYS.values(), ids=WAYS)
async def test_a_near_row_is_not_older_than_what_the_database_has_answered(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str, see: Callable[[Processes], Awaitable[str]]
) -> None:
    async with processes(database, own_redis, backend_url) as here:
        assert await see(here) == "new"
        assert await title_after_all(here) == "new"


async def test_a_near_list_is_not_older_than_a_row_that_the_database_has_answered(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    async with processes(database, own_redis, backend_url) as here:
        lee = await User.create(username="lee")
        await near_soon(lambda: Event.cache.filter(organizer=lee.id), here.backend)
        here.proxy.answering.clear()
        await move_unheard(here, lee)
        async with in_transaction():
            assert (await Event.cache.get(id=here.event.id)).organizer_id == lee.id
        listed = asyncio.create_task(awaited(Event.cache.filter(organizer=lee.id)))
        await asyncio.sleep(0)
        here.proxy.answering.set()
        assert [event.id for event in await listed] == [here.event.id]


async def move_unheard(here: Processes, organizer: User) -> None:
    """Gives the event to another organizer in the other process, which invalidates the row and the list."""
    await QuerySet(Event).filter(id=here.event.id).update(organizer_id=organizer.id)
    await here.other.manager(Event).invalidate(here.event.id)


async def test_a_near_row_is_not_older_than_what_was_read_beside_other_keys(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    """Near rows are read with other keys on a connection on which the server reports nothing."""

    class ByPosition(QuerysetCache[Event]):
        model = Event
        key_fields = ("position",)
        near = False

    async with processes(database, own_redis, backend_url) as here:
        for _ in range(2):
            assert [event.title for event in await ByPosition(position=0)] == ["old"]
        await here.rename_unheard()
        assert [event.title for event in await on_cache(ByPosition(position=0), here.other)] == ["new"]
        async with assert_ops(here.backend, redis=["read"], sql=0):
            assert [event.title for event in await ByPosition(position=0)] == ["new"]
        assert await title_after_all(here) == "new"
