"""What entries of all kinds share: answers that are not values, fingerprints, and what to do with unusable bytes."""

import enum
import hashlib
import time
from typing import Final, Literal, Protocol

from aiomodelcache.backends.near import Near
from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import (
    ABSENT,
    FINGERPRINT,
    FINGERPRINT_SIZE,
    FORMAT_VERSION,
    GUARD,
    STALE,
    TOKEN_SIZE,
    VALUE,
    VERSION,
    DamagedEntry,
    is_intent,
    is_lease,
)
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.observe.stats import Counters


class NoValue(enum.Enum):
    """Answers that are not a value. ``None`` is a value and never stands for either."""

    MISS = "the cache does not know"
    ABSENT = "it is known that there is no such row"


Miss = Literal[NoValue.MISS]
Absent = Literal[NoValue.ABSENT]

VALUE_BYTE: Final = VALUE[0]

ANY_EPOCH: Final = bytes(TOKEN_SIZE)
"""In the header of entries that need no epoch: positive entries of a unique index are only hints."""


def fingerprint(*parts: object) -> bytes:
    """What the bytes of an entry depend on, in 8 bytes: the format, the columns, the static version."""
    return hashlib.blake2b(repr((FORMAT_VERSION, parts)).encode(), digest_size=FINGERPRINT_SIZE).digest()


def now_ms() -> int:
    """The time that entries are stamped with."""
    return int(time.time() * 1000)


class Storing(Protocol):
    """What stores entries under keys that begin alike."""

    prefix: bytes
    lifetimes: Lifetimes
    near: bool


def keep_near(near: Near, entry_set: Storing, epoch_key: bytes) -> None:
    """Says whether what a source stores is kept in this process, and for how long."""
    lives = [entry_set.lifetimes.seconds(state) if entry_set.near else 0.0 for state in (VALUE, ABSENT)]
    near.cover(entry_set.prefix, *lives)
    if entry_set.near:
        near.cover_version(epoch_key)


def count_unusable(counters: Counters, name: str, entry: bytes, expected: bytes) -> Miss:
    """Makes a miss of bytes that are not a current entry, and counts and logs those that should not be there."""
    if entry[:1] in (VALUE, ABSENT, STALE) and len(entry) >= GUARD.stop:
        if entry[FINGERPRINT] != expected:
            count_mismatched(counters, name, "another version of the program or its schema wrote it")
    elif not (is_lease(entry) or is_intent(entry)):
        count_undecodable(counters, name, DamagedEntry("it does not begin like one"))
    return NoValue.MISS


def count_mismatched(counters: Counters, name: str, reason: str) -> None:
    """Counts and logs a sound entry that does not belong under its key."""
    counters.mismatched += 1
    counters.warn_once("foreign", "aiomodelcache: an entry of %s is a miss: %s", name, reason)


def count_undecodable(counters: Counters, name: str, error: Exception) -> Miss:
    """Counts and logs an entry that cannot be read, and makes it a miss."""
    counters.undecodable += 1
    counters.warn_once("undecodable", "aiomodelcache: an entry of %s cannot be read, it is a miss: %s", name, error)
    return NoValue.MISS


def warn_unencodable(counters: Counters, name: str, error: EncodeError, what: str = "row") -> None:
    """Logs a row, or another thing, that cannot be stored."""
    counters.warn_once("unencodable", f"aiomodelcache: a {what} of %s cannot be stored: %s", name, error)


def is_version(value: bytes | None) -> bool:
    """Whether a version key holds a version, not writers' intents and not nothing."""
    return value is not None and value[:1] == VERSION
