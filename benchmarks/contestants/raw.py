"""The floor: redis-py reads the bytes that this library has stored, by GET or MGET, and does nothing else."""

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis

from aiomodelcache.encoding.layout import FINGERPRINT_SIZE, GUARD, VERSION
from aiomodelcache.open_cache import default_cache
from benchmarks.contestants.contestant import Contestant
from benchmarks.models import Product
from benchmarks.places import MANY_CONNECTIONS, Place


class RawRedis(Contestant):
    """Raw redis-py. It reads this library's keys, so the library's cache must be open and warm."""

    name = "raw redis-py"

    async def open(self, place: Place) -> None:
        self._redis = redis.Redis.from_url(place.redis.url, **MANY_CONNECTIONS)
        self._rows = default_cache().entries_of(Product).rows
        self._keys: dict[int, bytes] = {}

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, pk: int) -> bytes:
        key = self._keys.get(pk)
        if key is None:
            key = self._keys[pk] = self._rows.key(pk)
        return key

    async def get(self, pk: int) -> Any:
        return await self._redis.get(self._key(pk))

    async def together(self, pks: Sequence[int]) -> list[Any]:
        return await self._redis.mget([self._key(pk) for pk in pks])

    def columns(self, row: Any) -> dict[str, Any]:
        epoch = VERSION + row[GUARD][FINGERPRINT_SIZE:]  # the entry's own, because only the columns are checked
        found: Any = self._rows.read(row, epoch)
        return dict(found)
