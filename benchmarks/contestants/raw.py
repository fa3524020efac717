"""The floor: redis-py reads the bytes that this library has stored, by GET or MGET, and does nothing else."""

from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis

from aiomodelcache.encoding.layout import FINGERPRINT_SIZE, GUARD, VERSION
from aiomodelcache.entries.derived import DerivedValue
from aiomodelcache.open_cache import default_cache
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.own import page
from benchmarks.models import Product
from benchmarks.places import MANY_CONNECTIONS, Place


class RawRedis(Contestant):
    """Raw redis-py. It reads this library's keys, so the library's cache must be open and warm."""

    name = "raw redis-py"

    async def open(self, place: Place) -> None:
        self._redis = redis.Redis.from_url(place.redis.url, **MANY_CONNECTIONS)
        self._rows = default_cache().entries_of(Product).rows
        self._keys: dict[int, bytes] = {}
        self._pages: dict[int, str] = {}

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

    async def page(self, number: int) -> Any:
        key = self._pages.get(number)
        if key is None:
            key = self._pages[number] = page.key(number)
        return await self._redis.get(key)

    def page_rows(self, answer: Any) -> list[dict[str, Any]]:
        result, _ = page.query(1).locate(default_cache())
        derived: DerivedValue = result.read(answer, VERSION + answer[GUARD][FINGERPRINT_SIZE:])
        assert len(derived.keys) == 41, derived.keys
        return list(derived.value)

    def columns(self, row: Any) -> dict[str, Any]:
        epoch = VERSION + row[GUARD][FINGERPRINT_SIZE:]  # the entry's own, because only the columns are checked
        found: Any = self._rows.read(row, epoch)
        return dict(found)
