"""Shared parts of all entry kinds: answers that are not values, fingerprints, and the handling of unusable bytes."""

import enum
import hashlib
import time
from typing import Final, Literal, Protocol

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import (
    ABSENT,
    FINGERPRINT,
    FINGERPRINT_SIZE,
    FORMAT_VERSION,
    GUARD,
    PREFIX_SIZE,
    STALE,
    TOKEN_SIZE,
    VALUE,
    VERSION,
    DamagedEntry,
    is_intent,
    is_lease,
)
from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.encoding.partitions import Partitions
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.schema import ModelSchema


class NoValue(enum.Enum):
    """The answers that are not a value. ``None`` is a value and never stands for either."""

    MISS = "the cache has no answer"
    ABSENT = "no such row exists"


Miss = Literal[NoValue.MISS]
Absent = Literal[NoValue.ABSENT]

VALUE_BYTE: Final = VALUE[0]

ANY_EPOCH: Final = bytes(TOKEN_SIZE)
"""The epoch in entries that need none: entries of a unique index that name a row, which are only hints."""


def fingerprint(*parts: object) -> bytes:
    """Returns an 8-byte digest of all that an entry's bytes depend on: the format, the columns, the static version."""
    return hashlib.blake2b(repr((FORMAT_VERSION, parts)).encode(), digest_size=FINGERPRINT_SIZE).digest()


def now_ms() -> int:
    """Returns the time that new entries carry, in milliseconds since the Unix epoch."""
    return int(time.time() * 1000)


class NearCache(Protocol):
    """The near cache, as far as it is told which entries to keep."""

    def cover(self, prefix: bytes, ttl: float, absence_ttl: float) -> None: ...

    def cover_version(self, key: bytes) -> None: ...


class SupportsNear(Protocol):
    """A set of entries whose keys share a prefix, and which the near cache can keep."""

    prefix: bytes
    partitions: Partitions
    lifetimes: Lifetimes
    near: bool


def keep_near(near: NearCache, entry_set: SupportsNear, space: KeySpace) -> None:
    """Tells the near cache for how long to keep these entries in this process, or not to keep them.

    Entries of all tenants are kept alike.
    """
    lives = [entry_set.lifetimes.seconds(state) if entry_set.near else 0.0 for state in (VALUE, ABSENT)]
    near.cover(entry_set.prefix.removesuffix(space.tenant or b""), *lives)
    if entry_set.near:
        near.cover_version(entry_set.partitions.epoch_prefix)


def count_unusable(counters: Counters, name: str, entry: bytes, expected: bytes) -> Miss:
    """Returns a miss for bytes that are not a current entry, and counts and logs bytes that should not be there.

    Leases, intents and entries of an earlier epoch are expected, and are not counted.
    """
    if entry[:1] in (VALUE, ABSENT, STALE) and len(entry) >= GUARD.stop:
        if entry[FINGERPRINT] != expected:
            count_mismatched(
                counters, name, "another version of the program or its schema wrote it, or another model of its table"
            )
    elif not (is_lease(entry) or is_intent(entry)):
        unsigned = entry[:1] in (VALUE, ABSENT, STALE) and len(entry) == PREFIX_SIZE
        text = "its signature is missing or wrong" if unsigned else "it does not begin like one"
        count_undecodable(counters, name, DamagedEntry(text))
    return NoValue.MISS


def count_mismatched(counters: Counters, name: str, reason: str) -> None:
    """Counts and logs an undamaged entry that does not belong under its key."""
    counters.mismatched += 1
    counters.warn_once("mismatched", "aiomodelcache: an entry of %s is a miss: %s", name, reason)


def count_undecodable(counters: Counters, name: str, error: Exception) -> Miss:
    """Returns a miss for an entry that cannot be read, and counts and logs it."""
    counters.undecodable += 1
    counters.warn_once(
        "undecodable", "aiomodelcache: an entry of %s cannot be read, it is a miss: %s", name, safe_reason(error)
    )
    return NoValue.MISS


def warn_unencodable(counters: Counters, name: str, error: EncodeError, noun: str = "row") -> None:
    """Logs a row that cannot be stored, or a value that ``noun`` names instead."""
    counters.warn_once("unencodable", f"aiomodelcache: a {noun} of %s cannot be stored: %s", name, safe_reason(error))


def is_version(value: bytes | None) -> bool:
    """Returns True if the value of a version key is a version, and neither writers' intents nor absent."""
    return value is not None and value[:1] == VERSION


class KeyedEntries:
    """Entries that are found by the values of columns."""

    schema: ModelSchema
    attributes: tuple[str, ...]
    _caches_any_absence: bool

    @property
    def compares_loosely(self) -> bool:
        """True if the database may find a row by other values than the row's own."""
        return self.schema.compares_loosely(self.attributes)

    @property
    def keeps_ints(self) -> bool:
        """True if the key is of one column whose integers the database returns, and keys hold, as they are."""
        if len(self.attributes) != 1:
            return False
        [attribute] = self.attributes
        return self.schema.identity_type(attribute)[0] is int and int in self.schema.encodable_types(attribute)

    @property
    def caches_absence(self) -> bool:
        """True if the entry "no such row" may be stored.

        Where the database compares loosely, a write under another spelling can create the row without invalidating
        that entry. So the entry is stored only if the declaration sets its own ``negative_timeout``.
        """
        return self._caches_any_absence or not self.compares_loosely
