"""``isolated_cache``: a cache for one test, empty at its start and deleted at its end."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Unpack

import anyio

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.exceptions import BackendError, CacheError
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.testing.counting_backend import CountingBackend
from aiomodelcache.testing.transactions import open_transactions, transaction_as_autocommit


@asynccontextmanager
async def isolated_cache(url: str = "memory://", **settings: Unpack[Settings]) -> AsyncGenerator[ModelCache, None]:
    """Opens a cache that shares no entries with another cache, and yields it. Use it after ``Tortoise.init``.

    It has a namespace of its own, so the server may be shared. In the end it deletes only the keys that it wrote, also
    if the block raises or is cancelled. Settings are those of ``CacheConfig``. A test that runs inside a transaction
    sees that transaction as autocommit mode (``transaction_as_autocommit``), so the cache works as in production.

    Raises ``CacheError`` if a cache is open already, because ``Event.cache`` would use that cache. Also raises the
    errors of ``ModelCache.open``. The pytest fixture ``model_cache`` is built on it.

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
            stack.push_async_callback(_delete, backend)  # runs last, because closing the cache writes keys, too
            stack.push_async_callback(cache.close)
            yield cache


async def _delete(backend: CountingBackend) -> None:
    # Shielded: a test may end by a cancelled AnyIO scope, which would cancel every await in here.
    with anyio.CancelScope(shield=True):
        try:
            await backend.open()
            await backend.delete(list(backend.keys))
        except BackendError:
            pass  # a test may end with its server dead; no other test reads the keys of its namespace
        finally:
            await backend.close()
