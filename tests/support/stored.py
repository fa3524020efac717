"""What the store holds for a lookup, read past the package; and what tests do with it again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tortoise.models import Model

from aiomodelcache import CacheWriteError, ModelCache
from aiomodelcache.encoding.layout import INTENT
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE


async def entries(cache: ModelCache, *queries: LookupQuery[Any]) -> list[bytes | None]:
    """The bytes that the store holds for some lookups."""
    return await cache.backend.read([query.locate(cache.open_cache).key for query in queries])


async def states(cache: ModelCache, *queries: LookupQuery[Any]) -> str:
    """The state bytes of what the store holds for some lookups; a dot where there is nothing."""
    return "".join([chr(entry[0]) if entry else "." for entry in await entries(cache, *queries)])


async def expire_intents(cache: ModelCache, *queries: LookupQuery[Any]) -> None:
    """Ends the time of the intents on the keys, which vanish with the last of them, without waiting for it."""
    await cache.open_cache.tasks.finish(PATIENCE)  # what is still being announced
    keys = [query.locate(cache.open_cache).key for query in queries]
    found = zip(keys, await cache.backend.read(keys), strict=True)
    await cache.backend.delete([key for key, entry in found if entry and entry.startswith(INTENT)])


async def no_intents(cache: ModelCache, *queries: LookupQuery[Any]) -> None:
    """Waits until the last intent on the keys has expired."""
    async with asyncio.timeout(PATIENCE):
        while "W" in await states(cache, *queries):
            await asyncio.sleep(0.02)


async def ask_twice(ask: LookupQuery[Any] | Callable[[], Awaitable[Any]], backend: CountingBackend) -> Any:
    """Asks once for whatever that takes, and again, which the cache answers alone. Both answers are the same."""
    query = (lambda: ask) if isinstance(ask, LookupQuery) else ask
    first = await query()
    async with assert_ops(backend, sql=0):
        second = await query()
    assert second == first
    return second


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits until it has noticed."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until_accepted(row: Model) -> None:
    """Saves until that is not refused any more: each connection of a pool finds out for itself that it is dead."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(CacheWriteError):
                return await row.save()
            await asyncio.sleep(0.01)
