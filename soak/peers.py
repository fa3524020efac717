"""Two published caches, used as their documentation shows, with invalidation in Tortoise's ``post_save``.

Tortoise sends no signal for writes of querysets, so after such a write the same keys are deleted by hand.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from tortoise.signals import post_delete, post_save

from soak.model import Item
from soak.subjects import Control, Seen, load


class Peer(Control):
    """Base of both: one decorated function, and listeners."""

    get: Any
    """Decorated function that loads the value of a key."""

    async def open(self) -> None:
        await self.connect()
        self.batches = tuple(size for size in self.batches if size <= 8)  # each lookup needs a connection

        async def saved(sender: type[Item], instance: Item, *_: Any) -> None:
            await self.invalidate([instance.id])

        post_save(Item)(saved)
        post_delete(Item)(saved)

    async def connect(self) -> None:
        """Sets up the library."""
        raise NotImplementedError

    async def delete(self, keys: list[str]) -> None:
        """Deletes keys by the library's own call."""
        raise NotImplementedError

    async def _read(self, keys: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[self.get(key) for key in keys])

    async def statement_done(self, pks: Iterable[int]) -> None:
        await self.invalidate(pks)

    async def invalidate(self, pks: Iterable[int]) -> None:
        await self.delete(self.keys(pks))


class Cashews(Peer):
    """cashews: ``@cache(ttl=..., key=...)`` and ``cache.delete_many``."""

    async def connect(self) -> None:
        from cashews import Cache

        self._cache: Any = Cache()
        self._cache.setup(self.url, socket_timeout=0.5)
        await self._cache.init()
        self._stack.push_async_callback(self._cache.close)

        @self._cache(ttl="1h", key="{key}")  # type: ignore[untyped-decorator, unused-ignore]
        async def get(key: str) -> list[Seen] | Seen:
            value: list[Seen] | Seen = (await load([key]))[key]
            return value

        self.get = get

    async def delete(self, keys: list[str]) -> None:
        await self._cache.delete_many(*keys)


class Aiocache(Peer):
    """aiocache: ``@cached(ttl=..., cache=Cache.REDIS, ...)`` and ``cache.delete``."""

    async def connect(self) -> None:
        from aiocache import Cache, cached
        from aiocache.serializers import JsonSerializer

        url = urlsplit(self.url)

        @cached(  # type: ignore[untyped-decorator, unused-ignore]
            ttl=3600,
            cache=Cache.REDIS,
            endpoint=url.hostname,
            port=url.port,
            key_builder=lambda function, key: key,
            serializer=JsonSerializer(),
        )
        async def get(key: str) -> list[Seen] | Seen:
            value: list[Seen] | Seen = (await load([key]))[key]
            return value

        self.get = get
        self._stack.push_async_callback(self.get.cache.close)

    async def delete(self, keys: list[str]) -> None:
        await asyncio.gather(*map(self.get.cache.delete, keys))
