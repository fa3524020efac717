"""The way to the backend that readers and writers share: counts round trips, and stops when they fail.

A circuit breaker: after a failed round trip, reads stay away for ``breaker_cooldown`` seconds; then one
of them tries again, and the rest follow if it succeeded. Writers always try.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeVar, cast

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import Backend, SupportsStartRead, SupportsTracking
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.observe.stats import Stats, logger

T = TypeVar("T")
GuardedReadCallback = Callable[[Sequence[bytes | None] | None], None]
"""Called with what was read, or with None if that failed. Does not raise."""


class GuardedBackend:
    """One open cache's connection to its backend."""

    def __init__(
        self, backend: Backend, stats: Stats, *, cooldown: float, enabled: bool, near: Near | None = None
    ) -> None:
        self.backend = backend
        self.stats = stats
        self.enabled = enabled
        self.near = near or Near(0, 1.0)
        """What is kept in this process; with what is undelivered, or failing, it is as good as nothing."""
        self.has_undelivered = False
        """True while this process has invalidations that it could not deliver: it must not read."""
        self.failures = 0
        """How often a round trip has failed."""
        self._tracking = False
        self._cooldown = cooldown
        self._failing = False
        self._retry_at = 0.0

    def keep_near(self) -> None:
        """Has entries kept in this process, if any are to be. Raises ``CacheConfigurationError`` if they cannot."""
        if self._tracking or not self.near.wanted:
            return
        if not hasattr(self.backend, "track"):
            raise CacheConfigurationError(
                f"near: {self.backend!r} cannot tell of changes, so that nothing can be kept near: "
                "use a RedisBackend, give it a method `track`, or remove near."
            )
        cast("SupportsTracking", self.backend).track(self.near)
        self._tracking = True

    def end_near(self) -> None:
        """Keeps nothing any more."""
        if self._tracking:
            cast("SupportsTracking", self.backend).track(None)
        self.near.lost()

    @property
    def healthy(self) -> bool:
        """Whether all readers may use the backend now."""
        return self.enabled and not self._failing and not self.has_undelivered

    def allow_read(self) -> bool:
        """Whether a reader may use the backend now. After the cooldown, True to one caller only."""
        if not self._failing:
            return self.healthy
        now = time.monotonic()
        if not self.enabled or self.has_undelivered or now < self._retry_at:
            return False
        self._retry_at = now + self._cooldown
        return True

    @property
    def unavailable_reason(self) -> Literal["unreachable", "undelivered"] | None:
        """Why readers stay away from the backend now, if they do."""
        if self.has_undelivered:
            return "undelivered"
        return "unreachable" if self._failing and time.monotonic() < self._retry_at else None

    async def call(self, operation: Awaitable[T]) -> T:
        """Awaits one round trip. Raises ``BackendError``, counted and logged, if it failed in whatever way."""
        self.stats.round_trips += 1
        try:
            result = await operation
        except Exception as error:
            failure = self._broken(error)
            if failure is error:
                raise
            raise failure from error
        self._works()
        return result

    def start_read(self, keys: Sequence[bytes], taker: GuardedReadCallback) -> bool:
        """Begins a round trip that reads, if the backend can do so without anybody waiting in a task.

        ``taker`` is called with what was read, or with None if it failed: counted and logged as by ``call``.
        """
        backend = self.backend
        if not hasattr(backend, "start_read"):
            return False
        take = partial(self._take, taker)
        try:
            begun = cast("SupportsStartRead", backend).start_read(keys, take)
        except Exception as error:
            begun = True
            take(error)
        self.stats.round_trips += begun
        return begun

    def _take(self, taker: GuardedReadCallback, read: list[bytes | None] | Exception) -> None:
        if isinstance(read, Exception):
            self._broken(read)
            taker(None)
        else:
            self._works()
            taker(read)

    def _works(self) -> None:
        if self._failing:
            logger.warning("aiomodelcache: the cache is used again")
            self._failing = False

    def _broken(self, error: Exception) -> BackendError:
        failure = error
        if not isinstance(failure, BackendError):
            failure = BackendError(f"{type(self.backend).__name__} failed: {error!r}")
        self.stats.backend_errors += 1
        self.failures += 1
        self.near.drop_all()
        if not self._failing:
            logger.warning("aiomodelcache: the cache is not used for now: %s", failure)
        self._failing = True
        self._retry_at = time.monotonic() + self._cooldown
        return failure
