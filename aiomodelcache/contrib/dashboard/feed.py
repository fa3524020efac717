"""The measurements that the page shows, made once for all who watch, and only while any browser watches."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import anyio
import msgspec

from aiomodelcache.client import ModelCache
from aiomodelcache.contrib.dashboard.observed import LookupObserver
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.diagnosis import Finding
from aiomodelcache.inspection.health import server_findings
from aiomodelcache.inspection.hottest import HottestKeys, key_data
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.own_store import MemoryStore, store_of
from aiomodelcache.inspection.rates import RateWindow
from aiomodelcache.inspection.store import Store
from aiomodelcache.inspection.summaries import SERVER, class_data, worker_data
from aiomodelcache.observe.fleet import MAX_RECENT_WRITES, Fleet
from aiomodelcache.open_cache import OpenCache

INTERVAL: Final = 2.0
"""Seconds between two measurements. Processes publish their counters as often."""
HEALTH_INTERVAL: Final = 10.0
"""Seconds between two examinations of the server."""
MAX_POINTS: Final = 150
"""Maximum number of measurements that charts show. Beyond it, the oldest are forgotten."""
MAX_HOTTEST_KEYS: Final = 8
"""Number of hottest keys that are shown."""


class Measurement(NamedTuple):
    """The state of the cache at one moment, and the number of the measurement."""

    number: int
    state: dict[str, Any]


class Feed:
    """The measurements of one cache in this process. Has no task: the first watcher that is due makes the next one."""

    def __init__(self, cache: ModelCache, *, values: bool) -> None:
        self._cache = cache
        self._values = values
        self._lock = asyncio.Lock()
        self._watchers = 0
        self._latest: Measurement | None = None
        self._due = 0.0
        self._window = RateWindow()
        self._points: deque[dict[str, Any]] = deque(maxlen=MAX_POINTS)
        self._watched: _Watched | None = None

    @property
    def points(self) -> list[dict[str, Any]]:
        """The points of the charts so far, the oldest first."""
        return list(self._points)

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        """Has a block in which ``latest`` may be called. The last one to end closes the connections."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                with anyio.CancelScope(shield=True):  # the client has left, so this task is cancelled
                    await self._close()

    async def latest(self) -> Measurement:
        """Returns the present measurement, a new one if it is time. Raises ``CacheNotOpen``."""
        async with self._lock:
            now = time.monotonic()
            if self._latest is None or now >= self._due:
                number = self._latest.number + 1 if self._latest is not None else 0
                self._due = now + INTERVAL
                self._latest = Measurement(number, await self._measure())
            return self._latest

    async def _close(self) -> None:
        watched, self._watched, self._latest = self._watched, None, None
        if watched is not None:
            await watched.close()

    async def _measure(self) -> dict[str, Any]:
        opened = self._cache.open_cache
        fleet = await self._cache.fleet()
        rates = self._window.add(time.monotonic(), fleet.workers)
        data = rates.data()
        by_class = {each["cache"]: each for each in data.pop("classes")}
        latencies = {"store_ms": await _latency(opened) if fleet.complete else None}
        if self._watched is None or self._watched.opened is not opened:
            await self._close()
            self._watched = await _Watched.open(self._cache, values=self._values)
        latencies["lookup_ms"] = self._watched.observer.measure()
        state: dict[str, Any] = {
            "time": round(time.time(), 3),
            "complete": fleet.complete,
            "rates": (data | latencies) if rates.seconds else None,
            "classes": class_data(fleet.workers, by_class),
            "workers": [worker_data(worker) | {"own": worker is fleet.own} for worker in fleet.workers],
            "writes": _writes(fleet),
        }
        if rates.seconds:
            names = ("lookups", "hit_ratio", "miss_ms", "statements")
            self._points.append({name: data[name] for name in names} | {"time": state["time"], **latencies})
        return state | await self._watched.state(answers=fleet.complete)


class _Watched:
    """One open cache while it is watched: its lookups, and its store's health and hottest keys."""

    def __init__(self, opened: OpenCache, store: Store | None, stack: AsyncExitStack, *, values: bool) -> None:
        self.opened = opened
        self.observer = LookupObserver()
        self._store = store
        self._stack = stack
        self._values = values
        self._key_map = KeyMap(opened)
        self._sampled = HottestKeys(store, self._key_map, values=values, digests=True) if store is not None else None
        self._health: dict[str, Any] = {"server": {}, "findings": []}
        self._health_due = 0.0

    @classmethod
    async def open(cls, cache: ModelCache, *, values: bool) -> "_Watched":
        """Connects to the store, and begins to observe lookups."""
        stack = AsyncExitStack()
        store = await stack.enter_async_context(store_of(cache.backend))
        watched = cls(cache.open_cache, store, stack, values=values)
        watched.opened.guarded.add_observer(watched.observer)
        return watched

    async def close(self) -> None:
        """Stops observing, and disconnects."""
        self.opened.guarded.remove_observer(self.observer)
        async with self._stack:
            if self._sampled is not None:
                await self._sampled.aclose()

    async def state(self, *, answers: bool) -> dict[str, Any]:
        """Returns the health of the store and the hottest keys: by lookups, or by samples of the store without any."""
        found = self.observer.hottest(MAX_HOTTEST_KEYS)
        keys = [self._key_data(key) | {"rate": round(rate, 1)} for key, rate in found]
        if answers and self._store is not None and self._sampled is not None:
            try:
                sampled = [] if keys or self._store.is_cluster else await self._sampled.measure(MAX_HOTTEST_KEYS)
                keys = keys or sampled
                await self._examine(self._store)
            except BackendError:
                answers = False
        where = self._store.where if self._store is not None else repr(self.opened.guarded.backend)
        return {"store": {"where": where, "answers": answers, **self._health}, "keys": keys}

    def _key_data(self, key: bytes) -> dict[str, Any]:
        return key_data(self._key_map, key, values=self._values, digest=True)

    async def _examine(self, store: Store) -> None:
        if time.monotonic() < self._health_due:
            return
        self._health_due = time.monotonic() + HEALTH_INTERVAL
        if isinstance(store, MemoryStore):
            findings = [Finding("ok", "store", "entries are kept in this process, and in no other one")]
        else:
            near = any(entries.rows.near for entries in self.opened.models.values())
            findings = await server_findings(store, near=near)
        try:
            info = await store.info()
        except BackendError:  # INFO is not permitted, as the findings say
            info = {}
        server = {name: info[name] for name in SERVER if name in info}
        self._health = {"server": server, "findings": [asdict(finding) for finding in findings]}


async def _latency(opened: OpenCache) -> float | None:
    """Returns the milliseconds of one round trip to the store; None if it fails."""
    guarded = opened.guarded
    began = time.perf_counter()
    try:
        await guarded.call(guarded.backend.read([opened.space.tag_key("")]), 1)
    except BackendError:
        return None
    return round(1000 * (time.perf_counter() - began), 3)


def _writes(fleet: Fleet) -> list[dict[str, Any]]:
    """Returns the latest writes of all processes, the latest first."""
    found = [(write, worker) for worker in fleet.workers for write in worker.writes]
    found.sort(key=lambda pair: -pair[0].time)
    return [msgspec.structs.asdict(write) | {"host": by.host, "pid": by.pid} for write, by in found[:MAX_RECENT_WRITES]]
