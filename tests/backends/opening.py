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
    link: Any = backend._endpoint
    link.client.connection_pool.connection_kwargs |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    for line in (link.reading, link.writing):
        wire = line._wire
        if wire is None:
            continue
        wire._timeout = seconds
        if wire._timer is not None:  # it would look after the former time
            wire._timer.cancel()
            wire._timer = wire._loop.call_later(seconds, wire._look)
