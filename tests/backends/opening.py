"""Redis backends that are open for a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiomodelcache.backends.redis import RedisBackend

PATIENT = 10.0
"""Seconds to wait for a reply, in tests that are not about timeouts."""


@asynccontextmanager
async def opened(source: Any, **settings: Any) -> AsyncIterator[RedisBackend]:
    """Opens a backend for a URL or a client, and closes it."""
    backend = RedisBackend(source, **({"socket_timeout": PATIENT} | settings))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()
