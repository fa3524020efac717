"""The store of an open cache, whatever its backend is."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.inspection.diagnosis import Route
from aiomodelcache.inspection.store import SCAN_COUNT, TIMEOUT, Store, WatchedReads


class MemoryStore(Store):
    """A store in this process."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.where = "this process"

    @property
    def is_cluster(self) -> bool:
        return False

    async def scan(self, beginning: bytes) -> AsyncGenerator[list[bytes], None]:
        found = [key for key in self._backend.recent() if key.startswith(beginning)]
        for at in range(0, len(found), SCAN_COUNT):
            yield found[at : at + SCAN_COUNT]

    async def expires_in(self, keys: Sequence[bytes]) -> list[float | None]:
        return [self._backend.expires_in(key) for key in keys]

    async def heat(self, keys: Sequence[bytes]) -> list[float | None]:
        """Returns from 0 to 1 how recently each key was used; 0 if many others were used since, or it is not there."""
        recent = {key: 1 / (1 + at / 10) for at, key in enumerate(self._backend.recent(SCAN_COUNT))}
        return [recent.get(key, 0.0) for key in keys]

    async def watch_reads(self, seconds: float) -> WatchedReads | None:
        return None

    async def clock(self) -> float:
        return time.time()

    async def info(self) -> dict[str, str]:
        """Returns the memory in use and its limit, by the names of INFO."""
        used, limit = str(self._backend.size), str(self._backend.limit)
        return {"used_memory": used, "maxmemory": limit, "maxmemory_policy": "allkeys-lru"}

    async def config(self, name: str) -> str | None:
        return None

    async def route(self) -> Route | None:
        return None


@asynccontextmanager
async def store_of(backend: Backend) -> AsyncGenerator[Store | None, None]:
    """Has the store behind a backend, or None if that is neither Redis nor memory. Disconnects at the end."""
    inner: Any = backend
    while (wrapped := getattr(inner, "backend", None)) is not None:  # signed, or counted
        inner = wrapped
    if isinstance(inner, MemoryBackend):
        yield MemoryStore(inner)
    elif isinstance(inner, RedisBackend):
        endpoint = inner.connect(socket_timeout=TIMEOUT)
        try:
            yield Store(endpoint)
        finally:
            await endpoint.close()
    else:
        yield None
