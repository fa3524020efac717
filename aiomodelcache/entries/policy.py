"""How long entries live, when they are filled again before they end, and what writes do to them.

Pure but for the clock: it compares bytes of entries and never asks a server.
"""

import random
import time
from typing import Final, NamedTuple

from aiomodelcache.config import InvalidationType
from aiomodelcache.encoding.layout import ABSENT, CREATED, STALE

_NEVER: Final = bytes(8)
"""Before every moment but that of a stale copy, which is none."""


class Lifetimes:
    """How long entries of one cache class live, with jitter. All in seconds; results in milliseconds.

    ``due``: a value that was built before this moment (bytes, as in an entry's header) is near its end and is
    to be filled again. Stale copies are always due. It moves with ``age``, so that a hit needs no clock.
    """

    __slots__ = ("_absence_due", "_ahead", "_jitter", "_negative", "_positive", "due")

    def __init__(self, positive: float, negative: float, jitter: float, ahead: float = 0.0) -> None:
        self._positive = positive
        self._negative = negative
        self._jitter = jitter
        self._ahead = ahead
        self.due = self._absence_due = _NEVER

    def seconds(self, state: bytes) -> float:
        """How long entries of this state live, in seconds, but for the jitter."""
        return self._negative if state == ABSENT else self._positive

    def of(self, state: bytes) -> int:
        """How long an entry of this state shall live, in milliseconds."""
        jitter = 1 + self._jitter * (2 * random.random() - 1)
        return max(1, int(self.seconds(state) * 1000 * jitter))

    def age(self) -> None:
        """Moves the moments before which entries are due to what they are now."""
        if self._ahead:
            self.due, self._absence_due = self._moment(self._positive), self._moment(self._negative)

    def _moment(self, seconds: float) -> bytes:
        shortest = seconds * (1 - self._jitter)  # an entry does not tell when it will end
        return max(0, int(time.time() * 1000) - int(shortest * (1 - self._ahead) * 1000)).to_bytes(8)

    def is_due(self, entry: bytes) -> bool:
        """Whether an entry that is an answer should be filled again while it still is one."""
        return entry[CREATED] <= (self._absence_due if entry[:1] == ABSENT else self.due)


class Policy(NamedTuple):
    """What writes do to the entries of one cache class."""

    invalidation: InvalidationType = InvalidationType.UNSET
    allow_ms: int = 0
    """How long a stale copy may be answered, from the first invalidation on. 0: there are none."""

    @classmethod
    def of(cls, invalidation: InvalidationType, allowtime: float | None) -> "Policy":
        """The policy with this ``allowtime``, in seconds."""
        return cls(invalidation, 0 if allowtime is None else max(1, int(allowtime * 1000)))

    @property
    def off(self) -> bool:
        """Whether writes leave them alone."""
        return self.invalidation is InvalidationType.OFF

    def copied(self, payload: bytes) -> tuple[bytes, bytes]:
        """What a stale copy is one of: state and payload. Nothing that means anything, if it is not to be believed."""
        return (payload[:1], payload[1:]) if self.allow_ms else (STALE, payload)
