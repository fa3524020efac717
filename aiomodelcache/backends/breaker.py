"""The circuit breaker that readers and writers share: counts round trips, and stops reads when they fail.

After a failed round trip, reads bypass the backend for ``breaker_cooldown`` seconds. Then one read, the half-open
probe, tries again, and the other reads follow if it succeeded. Writers always try.
"""

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from functools import partial
from typing import Final, Literal, TypeVar, cast

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.nodes import NodeBreakers
from aiomodelcache.backends.protocol import (
    Backend,
    PartialFailure,
    ReadCallback,
    SupportsNodes,
    SupportsStartRead,
    SupportsTracking,
    keys_read_together,
)
from aiomodelcache.encoding.messages import safe_cause, safe_reason
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.observe.events import Breaker, Lookup, Observer, RoundTrip
from aiomodelcache.observe.fleet import MAX_RECENT_WRITES, RecentWrite
from aiomodelcache.observe.logs import LookupLog, lookup_logger
from aiomodelcache.observe.observers import Observers
from aiomodelcache.observe.stats import Stats, logger

T = TypeVar("T")
_COMMANDS: Final = {"lease_timed": "lease", "fill_late": "fill"}
"""The names by which observers know requests of optional extensions, which do the same in one step more."""
FindLookups = Callable[[], Iterable[Lookup]]
"""Returns the lookups for which a request is sent. Called only if there are observers."""
GuardedReadCallback = Callable[[Sequence[bytes | None] | PartialFailure | None], None]
"""A callback for the values that were read, ``PartialFailure`` for some, or None for none. It does not raise."""


class GuardedBackend:
    """The backend of one open cache, behind a circuit breaker."""

    def __init__(
        self,
        backend: Backend,
        stats: Stats,
        *,
        cooldown: float,
        enabled: bool,
        near: Near | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.backend = backend
        self.stats = stats
        self.enabled = enabled
        self.keys_read_together = keys_read_together(backend)
        self.near = near or Near(0, 1.0)
        """Entries kept in this process. Not used while the backend fails or invalidations are undelivered."""
        self.observers: Observers | None = None
        """The observers of the cache, or None if there are none."""
        self._observers = observers
        self._logs_lookups: bool | None = None
        self.find_observers()
        self.recent_writes = deque[RecentWrite](maxlen=MAX_RECENT_WRITES)
        """The latest writes that were invalidated, the latest last."""
        self.has_undelivered = False
        """True while this process has undelivered invalidations, and must not read; with ``nodes``, not their keys."""
        self._undelivered = set[object]()
        self._lock = threading.Lock()
        self.nodes: NodeBreakers | None = None
        """The servers of the backend, if they fail apart."""
        if hasattr(backend, "node_of"):
            self.nodes = NodeBreakers(cast("SupportsNodes", backend).node_of, cooldown, self._notify)
        self.failures = 0
        """The number of round trips that have failed."""
        self._tracking = False
        self._cooldown = cooldown
        self._failing = False
        self._retry_at = 0.0
        self._opened = True
        """False until the backend has opened. Then the next request opens it."""
        self._opening = asyncio.Lock()
        self._open_attempts = 0
        self._open_failure = ""

    def find_observers(self) -> None:
        """Looks for observers: those of the cache, and the log of lookups if its logger is enabled for DEBUG."""
        if self._logs_lookups is not (enabled := lookup_logger.isEnabledFor(logging.DEBUG)):
            self._logs_lookups = enabled
            found = [*self._observers, LookupLog()] if enabled else self._observers
            self.observers = self.near.observers = Observers(found, self.stats) if found else None

    def add_observer(self, observer: Observer) -> None:
        """Adds an observer, which is told of what begins from now on. Idempotent."""
        if not any(each is observer for each in self._observers):
            self._observers = (*self._observers, observer)
            self._logs_lookups = None
            self.find_observers()

    def remove_observer(self, observer: Observer) -> None:
        """Removes an observer. It is still told of the end of what has begun."""
        self._observers = tuple(each for each in self._observers if each is not observer)
        self._logs_lookups = None
        self.find_observers()

    def _notify(self, change: Breaker) -> None:
        if self.observers is not None:
            self.observers.note(change)

    def set_undelivered(self, writer: object, undelivered: bool) -> None:
        """Records whether a writer has undelivered invalidations. Several writers may share the backend."""
        with self._lock:  # writers may run in several threads
            (self._undelivered.add if undelivered else self._undelivered.discard)(writer)
            self.has_undelivered = bool(self._undelivered)

    def start_tracking(self) -> None:
        """Starts to keep entries in this process, if any key is covered.

        Raises ``CacheConfigurationError`` if the backend does not support tracking.
        """
        if self._tracking or not self.near.wanted:
            return
        if not hasattr(self.backend, "track"):
            raise CacheConfigurationError(
                f"near: {self.backend!r} does not report changes, so its entries cannot be kept near: "
                "use a RedisBackend, give it a method `track`, or remove near."
            )
        cast("SupportsTracking", self.backend).track(self.near)
        self._tracking = self.near.expecting = True

    def stop_tracking(self) -> None:
        """Stops keeping entries in this process."""
        if self._tracking:
            cast("SupportsTracking", self.backend).track(None)
        self.near.lost()

    async def open(self, *, required: bool) -> None:
        """Opens the backend, or leaves that to the first request that succeeds in it.

        Raises ``BackendError`` if the backend is ``required``. Else logs the failure. Does nothing if the backend is
        neither required nor enabled.
        """
        self._opened = False
        if not (required or self.enabled):
            return
        try:
            await self._open()
        except BackendError as error:
            if required:
                raise
            self._record_failure(error)

    async def _open(self) -> None:
        """Opens the backend. Callers that wait for a failed attempt of another caller fail with it."""
        attempts = self._open_attempts
        async with self._opening:
            if self._opened:
                return
            if attempts != self._open_attempts:
                raise BackendError(self._open_failure)
            try:
                await self.backend.open()
            except BackendError as error:
                self._open_attempts += 1
                self._open_failure = str(error)
                raise
            self._opened = True

    @property
    def healthy(self) -> bool:
        """True if all readers may use the backend now."""
        return self.enabled and not self._failing and not (self.has_undelivered and self.nodes is None)

    @property
    def failing(self) -> bool:
        """True if the last request failed, or the last one to any of several nodes."""
        return self._failing or (self.nodes is not None and bool(self.nodes.failing))

    def allow_read(self) -> bool:
        """Returns True if a reader may use the backend now.

        After the cooldown, grants one caller the half-open probe.
        """
        if not self._failing:
            return self.healthy
        now = time.monotonic()
        if not self.enabled or (self.has_undelivered and self.nodes is None) or now < self._retry_at:
            return False
        self._retry_at = now + self._cooldown
        return True

    @property
    def unavailable_reason(self) -> Literal["unreachable", "undelivered"] | None:
        """The reason why readers bypass the backend now, or None."""
        if self.has_undelivered and self.nodes is None:
            return "undelivered"
        return "unreachable" if self._failing and time.monotonic() < self._retry_at else None

    async def call(
        self,
        operation: Awaitable[T],
        keys: int = 0,
        lookups: FindLookups | None = None,
        context: Context | None = None,
    ) -> T:
        """Awaits one round trip. A failure is counted, logged and raised as ``BackendError``.

        For observers: ``keys``: the number of keys. ``lookups``: those for which the request is sent. ``context``: that
        of the caller, if it is not the present one.
        """
        self.stats.round_trips += 1
        try:
            if not self._opened:
                await self._open_for(operation)
            if self.observers is not None:
                name = getattr(operation, "__name__", "request").lstrip("_")
                trip = self._round_trip(_COMMANDS.get(name, name), keys, lookups, context)
                operation = self.observers.around(trip, operation)
            result = await operation
        except PartialFailure as error:
            self._record_partial_failure(error)
            raise
        except Exception as error:
            failure = self._record_failure(error)
            if failure is error:
                raise
            raise failure from safe_cause(error)
        self._record_success()
        return result

    async def read(self, keys: Sequence[bytes], lookups: FindLookups | None = None) -> list[bytes | None]:
        """Reads keys as ``call`` does. Raises ``PartialFailure``, a ``BackendError``, if some must not be read."""
        nodes = self.nodes
        if nodes is None or not nodes.active:
            return await self.call(self.backend.read(keys), len(keys), lookups)
        return await nodes.read(keys, lambda asked: self.call(self.backend.read(asked), len(asked), lookups))

    def _round_trip(
        self, command: str, keys: int, lookups: FindLookups | None, context: Context | None = None
    ) -> RoundTrip:
        found = tuple(lookups()) if lookups is not None else ()
        backend: object = self.backend
        while (inner := getattr(backend, "backend", None)) is not None:  # signed, or counted
            backend = inner
        name, server = type(backend).__name__, getattr(backend, "where", "")
        trip = RoundTrip(command=command, keys=keys, backend=name, server=server, lookups=found)
        trip.context = context or (found[0].context if found else trip.context)
        return trip

    async def _open_for(self, operation: Awaitable[T]) -> None:
        """Opens the backend before a request. If that fails, discards the request."""
        try:
            await self._open()
        except BaseException:
            if inspect.iscoroutine(operation):
                operation.close()
            raise

    def start_read(
        self, keys: Sequence[bytes], callback: GuardedReadCallback, lookups: FindLookups | None = None
    ) -> bool:
        """Starts a read if the backend can do so without a task. Returns True if it was started.

        ``callback`` gets the values, or None if the read failed. A failure is counted and logged as by ``call``.
        ``lookups``: those for which the request is sent, for observers.
        """
        backend = self.backend
        if not self._opened or not hasattr(backend, "start_read") or (self.nodes is not None and self.nodes.active):
            return False
        on_read: ReadCallback = partial(self._on_read, callback)
        observed = None
        if self.observers is not None:
            observed = _ObservedRead(self.observers, self._round_trip("read", len(keys), lookups), on_read)
            on_read = observed.end
        try:
            started = cast("SupportsStartRead", backend).start_read(keys, on_read)
        except Exception as error:
            started = True
            on_read(error)
        self.stats.round_trips += started
        if observed is not None and started:
            observed.begin()
        return started

    def _on_read(self, callback: GuardedReadCallback, read: list[bytes | None] | Exception) -> None:
        if isinstance(read, PartialFailure):
            self._record_partial_failure(read)
            callback(read)
        elif isinstance(read, Exception):
            self._record_failure(read)
            callback(None)
        else:
            self._record_success()
            callback(read)

    def _record_success(self) -> None:
        if self._failing:
            logger.warning("aiomodelcache: the cache is used again")
            self._failing = False
            self._notify(Breaker(state="closed"))

    def _record_partial_failure(self, failure: PartialFailure) -> None:
        self.stats.backend_errors += 1
        self.near.drop_beside(failure.failed)
        if self.nodes is not None:
            self.nodes.record(failure)
        self._record_success()

    def _record_failure(self, error: Exception) -> BackendError:
        failed = f"{type(self.backend).__name__} failed: {safe_reason(error)}"
        failure = error if isinstance(error, BackendError) else BackendError(failed)
        self.stats.backend_errors += 1
        self.failures += 1
        self.near.drop_all()
        if not self._failing:
            logger.warning("aiomodelcache: the cache is not used for now: %s", failure)
            self._notify(Breaker(state="open", reason=str(failure)))
        self._failing = True
        self._retry_at = time.monotonic() + self._cooldown
        return failure


class _ObservedRead:
    """A read without a task. It begins when the backend has started it, which may be after its end."""

    __slots__ = ("_begun", "_observers", "_on_read", "_trip")

    def __init__(self, observers: Observers, trip: RoundTrip, on_read: ReadCallback) -> None:
        self._observers = observers
        self._trip = trip
        self._on_read = on_read
        self._begun = False

    def begin(self) -> None:
        """Tells the observers that the read begins. Idempotent."""
        if not self._begun:
            self._begun = True
            self._observers.begin(self._trip)

    def end(self, read: list[bytes | None] | Exception) -> None:
        """Tells the observers that the read has ended, and passes on what was read."""
        self.begin()
        self._observers.end(self._trip, read if isinstance(read, Exception) else None)
        self._on_read(read)
