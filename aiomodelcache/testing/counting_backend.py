"""``CountingBackend``, which counts the round trips to a store."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.partitioned import SupportsEpochsSince, partitions
from aiomodelcache.backends.protocol import (
    NOTHING_ALLOWED,
    Backend,
    Clear,
    Fill,
    Lease,
    Leased,
    Marked,
    ReadCallback,
    ReplacedEntry,
    SupportsClaims,
    SupportsLateFills,
    SupportsNodes,
    SupportsStartRead,
    SupportsTracking,
    SupportsWriteThrough,
    TimedLease,
    keys_read_together,
)
from aiomodelcache.engine.publishing import in_background

T = TypeVar("T")
_Operation: TypeAlias = Callable[..., Awaitable[T]]


class CountingBackend:
    """A ``Backend`` that wraps another one and counts each of its operations as a round trip.

    ``open``, ``close`` and publications in the background are not counted. Use it with a backend that you create:
    ``assert_ops`` makes its own.

    >>> backend = CountingBackend(MemoryBackend())
    >>> async with ModelCache(backend), assert_ops(backend, redis=["read", "lease", "fill"]):
    ...     await Event.cache.get(pk=1)
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.keys_read_together, self.partitions = keys_read_together(backend), partitions(backend)
        self.operations: list[str] = []
        """Names of the operations so far."""
        self.keys: set[bytes] = set()
        """Keys under which an operation may have written an entry."""
        self.blocks: int | None = None
        """Number of blocks that use it, if ``count_ops`` has put it into an open cache. The last removes it."""

    @property
    def track(self) -> Callable[[Near | None], None]:
        """The method ``track`` of the backend. Raises ``AttributeError`` if the backend has none."""
        return cast("SupportsTracking", self.backend).track

    @property
    def node_of(self) -> Callable[[bytes], str]:
        """The method ``node_of`` of the backend. Raises ``AttributeError`` if the backend has none."""
        return cast("SupportsNodes", self.backend).node_of

    @property
    def start_read(self) -> Callable[[Sequence[bytes], ReadCallback], bool]:
        """The same, counted as ``read``. A subclass that overrides ``read`` has none."""
        if type(self).read is not CountingBackend.read:
            raise AttributeError("start_read")
        start = cast("SupportsStartRead", self.backend).start_read

        def started(keys: Sequence[bytes], callback: ReadCallback) -> bool:
            self.operations.append("read")
            if not (sent := start(keys, callback)):
                self.operations.pop()
            return sent

        return started

    def _count(self, operation: str) -> None:
        if not in_background.get():
            self.operations.append(operation)

    async def open(self) -> None:
        await self.backend.open()

    async def close(self) -> None:
        await self.backend.close()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._count("read")
        return await self.backend.read(keys)

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        self._count("lease")
        self.keys.update([lease.key for lease in leases], versions)
        return await self.backend.lease(leases, token, ttl_ms, versions)

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        self._count("fill")
        return await self.backend.fill(fills)

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        self._count("mark")
        self.keys.update(keys)
        return await self.backend.mark(keys, token, ttl_ms, allow)

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        self._count("clear")
        self.keys.update(stamps)
        return await self.backend.clear(clears, token, stamps)

    @property
    def lease_timed(self) -> Callable[..., Awaitable[TimedLease]]:
        """The same, counted as ``lease``. A subclass that overrides ``lease`` or ``fill`` has none."""
        if type(self).lease is not CountingBackend.lease or type(self).fill is not CountingBackend.fill:
            raise AttributeError("lease_timed")
        return self._counted(cast("SupportsLateFills", self.backend).lease_timed, keys_at=(0, 3), name="lease")

    @property
    def fill_late(self) -> Callable[..., Awaitable[tuple[list[bool], list[bytes | None]]]]:
        """The same, counted as ``fill``."""
        return self._counted(cast("SupportsLateFills", self.backend).fill_late, keys_at=(0, 1), name="fill")

    @property
    def epochs_since(self) -> Callable[[Sequence[tuple[bytes, bytes]], float], Awaitable[list[bytes | None]]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        read = self._counted(cast("SupportsEpochsSince", self.backend).epochs_since, name="epochs_since")

        async def counted(partitions: Sequence[tuple[bytes, bytes]], since: float) -> list[bytes | None]:
            self.keys.update(*partitions)
            return await read(partitions, since)

        return counted

    @property
    def mark_for_save(self) -> Callable[..., Awaitable[Marked]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        return self._counted(cast("SupportsWriteThrough", self.backend).mark_for_save, keys_at=(0, 4))

    @property
    def clear_and_save(self) -> Callable[..., Awaitable[list[bool]]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        return self._counted(cast("SupportsWriteThrough", self.backend).clear_and_save, keys_at=(3,))

    @property
    def clock(self) -> Callable[[], Awaitable[int]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        return self._counted(cast("SupportsClaims", self.backend).clock)

    @property
    def claim(self) -> Callable[[bytes, int], Awaitable[None]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        claim = self._counted(cast("SupportsClaims", self.backend).claim)

        async def counted(key: bytes, until_ms: int) -> None:
            self.keys.add(key)
            await claim(key, until_ms)

        return counted

    @property
    def remaining(self) -> Callable[[Sequence[bytes]], Awaitable[list[int]]]:
        """The method of the backend, counted. Raises ``AttributeError`` if the backend has none."""
        return self._counted(cast("SupportsClaims", self.backend).remaining)

    def _counted(self, operation: _Operation[T], keys_at: tuple[int, ...] = (), name: str = "") -> _Operation[T]:
        async def counted(*arguments: Any) -> T:
            self._count(name or operation.__name__)
            self.keys.update([getattr(each, "key", each) for at in keys_at for each in arguments[at]])
            return await operation(*arguments)

        return counted

    async def delete(self, keys: Sequence[bytes]) -> int:
        self._count("delete")
        return await self.backend.delete(keys)
