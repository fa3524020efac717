"""Leases, fills and single flight: how plans get the right to fill a key, use it, and wait for each other.

Must not know how plans proceed: ``advance`` is handed in.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar, cast

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.partitioned import SupportsEpochsSince
from aiomodelcache.backends.protocol import Fill, LateFill, Lease, PartialFailure, SupportsLateFills
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.layout import LEASE, is_lease, new_token
from aiomodelcache.engine.batching import TickBatcher
from aiomodelcache.engine.lease_extensions import LeaseExtensions
from aiomodelcache.engine.observing import note_fills, note_late_fills, operations_of
from aiomodelcache.engine.run import RunningPlan
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.exceptions import BackendError
from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import AcquireLeases, Attempt, LeaseResult, StoreFills, Wait

FIRST_POLL_DELAY: Final = 0.00625
"""Average seconds before a reader first polls for a fill by another process."""
MAX_TIMED_OUT_LEASES: Final = 10_000
"""Maximum number of remembered leases whose wait timed out. Beyond it, all of them are forgotten."""


class Leases:
    """The leases and fills of one open cache, and the plans that wait for leased keys."""

    def __init__(
        self,
        guarded: GuardedBackend,
        config: CacheConfig,
        tasks: BackgroundTasks,
        advance: Callable[[RunningPlan, Any], None],
    ) -> None:
        self._guarded = guarded
        self._config = config
        self._tasks = tasks
        self._advance = advance
        self._flights: dict[bytes, asyncio.Future[None] | None] = {}
        """Keys that this process is filling, each with a future if other plans wait for the fill."""
        self._watched: dict[bytes, asyncio.Future[None]] = {}
        """Keys that other processes are filling, for which plans of this process wait."""
        self._timed_out: dict[bytes, bytes] = {}
        """Keys and leases of other processes that were waited for without a fill."""
        self.saturated: Callable[[], bool] = lambda: False
        """Returns True if loads wait for the database. Plans then wait on for other processes, and not for it."""
        self._reads_late = hasattr(guarded.backend, "epochs_since")
        self._extensions = LeaseExtensions(guarded, config, tasks, self._flights)
        self.acquire: TickBatcher[tuple[RunningPlan, AcquireLeases]] = TickBatcher(self._acquire, tasks)
        self.store: TickBatcher[tuple[RunningPlan, StoreFills]] = TickBatcher(self._store, tasks)
        self.wait: TickBatcher[tuple[RunningPlan, Wait]] = TickBatcher(self._wait, tasks)

    def late_deadline(self) -> float:
        """Returns the monotonic time until which rows may be leased that a statement finds which is sent now."""
        return time.monotonic() + self._config.fill_ttl

    def end_flights(self, keys: Iterable[bytes]) -> None:
        """Wakes the plans that wait for this process to fill these keys."""
        for key in keys:
            flight = self._flights.pop(key, None)
            if flight is not None:
                flight.set_result(None)

    async def _acquire(self, requests: list[tuple[RunningPlan, AcquireLeases]]) -> None:
        for (deadline, ttl), group in group_requests(
            requests, lambda request: (math.inf if request.deadline is None else request.deadline, request.ttl)
        ).items():
            self._tasks.start(self._lease(Attempt(new_token(), deadline), ttl, group))

    async def _lease(self, attempt: Attempt, ttl: float | None, group: list[tuple[RunningPlan, AcquireLeases]]) -> None:
        leases = {key: Lease(key, replacing) for _, request in group for key, replacing in request.keys}
        versions = list(dict.fromkeys([key for _, request in group for key in request.versions]))
        values: dict[bytes, bytes | None] = dict.fromkeys(leases, b"")
        stamps: dict[bytes, bytes | None] = dict.fromkeys(versions)
        late_until_ms, late_deadline = 0, self.late_deadline()
        nodes = self._guarded.nodes
        refused = nodes.refused([*leases, *versions]) if nodes is not None else ()
        if time.monotonic() < attempt.deadline:
            wanted = [key for key in versions if key not in refused]
            asked = [lease for key, lease in leases.items() if key not in refused]
            ttl_ms, backend = int((ttl or self._config.fill_ttl) * 1000), self._guarded.backend
            timed = any(request.timed for _, request in group) and hasattr(backend, "lease_timed")
            lease = cast("SupportsLateFills", backend).lease_timed if timed else backend.lease
            try:
                leased: Any = await self._guarded.call(
                    lease(asked, attempt.token, ttl_ms, wanted),
                    len(asked) + len(wanted),
                    partial(_lookups, group),
                )
            except BackendError as error:
                leased = error.result if isinstance(error, PartialFailure) else None
            if leased is not None:
                if timed:
                    leased, now_ms = leased
                    late_until_ms = now_ms + int(self._config.fill_ttl * 1000)
                values.update(zip([lease.key for lease in asked], leased.values, strict=True))
                stamps.update(zip(wanted, leased.versions, strict=True))
        own = LEASE + attempt.token
        granted = [key for key, value in values.items() if value == own]
        # If a writer has removed an earlier lease on a granted key, the earlier fill will be refused: wake its waiters.
        self.end_flights(granted)
        self._flights.update(dict.fromkeys(granted))
        if granted and ttl is None and attempt.deadline == math.inf:
            self._extensions.add(attempt.token, granted)
        unread = dict([request.unread[key] for _, request in group for key in granted if key in request.unread])
        epochs = await self._epochs_since(unread, attempt.deadline - self._config.fill_ttl, group) if unread else {}
        for run, request in group:
            held = [values[key] for key, _ in request.keys]
            read = [stamps[key] for key in request.versions]
            result = LeaseResult(attempt, held, read, late_until_ms, late_deadline, self._reads_late, epochs)
            self._advance(run, result)

    async def _epochs_since(
        self, stamps: Mapping[bytes, bytes], since: float, group: list[tuple[RunningPlan, AcquireLeases]]
    ) -> dict[bytes, bytes | None]:
        """Returns the epochs of these partitions, None where the stamp may have changed ``since`` a statement."""
        read = cast("SupportsEpochsSince", self._guarded.backend).epochs_since(list(stamps.items()), since)
        try:
            epochs = await self._guarded.call(read, 2 * len(stamps), partial(_lookups, group))
        except BackendError as error:
            epochs = error.result if isinstance(error, PartialFailure) else [None] * len(stamps)
        return dict(zip(stamps, epochs, strict=True))

    async def _store(self, requests: list[tuple[RunningPlan, StoreFills]]) -> None:
        now = time.monotonic()
        # After the deadline of a late lease, an intent may have expired that a writer had before its COMMIT, which the
        # reader's statement has not seen. The reader must not fill then.
        fills = {
            (key, attempt.token): Fill(key, attempt.replaces or LEASE + attempt.token, value, ttl_ms)
            for _, request in requests
            for attempt, key, value, ttl_ms in request.fills
            if now < attempt.deadline
        }
        if self._guarded.nodes is not None:
            refused = self._guarded.nodes.refused([key for key, _ in fills])
            fills = {attempt: fill for attempt, fill in fills.items() if fill.key not in refused}
        late = [each for _, request in requests for each in request.late]
        stored: dict[tuple[bytes, bytes], bool] = {}
        held: list[bytes | None] = [b""] * len(late)
        try:
            if fills or late:
                accepted, held = await self._guarded.call(
                    self._fill(list(fills.values()), late), len(fills) + len(late), partial(_lookups, requests)
                )
                stored = dict(zip(fills, accepted, strict=True))
        except BackendError as error:
            if isinstance(error, PartialFailure):
                stored = dict(zip(fills, error.result, strict=True))
        of_late = iter(held)
        held_by = [list(islice(of_late, len(request.late))) for _, request in requests]
        if self._guarded.observers is not None:
            for (run, request), own in zip(requests, held_by, strict=True):
                if run.operation is not None:
                    note_fills(self._guarded.observers, run.operation, request.fills, fills, stored)
                    note_late_fills(self._guarded.observers, run.operation, request.late, own)
        for (run, request), own in zip(requests, held_by, strict=True):
            self.end_flights(key for attempt, key, _, _ in request.fills if not attempt.replaces)
            filled = [stored.get((key, attempt.token), False) for attempt, key, _, _ in request.fills]
            self._advance(run, [*filled, *own])

    async def _fill(self, fills: list[Fill], late: list[LateFill]) -> tuple[list[bool], list[bytes | None]]:
        if late:
            return await cast("SupportsLateFills", self._guarded.backend).fill_late(fills, late)
        return await self._guarded.backend.fill(fills), []

    def _flight(self, key: bytes) -> asyncio.Future[None]:
        """Returns a future that is resolved when this process has filled a key, or has given up."""
        flight = self._flights[key]
        if flight is None:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        return flight

    async def _wait(self, requests: list[tuple[RunningPlan, Wait]]) -> None:
        """Lets plans wait until keys are no longer leased.

        Waits for fills of this process, for at most ``timeout`` or ``load_ttl`` seconds, and only briefly for fills of
        other processes. One poll serves all plans that wait for the same keys of other processes. A lease whose wait
        has timed out is not waited for again, because its reader may be dead.
        """
        loop = asyncio.get_running_loop()
        new: dict[bytes, bytes] = {}
        for run, request in requests:
            futures = [self._flight(key) for key in request.keys if key in self._flights]
            timeout = (request.timeout or self._config.load_ttl) if futures else None
            if not futures:
                leases = dict(zip(request.keys, request.leases, strict=True))
                waiting = {key: lease for key, lease in leases.items() if self._timed_out.get(key) != lease}
                unwatched = waiting.keys() - self._watched.keys()
                self._watched.update({key: loop.create_future() for key in unwatched})
                new.update({key: waiting[key] for key in unwatched})
                futures = [self._watched[key] for key in waiting]
            if futures:
                self._tasks.start(self._wait_for(run, futures, timeout))
            else:
                self._advance(run, None)
        if new:
            self._tasks.start(self._watch(new))

    async def _wait_for(self, run: RunningPlan, futures: list[asyncio.Future[None]], timeout: float | None) -> None:
        await asyncio.wait(futures, timeout=timeout)
        self._advance(run, None)

    async def _watch(self, leases: dict[bytes, bytes]) -> None:
        """Polls until other processes have filled these keys, for at most ``lease_wait`` seconds.

        While loads wait for the database, for at most ``load_wait`` seconds.
        """
        keys: list[bytes] = list(leases)
        timeout = self._config.lease_wait
        held: dict[bytes, bytes | None] = {}
        try:
            now = time.monotonic()
            until, latest = now + timeout, now + self._config.load_wait
            delay = min(timeout / 8, FIRST_POLL_DELAY)
            while keys and (remaining := until - time.monotonic()) > 0 and self._guarded.allow_read():
                await asyncio.sleep(min(remaining, delay * random.uniform(0.5, 1.5)))
                delay = min(delay * 2, timeout)
                if self.saturated():
                    until = min(latest, max(until, time.monotonic() + timeout))
                values = await self._guarded.read(keys)
                held = dict(zip(keys, values, strict=True))
                self._unwatch(key for key in held if not is_lease(held[key]))
                keys = [key for key in keys if key in self._watched]
        except BackendError:
            pass
        finally:
            if len(self._timed_out) + len(keys) > MAX_TIMED_OUT_LEASES:
                self._timed_out.clear()
            self._timed_out.update({key: leases[key] for key in keys if held.get(key) == leases[key]})
            self._unwatch(keys)

    def _unwatch(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._watched.pop(key).set_result(None)


R = TypeVar("R")
G = TypeVar("G", bound=Hashable)


def group_requests(
    requests: Iterable[tuple[RunningPlan, R]], key: Callable[[R], G]
) -> dict[G, list[tuple[RunningPlan, R]]]:
    """Groups the requests of plans by a key."""
    groups: dict[G, list[tuple[RunningPlan, R]]] = {}
    for run, request in requests:
        groups.setdefault(key(request), []).append((run, request))
    return groups


def _lookups(requests: Iterable[tuple[RunningPlan, Any]]) -> Iterator[Lookup]:
    return operations_of(run for run, _ in requests)
