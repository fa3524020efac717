"""The lifetimes of entries, the time of their refresh, and the effect of writes on them.

Pure except for the clock: compares bytes of entries and sends no requests.
"""

import enum
import random
import time
from typing import Final, NamedTuple

from aiomodelcache.encoding.layout import ABSENT, CREATED, STALE

_NEVER: Final = bytes(8)
"""A time that is before every creation time. A stale copy has creation time zero, so it is always due."""


class InvalidationType(enum.Enum):
    """The effect of a write on the entries that depend on the written rows.

    >>> class Participants(QuerysetCountCache):
    ...     model = Participation
    ...     key_fields = ("event",)
    ...     invalidation = InvalidationType.DYNAMIC
    ...     allowtime = 30
    """

    UNSET = "unset"
    """Invalidates the entry, and the next read fills it again. The default."""
    OFF = "off"
    """Does nothing: the entry expires by its timeout, or is invalidated by hand."""
    DYNAMIC = "dynamic"
    """Keeps the value as a stale copy, which may be served for ``allowtime`` seconds."""
    RESET = "reset"
    """Invalidates the entry, and fills it again at once."""


class Lifetimes:
    """The lifetimes of one cache class's entries, with jitter. Arguments are seconds; ``of`` returns milliseconds.

    ``due`` is a time in bytes, as in an entry's header. A value that was built at or before it is near the end of its
    life and is refreshed. Stale copies are always due. ``age`` moves ``due`` forward, so that a hit needs no clock.
    """

    __slots__ = ("_absence_due", "_ahead", "_negative", "_positive", "_shortest", "_span", "due")

    def __init__(self, positive: float, negative: float, jitter: float, ahead: float = 0.0) -> None:
        self._positive = positive
        self._negative = negative
        self._shortest, self._span = 1 - jitter, 2 * jitter
        """The shortest life, and the difference to the longest one, as fractions of the life without jitter."""
        self._ahead = ahead
        self.due = self._absence_due = _NEVER

    def seconds(self, state: bytes) -> float:
        """Returns the lifetime of entries of this state, in seconds, without jitter."""
        return self._negative if state == ABSENT else self._positive

    def ttl_ms(self, state: bytes) -> int:
        """Returns the lifetime of a new entry of this state, in milliseconds, with jitter."""
        seconds = self._negative if state == ABSENT else self._positive  # written out: every fill calls this
        return int(seconds * 1000 * (self._shortest + self._span * random.random())) or 1

    def jittered(self, seconds: float) -> int:
        """Returns a lifetime in milliseconds, with jitter."""
        return int(seconds * 1000 * (self._shortest + self._span * random.random())) or 1

    def update_due(self) -> None:
        """Moves ``due`` to the value for the present time. Does nothing if entries are not refreshed ahead."""
        if self._ahead:
            self.due, self._absence_due = self._threshold(self._positive), self._threshold(self._negative)

    def _threshold(self, seconds: float) -> bytes:
        shortest = seconds * self._shortest  # an entry does not contain its expiry, so assume the earliest
        return max(0, int(time.time() * 1000) - int(shortest * (1 - self._ahead) * 1000)).to_bytes(8)

    def is_due(self, entry: bytes) -> bool:
        """Returns True if a current entry should be refreshed before it expires."""
        return entry[CREATED] <= (self._absence_due if entry[:1] == ABSENT else self.due)


class Policy(NamedTuple):
    """The effect of writes on the entries of one cache class."""

    invalidation: InvalidationType = InvalidationType.UNSET
    allow_ms: int = 0
    """The time for which a stale copy may be served, in milliseconds from the first invalidation. 0: never."""

    @classmethod
    def with_allowtime(cls, invalidation: InvalidationType, allowtime: float | None) -> "Policy":
        """Returns the policy with this ``allowtime``, in seconds."""
        return cls(invalidation, 0 if allowtime is None else max(1, int(allowtime * 1000)))

    @property
    def off(self) -> bool:
        """True if writes do not invalidate the entries."""
        return self.invalidation is InvalidationType.OFF

    def unwrap_copy(self, payload: bytes) -> tuple[bytes, bytes]:
        """Returns the state and payload of the entry that a stale copy holds.

        The state is ``S``, which readers treat as a miss, if the class does not allow stale answers.
        """
        return (payload[:1], payload[1:]) if self.allow_ms else (STALE, payload)
