"""A cache for one test: nothing in it was there before, and nothing of it is left behind."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Unpack

import anyio

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.exceptions import BackendError, CacheError
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.testing.counting import CountingBackend
from aiomodelcache.testing.transactions import open_transactions, transaction_as_autocommit


@asynccontextmanager
async def isolated_cache(url: str = "memory://", **settings: Unpack[Settings]) -> AsyncGenerator[ModelCache, None]:
    """Opens a cache that shares nothing with any other, and yields it. After ``Tortoise.init``.

    On a server that others use, too, it has a namespace of its own, and in the end it deletes just the keys that it
    wrote, also if the block raises or is cancelled. Settings are those of ``CacheConfig``. If the test runs inside a
    transaction, that is made to look like autocommit mode (``transaction_as_autocommit``), so that the cache works as
    it does in production.

    Raises ``CacheError`` if a cache is open already, for that would answer ``Event.cache``, and what
    ``ModelCache.open`` raises. The pytest fixture ``model_cache`` is made of it.

    >>> async with isolated_cache():
    ...     assert await Event.cache.get_or_none(slug="no-such-event") is None
    """
    if default_cache_or_none() is not None:
        raise CacheError("isolated_cache: a cache is open already. Close it first, or use it instead of this one.")
    with transaction_as_autocommit() if open_transactions() else nullcontext():
        async with AsyncExitStack() as stack:
            cache = await ModelCache(url, namespace=f"test-{secrets.token_hex(8)}", **settings).open()
            guarded = cache.open_cache.guarded
            backend = guarded.backend = CountingBackend(guarded.backend)
            stack.push_async_callback(_delete, backend)  # runs last: closing writes, too
            stack.push_async_callback(cache.close)
            yield cache


async def _delete(backend: CountingBackend) -> None:
    # Shielded: a test may end by a cancelled AnyIO scope, which would cancel every await in here.
    with anyio.CancelScope(shield=True):
        try:
            await backend.open()
            await backend.delete(list(backend.keys))
        except BackendError:
            pass  # a test may end with its server dead; the keys in its namespace are asked for by no other test
        finally:
            await backend.close()
