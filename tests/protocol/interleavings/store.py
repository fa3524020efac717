"""A backend whose operations are steps of a schedule."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiomodelcache import BackendError, MemoryBackend
from aiomodelcache.backends.protocol import (
    NOTHING_ALLOWED,
    Clear,
    Fill,
    LateFill,
    Lease,
    Leased,
    Marked,
    ReplacedEntry,
    Save,
    TimedLease,
)
from aiomodelcache.entries.copies import COPY_SUFFIX
from tests.protocol.interleavings.schedule import Scheduler

T = TypeVar("T")


class ScheduledBackend:
    """A ``MemoryBackend`` that executes one operation at a time."""

    keys_read_together = MemoryBackend.keys_read_together

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.backend = MemoryBackend(clock=scheduler.clock.monotonic)
        self.missed = False
        """True if an operation of a writer has failed."""
        self.at_once = False
        """True if rows can be stored without late leases."""

    def forget(self) -> None:
        """Deletes all entries."""
        self.backend = MemoryBackend(clock=self._scheduler.clock.monotonic)
        self.missed = False

    def states(self) -> str:
        """Returns the state bytes of all entries that are not meant to stay."""
        held = [*self.backend._values.items(), *self.backend._intents.items()]
        now = self._scheduler.clock.now * 1000
        left = [value[0] for key, (value, deadline) in held if deadline > now and not is_meant_to_stay(key, value)]
        return "".join(sorted(map(chr, left)))

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._send("read", keys, lambda: self.backend.read(keys))

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        keys = [lease.key for lease in leases]
        return await self._send("lease", keys, lambda: self.backend.lease(leases, token, ttl_ms, versions))

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        return await self._send("fill", [fill.key for fill in fills], lambda: self.backend.fill(fills))

    @property
    def lease_timed(self) -> Any:
        if not self.at_once:
            raise AttributeError("lease_timed")
        return self._lease_timed

    async def _lease_timed(self, leases: Sequence[Lease], *arguments: Any) -> TimedLease:
        keys = [lease.key for lease in leases]
        return await self._send("lease", keys, lambda: self.backend.lease_timed(leases, *arguments))

    async def fill_late(self, fills: Sequence[Fill], late: Sequence[LateFill]) -> Any:
        keys = [each.key for each in (*fills, *late)]
        return await self._send("fill", keys, lambda: self.backend.fill_late(fills, late))

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        return await self._send("mark", keys, lambda: self.backend.mark(keys, token, ttl_ms, allow))

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        keys = [clear.key for clear in clears]
        return await self._send("clear", keys, lambda: self.backend.clear(clears, token, stamps))

    async def mark_for_save(self, keys: Sequence[bytes], *arguments: Any) -> Marked:
        return await self._send("mark", keys, lambda: self.backend.mark_for_save(keys, *arguments))

    async def clear_and_save(self, saves: Sequence[Save], clears: Sequence[Clear], *arguments: Any) -> list[bool]:
        keys = [*[save.key for save in saves], *[clear.key for clear in clears]]
        return await self._send("clear", keys, lambda: self.backend.clear_and_save(saves, clears, *arguments))

    async def delete(self, keys: Sequence[bytes]) -> int:
        return await self._send("delete", keys, lambda: self.backend.delete(keys))

    async def clock(self) -> int:
        return await self._send("clock", [], lambda: self.backend.clock())

    async def claim(self, key: bytes, until_ms: int) -> None:
        await self._send("claim", [key], lambda: self.backend.claim(key, until_ms))

    async def remaining(self, keys: Sequence[bytes]) -> list[int]:
        return await self._send("remaining", keys, lambda: self.backend.remaining(keys))

    async def _send(self, operation: str, keys: Sequence[bytes], send: Callable[[], Awaitable[T]]) -> T:
        def failing() -> BackendError:
            self.missed |= operation in ("mark", "clear")
            return BackendError(f"{operation} failed on purpose")

        short = [key.decode(errors="replace").split(":scheduled:", 1)[-1] for key in keys]  # without the common prefix
        return await self._scheduler.step(f"{operation} {' '.join(sorted(short))}", send, failing=failing)


def is_meant_to_stay(key: bytes, value: bytes) -> bool:
    """Returns True for a value, an absence, a version, a claim, and the copy of a last good value."""
    return value[:1] in b"VNEC" or (value[:1] == b"S" and key.endswith(COPY_SUFFIX))
