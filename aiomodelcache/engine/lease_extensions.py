"""The extension of leases: they stay while a reader's statement runs, so that a slow statement's rows are stored, too.

A reader extends only a lease that still is its own. It never takes one again: its statement may have read the database
before a write that has come in between. Must not know plans or statements.
"""

import asyncio
import time
from collections.abc import Container, Iterable
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Fill
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.layout import LEASE
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.exceptions import BackendError

_DUE: Final = 0.5
"""The fraction of a lease's life after which it is extended. A faster statement costs no request."""
_INTERVAL: Final = 0.125
"""The time between two checks of which leases are due, as a fraction of a lease's life."""


class _Held:
    """The leases of one attempt."""

    __slots__ = ("extended_at", "keys", "taken_at", "token")

    def __init__(self, token: bytes, keys: Iterable[bytes], now: float) -> None:
        self.token = token
        self.keys = list(keys)
        self.taken_at = self.extended_at = now


class LeaseExtensions:
    """The leases of one open cache, for as long as their keys are being filled, at most ``load_ttl`` seconds."""

    def __init__(
        self, guarded: GuardedBackend, config: CacheConfig, tasks: BackgroundTasks, in_flight: Container[bytes]
    ) -> None:
        self._guarded = guarded
        self._tasks = tasks
        self._in_flight = in_flight
        """The keys that this process is filling."""
        self._ttl = config.fill_ttl
        self._longest = config.load_ttl
        self._held: list[_Held] = []

    def add(self, token: bytes, keys: Iterable[bytes]) -> None:
        """Adds leases that were just taken."""
        if not self._held:
            self._check_later()
        self._held.append(_Held(token, keys, time.monotonic()))

    def _check_later(self) -> None:
        asyncio.get_running_loop().call_later(self._ttl * _INTERVAL, self._check)

    def _check(self) -> None:
        """Extends all leases that are due, in one request."""
        now, ttl_ms = time.monotonic(), int(self._ttl * 1000)
        kept: list[_Held] = []
        fills: list[Fill] = []
        for held in self._held:
            held.keys = [key for key in held.keys if key in self._in_flight]
            if not held.keys or now >= held.taken_at + self._longest:
                continue
            kept.append(held)
            if now >= held.extended_at + self._ttl * _DUE:
                held.extended_at = now
                own = LEASE + held.token
                fills += [Fill(key, own, own, ttl_ms) for key in held.keys]
        self._held = [] if self._tasks.ended else kept
        if self._held:
            self._check_later()
            if fills and self._guarded.healthy:
                self._tasks.start(self._extend(fills))

    async def _extend(self, fills: list[Fill]) -> None:
        try:
            extended = await self._guarded.call(self._guarded.backend.fill(fills), len(fills))
        except BackendError:
            return
        self._guarded.stats.extended_leases += sum(extended)
