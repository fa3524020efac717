"""Redis backends that are open for a block, and their timeouts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiomodelcache.backends.redis.backend import RedisBackend

PATIENT = 30.0
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


def hurry(backend: Any, seconds: float = 0.3) -> None:
    """Sets the timeout for each reply from now on, as ``socket_timeout`` does from the beginning.

    For servers that are about to hang. With such a timeout from the beginning, a slow machine would look like one.
    """
    endpoint: Any = backend._endpoint
    endpoint.client.connection_pool.connection_kwargs |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    for reconnecting in (endpoint.reading, endpoint.writing):
        connection = reconnecting._current
        if connection is None:
            continue
        connection._timeout = seconds
        if connection._timer is not None:  # it would check after the former timeout
            connection._timer.cancel()
            connection._timer = connection._loop.call_later(seconds, connection._check_silence)
