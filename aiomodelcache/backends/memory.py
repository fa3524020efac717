"""A store for cache entries in this process: for tests, and for programs that are one process.

Owns the bytes, their expiry, and the eviction of entries past the limit. Every operation means exactly what it means in
Redis, down to the stored bytes. Must not know models, or any server.
"""

import math
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import (
    NOTHING_ALLOWED,
    Clear,
    Fill,
    LateFill,
    Lease,
    Leased,
    Marked,
    ReadCallback,
    ReplacedEntry,
    Save,
    TimedLease,
)
from aiomodelcache.encoding.layout import (
    ABSENT,
    CLAIM,
    INTENT,
    INTENT_SIZE,
    LEASE,
    PREFIX_SIZE,
    STALE,
    TOKEN_SIZE,
    VALUE,
    new_version,
)

ENTRY_OVERHEAD = 200
"""Approximate bytes that Python spends on an entry in addition to its key and value."""


class MemoryBackend:
    """A dict of entries, up to ``limit`` bytes. Beyond it, the least recently used entries are evicted.

    Writers' intents are never evicted before they expire, because losing one could let a stale value in. While intents
    alone fill the limit, nothing else is stored.

    Any number of caches may share one backend, in one thread. A backend has nothing to open or close, and its entries
    outlive ``close``. ``clock`` returns seconds.

    >>> backend, token = MemoryBackend(), bytes(16)
    >>> leased = await backend.lease([Lease(b"key")], token, 5_000)
    >>> await backend.fill([Fill(b"key", b"L" + token, b"V" + token + b"value", 60_000)])
    [True]
    >>> [value and value[17:] for value in await backend.read([b"key", b"other"])]
    [b'value', None]
    """

    keys_read_together = sys.maxsize

    def __init__(self, *, limit: int = 64 * 1024 * 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._values: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """The values that may be evicted, each with its deadline (ms). The least recently used one is the first."""
        self._intents: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """The values that hold writers' intents, each with its deadline (ms).

        The least recently marked one is the first.
        """
        self._size = 0
        self._intents_size = 0
        self._can_start_read = type(self).read is MemoryBackend.read
        """True if no subclass overrides ``read`` and must see all reads."""

    def __repr__(self) -> str:
        return f"<MemoryBackend, {self._size} of {self._limit} bytes>"

    def track(self, near: Near | None) -> None:
        """Does nothing, because the entries are in this process already."""

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing."""

    # No operation awaits, so each is atomic. Redis promises less.

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        now = self._now()
        return [self._get(key, now) for key in keys]

    def start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        """Reads at once (see ``SupportsStartRead``)."""
        if not self._can_start_read:
            return False
        now = self._now()
        callback([self._get(key, now) for key in keys])
        return True

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        now = self._now()
        return Leased(
            [self._lease(lease, LEASE + token, ttl_ms, now) for lease in leases],
            [self._version(key, now) for key in versions],
        )

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        now = self._now()
        return [self._fill(fill, now) for fill in fills]

    @property
    def lease_timed(self) -> Callable[[Sequence[Lease], bytes, int, Sequence[bytes]], Awaitable[TimedLease]]:
        """Leases, and returns the time of the clock (see ``SupportsLateFills``).

        Raises ``AttributeError`` if a subclass overrides ``lease`` or ``fill`` and must see all leases and fills.
        """
        if type(self).lease is not MemoryBackend.lease or type(self).fill is not MemoryBackend.fill:
            raise AttributeError("lease_timed")
        return self._lease_timed

    async def _lease_timed(
        self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes]
    ) -> TimedLease:
        return TimedLease(await self.lease(leases, token, ttl_ms, versions), self._now())

    async def fill_late(self, fills: Sequence[Fill], late: Sequence[LateFill]) -> tuple[list[bool], list[bytes | None]]:
        """Fills, and stores rows (see ``SupportsLateFills``)."""
        now = self._now()
        return [self._fill(fill, now) for fill in fills], [self._fill_late(each, now) for each in late]

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        now = self._now()
        own = b"%b%013d" % (token, now + ttl_ms)
        replaced: dict[bytes, ReplacedEntry] = {}
        for key in keys:
            value, deadline = self._values.get(key, (b"", 0.0))
            if key in allow and value[:1] in (VALUE, ABSENT, STALE) and now < deadline < math.inf:
                replaced[key] = ReplacedEntry(value, min(int(deadline), now + allow[key]))
            self._put_intents(key, [*_others(self._get_intents(key, now), token, now), own], now)
        return replaced

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        now = self._now()
        for stamp in stamps:
            self._put(stamp, new_version(), math.inf, now)
        return [self._clear(clear, token, now) for clear in clears]

    async def mark_for_save(
        self,
        keys: Sequence[bytes],
        token: bytes,
        ttl_ms: int,
        allow: Mapping[bytes, int] = NOTHING_ALLOWED,
        versions: Sequence[bytes] = (),
    ) -> Marked:
        """Marks keys, and reads versions (see ``SupportsWriteThrough``)."""
        now = self._now()
        replaced = await MemoryBackend.mark(self, keys, token, ttl_ms, allow)
        return Marked(replaced, dict.fromkeys(keys, now), [self._version(key, now) for key in versions])

    async def clear_and_save(
        self, saves: Sequence[Save], clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()
    ) -> list[bool]:
        """Ends a write, and stores rows (see ``SupportsWriteThrough``)."""
        now = self._now()
        same = {save.stamp for save in saves if self._get(save.stamp, now) == save.expected}
        for stamp in dict.fromkeys([*stamps, *[save.stamp for save in saves]]):
            self._put(stamp, new_version(), math.inf, now)
        for clear in clears:
            self._clear(clear, token, now)
        return [self._save(save, token, now, same=save.stamp in same) for save in saves]

    async def clock(self) -> int:
        """Returns the time of the clock, in milliseconds (see ``SupportsClaims``)."""
        return self._now()

    async def claim(self, key: bytes, until_ms: int) -> None:
        """Keeps a key until a time (see ``SupportsClaims``)."""
        now = self._now()
        _, deadline = self._values.get(key, (b"", 0.0))
        if until_ms > max(now, deadline):
            self._put(key, CLAIM, until_ms, now)

    async def remaining(self, keys: Sequence[bytes]) -> list[int]:
        """Returns the milliseconds that claims have left (see ``SupportsClaims``)."""
        now = self._now()
        return [max(0, int(self._values.get(key, (b"", 0.0))[1]) - now) for key in keys]

    def recent(self, limit: int | None = None) -> list[bytes]:
        """Returns the keys of entries without intents, at most ``limit``, the most recently used first."""
        return list(islice(reversed(self._values), limit))

    def expires_in(self, key: bytes) -> float | None:
        """Returns the seconds until a key expires; None for a key without an end, or that is not there."""
        _, deadline = self._values.get(key) or self._intents.get(key) or (b"", math.inf)
        return None if deadline == math.inf else max(0.0, deadline / 1000 - self._clock())

    @property
    def size(self) -> int:
        """The approximate size of all entries in bytes."""
        return self._size

    @property
    def limit(self) -> int:
        """Maximum size of all entries in bytes. Beyond it, the least recently used ones are evicted."""
        return self._limit

    async def delete(self, keys: Sequence[bytes]) -> int:
        now = self._now()
        return sum(self._get(key, now) is not None and self._drop(key) for key in keys)

    def _lease(self, lease: Lease, own: bytes, ttl_ms: int, now: int) -> bytes | None:
        value = self._get(lease.key, now)
        if value is None:
            granted = not lease.replacing
        else:
            # A prefix shorter than state and token must equal the whole value.
            size = max(len(lease.replacing), PREFIX_SIZE)
            granted = value[:size] == lease.replacing
        if not granted:
            return value
        return own if self._put(lease.key, own, now + ttl_ms, now) else b""

    def _version(self, key: bytes, now: int) -> bytes | None:
        if self._get(key, now) is None:
            self._put(key, new_version(), math.inf, now)
        return self._get(key, now)

    def _fill(self, fill: Fill, now: int) -> bool:
        value = self._get(fill.key, now)
        if value is None or value[:PREFIX_SIZE] != fill.expected:
            return False
        if fill.value:
            return self._put(fill.key, fill.value, now + fill.ttl_ms, now)
        return self._drop(fill.key)

    def _fill_late(self, late: LateFill, now: int) -> bytes | None:
        if self._get(late.stamp, now) != late.expected or now >= late.until_ms:
            return b""
        value = self._get(late.key, now)
        if (value or b"")[: PREFIX_SIZE if late.replacing else None] != late.replacing:
            return value or b""
        return None if self._put(late.key, late.value, now + late.ttl_ms, now) else b""

    def _clear(self, clear: Clear, token: bytes, now: int) -> bool:
        intents = self._get_intents(clear.key, now)
        found = any(intent[:TOKEN_SIZE] == token for intent in intents)
        self._drop(clear.key)
        if others := _others(intents, token, now):
            self._put_intents(clear.key, others, now)
        elif found and clear.hint:
            until = clear.until_ms or (now + clear.ttl_ms if clear.ttl_ms else math.inf)
            if until > now:
                self._put(clear.key, clear.hint, until, now)
        return found

    def _save(self, save: Save, token: bytes, now: int, *, same: bool) -> bool:
        self._clear(
            Clear(save.key, save.value, save.ttl_ms) if same and now < save.until_ms else Clear(save.key), token, now
        )
        value = self._get(save.key, now)
        return value is not None and value == save.value

    def _get_intents(self, key: bytes, now: int) -> list[bytes]:
        """Returns the intents on ``key``, each as token and expiry. Empty if the key holds no intents."""
        value = self._get(key, now)
        if value is None or value[:1] != INTENT:
            return []
        return [value[at : at + INTENT_SIZE] for at in range(1, len(value), INTENT_SIZE)]

    def _put_intents(self, key: bytes, intents: list[bytes], now: int) -> None:
        self._put(key, INTENT + b"".join(intents), max(map(_expiry, intents)), now)

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _get(self, key: bytes, now: int) -> bytes | None:
        entry = self._values.get(key)
        if entry is not None:
            self._values.move_to_end(key)
        else:
            entry = self._intents.get(key)
            if entry is None:
                return None
        value, deadline = entry
        if deadline > now:
            return value
        self._drop(key)
        return None

    def _put(self, key: bytes, value: bytes, deadline: float, now: int) -> bool:
        """Replaces the value of ``key`` by ``value``. Returns False if there is no room for it."""
        self._drop(key)
        size = _size(key, value)
        is_intent = value[:1] == INTENT
        if self._size + size > self._limit:
            self._drop_expired_intents(now)
            if not is_intent and self._intents_size + size > self._limit:
                return False
            while self._values and self._size + size > self._limit:
                self._drop(next(iter(self._values)))
        (self._intents if is_intent else self._values)[key] = value, deadline
        self._size += size
        self._intents_size += size if is_intent else 0
        return True

    def _drop_expired_intents(self, now: int) -> None:
        # The intents of writers that died. All intents have the same lifetime, so the first ones are the oldest.
        while self._intents:
            key, (_, deadline) = next(iter(self._intents.items()))
            if deadline > now:
                break
            self._drop(key)

    def _drop(self, key: bytes) -> bool:
        if entry := self._values.pop(key, None):
            self._size -= _size(key, entry[0])
        elif entry := self._intents.pop(key, None):
            self._size -= _size(key, entry[0])
            self._intents_size -= _size(key, entry[0])
        return entry is not None


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD


def _expiry(intent: bytes) -> int:
    expiry = intent[TOKEN_SIZE:]
    return int(expiry) if expiry.isdigit() else 0  # other bytes count as expired


def _others(intents: list[bytes], token: bytes, now: int) -> list[bytes]:
    """Returns the live ``intents`` of other tokens than ``token``."""
    return [intent for intent in intents if intent[:TOKEN_SIZE] != token and _expiry(intent) > now]
