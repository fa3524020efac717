"""Entries kept decoded by one open cache, so that an entry that is read again need not be decoded again.

Kept content answers only an entry that has all of its bytes. So it is never out of date, and nothing invalidates it.
Must not know rows and values.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from sys import getsizeof
from typing import Any, Final, cast

from aiomodelcache.encoding.layout import CREATED
from aiomodelcache.observe.stats import DecodedCounters

_PLACES: Final = (1 << 14) - 1
"""The last place for hashes of entries that were read once. The last bits of a hash name its place."""
_OVERHEAD: Final = 320
"""Approximate bytes that kept content takes in addition to itself and its entry."""
_LARGEST: Final = 64
"""An entry of more than one part in so many of the limit is not kept. Decoded, it may take several times as much."""

_random_bits: Final = Random().getrandbits
"""Random bits that leave the sequences of a seeded application alone."""


class Kept:
    """The content of one entry, decoded."""

    __slots__ = ("content", "created", "entry", "guard", "owner", "read", "size", "used")

    def __init__(self, entry: bytes, owner: object, guard: bytes, content: Any, size: int) -> None:
        self.entry = entry
        self.owner = owner
        """The object that knows the content. Others may have decoded the same bytes to something else."""
        self.guard = guard
        """The guard with which the owner has compared the entry's. Compared by identity."""
        self.created = entry[CREATED]
        self.content = content
        self.size = size
        self.used = False
        """True if it has answered since it was last considered for eviction."""
        self.read: tuple[Sequence[bytes], Sequence[bytes | None]] | None = None
        """Keys and values that were read together when the entry was found current. None if they are not kept."""


class Decoded:
    """Decoded entries, by their bytes: at most ``limit`` bytes of memory, those used lately.

    An entry is kept when it is read for the second time, so that rows that are read once do not evict others.
    """

    __slots__ = ("_kept", "_limit", "_seen", "counters", "find")

    def __init__(self, limit: int, counters: DecodedCounters) -> None:
        self._limit = limit
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._seen = array("q", bytes(8 * (_PLACES + 1)))
        self.counters = counters
        self.find: Callable[[bytes | None], Kept | None] = cast("Any", self._kept.get if limit else _find_nothing)
        """Returns the content kept under a key, or None. Its owner or its guard must still be compared."""

    def to_keep(self, entry: bytes) -> bool:
        """Returns True if the entry was read before, as far as remembered, and fits. Remembers it from now on."""
        digest = hash(entry)
        at = digest & _PLACES
        seen = self._seen[at]
        if seen == digest:
            return self.fits(entry)
        if not seen or _random_bits(1):  # by chance: two entries read in turn would replace each other for ever
            self._seen[at] = digest
        return False

    def to_keep_rarely(self, entry: bytes) -> bool:
        """Does the same for content that takes longer to keep than to decode: if there is no room, for one in four."""
        return self.to_keep(entry) and not (self.counters.evicted and _random_bits(2))

    def fits(self, entry: bytes) -> bool:
        """Returns True if the entry is not too large to be kept."""
        return len(entry) * _LARGEST <= self._limit

    def keep(self, key: bytes, entry: bytes, owner: object, guard: bytes, content: Any, size: int) -> Kept:
        """Keeps the content of an entry under a key, unless that belongs to another owner. ``size``: in bytes."""
        kept = Kept(entry, owner, guard, content, size + getsizeof(entry) + _OVERHEAD)
        former = self._kept.get(key)
        if former is not None and former.owner is not owner:
            return kept
        if former is not None:
            self._remove(key)
        self._kept[key] = kept
        self.counters.kept += 1
        self.counters.bytes += kept.size
        while self.counters.bytes > self._limit:
            self._evict()
        return kept

    def keep_read(self, kept: Kept, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Keeps what was read when an entry was found current, beside it. Evicts nothing for that."""
        grown = sum(map(getsizeof, values)) - (sum(map(getsizeof, kept.read[1])) if kept.read is not None else 0)
        if self.counters.bytes + grown <= self._limit:
            kept.read = keys, values
            kept.size += grown
            self.counters.bytes += grown

    def _evict(self) -> None:
        key, kept = next(iter(self._kept.items()))
        if kept.used:
            kept.used = False
            self._kept.move_to_end(key)
        else:
            self._remove(key)
            self.counters.evicted += 1

    def _remove(self, key: bytes) -> None:
        self.counters.bytes -= self._kept.pop(key).size


def _find_nothing(key: bytes | None) -> None:
    return None


NOTHING_DECODED: Final = Decoded(0, DecodedCounters())
