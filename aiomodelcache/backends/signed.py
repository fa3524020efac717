"""A backend whose entries are signed, so that readers believe no entry that a program without the secret has made.

Signs what readers and writers store, and verifies what they get. An entry whose signature is missing or wrong is cut
down to its state and token. To readers it is a damaged entry, which they can replace. Must not know the content of an
entry.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.partitioned import SupportsEpochsSince, partitions
from aiomodelcache.backends.protocol import (
    NOTHING_ALLOWED,
    Backend,
    Clear,
    Fill,
    LateFill,
    Lease,
    Leased,
    Marked,
    PartialFailure,
    ReadCallback,
    ReplacedEntry,
    Save,
    SupportsClaims,
    SupportsLateFills,
    SupportsNodes,
    SupportsStartRead,
    SupportsTracking,
    SupportsWriteThrough,
    TimedLease,
    keys_read_together,
)
from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.encoding.signatures import Signer


class SignedBackend:
    """Another backend with signed entries. Opens, closes and tracks as that one does."""

    start_read: Callable[[Sequence[bytes], ReadCallback], bool]
    """Only present if the other backend has it."""

    def __init__(self, backend: Backend, secrets: Sequence[bytes]) -> None:
        self.backend = backend
        signer = Signer(secrets)
        self._sign = signer.sign
        self._verify = signer.verify
        if hasattr(backend, "start_read"):
            self.start_read = self._start_read
        if hasattr(backend, "clear_and_save"):
            self.mark_for_save = self._mark_for_save
            self.clear_and_save = self._clear_and_save
        if hasattr(backend, "lease_timed"):
            self.lease_timed, self.fill_late = self._lease_timed, self._fill_late
        if hasattr(backend, "node_of"):
            self.node_of = cast("SupportsNodes", backend).node_of
        if hasattr(backend, "epochs_since"):  # versions are not signed: entries are, with their epochs
            self.epochs_since = cast("SupportsEpochsSince", backend).epochs_since
        if hasattr(backend, "claim"):  # claims are not signed: a false one reveals nothing, and entries are
            claiming = cast("SupportsClaims", backend)
            self.clock, self.claim, self.remaining = claiming.clock, claiming.claim, claiming.remaining

    def __repr__(self) -> str:
        return f"<SignedBackend over {self.backend!r}>"

    @property
    def keys_read_together(self) -> int:
        """The number of the other backend (see ``ReadsTogether``)."""
        return keys_read_together(self.backend)

    @property
    def partitions(self) -> int:
        """The number of the other backend (see ``Partitioned``)."""
        return partitions(self.backend)

    @property
    def track(self) -> Callable[[Near | None], None]:
        """The method ``track`` of the other backend. Raises ``AttributeError`` if that has none."""
        return cast("SupportsTracking", self.backend).track

    async def open(self) -> None:
        await self.backend.open()

    async def close(self) -> None:
        await self.backend.close()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            return self._verified(keys, await self.backend.read(keys))
        except PartialFailure as failure:
            raise PartialFailure(failure.failed, self._verified(keys, failure.result)) from failure

    def _start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        return cast("SupportsStartRead", self.backend).start_read(keys, partial(self._on_read, keys, callback))

    def _on_read(self, keys: Sequence[bytes], callback: ReadCallback, read: list[bytes | None] | Exception) -> None:
        if isinstance(read, PartialFailure):
            callback(PartialFailure(read.failed, self._verified(keys, read.result)))
        else:
            callback(read if isinstance(read, Exception) else self._verified(keys, read))

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        try:
            return self._verified_lease(leases, await self.backend.lease(leases, token, ttl_ms, versions))
        except PartialFailure as failure:
            raise PartialFailure(failure.failed, self._verified_lease(leases, failure.result)) from failure

    def _verified_lease(self, leases: Sequence[Lease], leased: Leased) -> Leased:
        return leased._replace(values=self._verified([lease.key for lease in leases], leased.values))

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        return await self.backend.fill([fill._replace(value=self._sign(fill.key, fill.value)) for fill in fills])

    async def _lease_timed(
        self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes]
    ) -> TimedLease:
        timed = await cast("SupportsLateFills", self.backend).lease_timed(leases, token, ttl_ms, versions)
        values = self._verified([lease.key for lease in leases], timed.leased.values)
        return timed._replace(leased=timed.leased._replace(values=values))

    async def _fill_late(
        self, fills: Sequence[Fill], late: Sequence[LateFill]
    ) -> tuple[list[bool], list[bytes | None]]:
        signed = [fill._replace(value=self._sign(fill.key, fill.value)) for fill in fills]
        rows = [each._replace(value=self._sign(each.key, each.value)) for each in late]
        filled, held = await cast("SupportsLateFills", self.backend).fill_late(signed, rows)
        return filled, self._verified([each.key for each in late], held)

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        return self._verified_copies(await self.backend.mark(keys, token, ttl_ms, allow))

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        return await self.backend.clear(self._signed(clears), token, stamps)

    async def _mark_for_save(
        self,
        keys: Sequence[bytes],
        token: bytes,
        ttl_ms: int,
        allow: Mapping[bytes, int] = NOTHING_ALLOWED,
        versions: Sequence[bytes] = (),
    ) -> Marked:
        backend = cast("SupportsWriteThrough", self.backend)
        marked = await backend.mark_for_save(keys, token, ttl_ms, allow, versions)
        return marked._replace(replaced=self._verified_copies(marked.replaced))

    async def _clear_and_save(
        self, saves: Sequence[Save], clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()
    ) -> list[bool]:
        backend = cast("SupportsWriteThrough", self.backend)
        signed = [save._replace(value=self._sign(save.key, save.value)) for save in saves]
        return await backend.clear_and_save(signed, self._signed(clears), token, stamps)

    async def delete(self, keys: Sequence[bytes]) -> int:
        return await self.backend.delete(keys)

    def _signed(self, clears: Iterable[Clear]) -> list[Clear]:
        return [clear._replace(hint=self._sign(clear.key, clear.hint)) for clear in clears]

    def _verified_copies(self, replaced: Mapping[bytes, ReplacedEntry]) -> dict[bytes, ReplacedEntry]:
        verified = {key: (self._verify(key, entry), until_ms) for key, (entry, until_ms) in replaced.items()}
        return {key: ReplacedEntry(entry, until_ms) for key, (entry, until_ms) in verified.items() if entry is not None}

    def _verified(self, keys: Iterable[bytes], values: Iterable[bytes | None]) -> list[bytes | None]:
        return [
            None if value is None else self._verify(key, value) or value[:PREFIX_SIZE]
            for key, value in zip(keys, values, strict=False)  # a backend that returns too few fails in its caller
        ]
