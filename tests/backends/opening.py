"""Redis backends that are open for a block, and how long they wait."""

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
    """Gives the server no more than this for each reply from now on, as ``socket_timeout`` does from the beginning.

    For servers that are about to hang: before that, a machine that stalls would be taken for one.
    """
    endpoint: Any = backend._endpoint
    endpoint.client.connection_pool.connection_kwargs |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    for reconnecting in (endpoint.reading, endpoint.writing):
        connection = reconnecting._current
        if connection is None:
            continue
        connection._timeout = seconds
        if connection._timer is not None:  # it would look after the former time
            connection._timer.cancel()
            connection._timer = connection._loop.call_later(seconds, connection._check_silence)
