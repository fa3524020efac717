"""The keys that are read most: sampled from the store, a chunk of all keys at a time."""

from collections.abc import AsyncGenerator
from typing import Any

from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.rates import HotKeys
from aiomodelcache.inspection.store import Store
from aiomodelcache.observe.events import safe_key


class HottestKeys:
    """The hottest keys of one application, measured again and again."""

    def __init__(self, store: Store, key_map: KeyMap, *, values: bool, digests: bool = False) -> None:
        self._store = store
        self._values = values
        self._digests = digests
        self._key_map = key_map
        self._hot = HotKeys()
        self._scan: AsyncGenerator[list[bytes], None] | None = None

    async def watch(self, number: int, seconds: float) -> list[dict[str, Any]] | None:
        """Watches the reads of all clients for some seconds, by MONITOR. Returns the keys that were read most.

        Returns None if the server does not permit it. Raises ``BackendError``.
        """
        reads = await self._store.watch_reads(seconds)
        if reads is None:
            return None
        own = {key: count / reads.seconds for key, count in reads.keys.items() if self._holds_answer(key)}
        self._hot.add_reads(own)
        return [{**self._data(key), "reads": round(rate, 1)} for key, rate in self._hot.hottest(number)]

    async def measure(self, number: int) -> list[dict[str, Any]]:
        """Samples the candidates and the next chunk of all keys. Returns the hottest. Raises ``BackendError``."""
        if self._scan is None:
            self._scan = self._store.scan(self._key_map.beginning + b":")
        try:
            chunk: list[bytes] | None = await anext(self._scan, None)
        except BaseException:
            self._scan = None
            raise
        if chunk is None:
            self._scan = None
        keys = self._hot.candidates(key for key in chunk or () if self._holds_answer(key))
        self._hot.add(zip(keys, await self._store.heat(keys), strict=True))
        return [{**self._data(key), "heat": round(heat, 2)} for key, heat in self._hot.hottest(number)]

    def _holds_answer(self, key: bytes) -> bool:
        place = self._key_map.place(key)
        return place is not None and place.entry_set is not None

    def _data(self, key: bytes) -> dict[str, Any]:
        return key_data(self._key_map, key, values=self._values, digest=self._digests)

    async def aclose(self) -> None:
        """Ends the scan of all keys."""
        scan, self._scan = self._scan, None
        if scan is not None:
            await scan.aclose()


def key_data(key_map: KeyMap, key: bytes, *, values: bool, digest: bool) -> dict[str, Any]:
    """Returns a key for people. ``digest``: with a digest, which tells keys apart whose values are not shown."""
    place = key_map.place(key)
    label = place.label if place is not None else None
    data = {"key": key_map.shown(key, values=values), "cache": label}
    return data | ({"digest": safe_key(b"", key)[1:9]} if digest else {})
