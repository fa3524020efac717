"""Entries of lookups, read directly from the backend, and steps that many tests share."""

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
    """Returns the bytes that the backend holds for some lookups."""
    return await cache.backend.read([query.locate(cache.open_cache).key for query in queries])


async def states(cache: ModelCache, *queries: LookupQuery[Any]) -> str:
    """Returns the state bytes of the entries of some lookups, with a dot for a missing entry."""
    return "".join([chr(entry[0]) if entry else "." for entry in await entries(cache, *queries)])


async def expire_intents(cache: ModelCache, *queries: LookupQuery[Any]) -> None:
    """Deletes the entries with intents, as if all their intents had expired."""
    await cache.open_cache.tasks.finish(PATIENCE)  # marks in flight
    keys = [query.locate(cache.open_cache).key for query in queries]
    found = zip(keys, await cache.backend.read(keys), strict=True)
    await cache.backend.delete([key for key, entry in found if entry and entry.startswith(INTENT)])


async def no_intents(cache: ModelCache, *queries: LookupQuery[Any]) -> None:
    """Waits until the last intent on the keys has expired."""
    async with asyncio.timeout(PATIENCE):
        while "W" in await states(cache, *queries):
            await asyncio.sleep(0.02)


async def ask_twice(ask: LookupQuery[Any] | Callable[[], Awaitable[Any]], backend: CountingBackend) -> Any:
    """Makes a lookup twice, and asserts that the cache alone answers the second one with the same result."""
    query = (lambda: ask) if isinstance(ask, LookupQuery) else ask
    first = await query()
    async with assert_ops(backend, sql=0):
        second = await query()
    assert second == first
    return second


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits until it has ended."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until_accepted(row: Model) -> None:
    """Retries a save until the cache accepts it, since each pooled connection must fail once after a restart."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(CacheWriteError):
                return await row.save()
            await asyncio.sleep(0.01)
