"""The clock of a node, compared with the monotonic clock of this process. Both in microseconds.

The model is ``fill_by_clock`` of ``tests/protocol/model/partitions.py``.
"""

import math
import time
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

SAMPLE_INTERVAL: Final = 30_000_000
"""Minimum microseconds between two samples that are kept, longer than a statement takes whose rows may be stored."""
MAX_SAMPLE_AGE: Final = 300_000_000
"""Maximum microseconds between a sample and a statement. A clock might be set back and forth in between."""


class _Sample(NamedTuple):
    taken: float
    ahead: float


_NEVER: Final = _Sample(-math.inf, 0.0)


class NodeClock:
    """The lead of a node's clock over the monotonic one of this process, at least. A reply shows it."""

    __slots__ = ("_earlier", "_later")

    def __init__(self) -> None:
        self._earlier = self._later = _NEVER

    async def on_connect(self, connection: Any) -> None:
        """Does what redis-py does on a new connection, and then asks the node for its time."""
        await connection.on_connect()
        await connection.send_command("TIME", check_health=False)
        try:
            seconds, microseconds = await connection.read_response()
        except ResponseError:  # not permitted
            return
        self.note(int(seconds) * 1_000_000 + int(microseconds))

    def note(self, shown: int) -> float:
        """Notes the time that the node showed in a reply that has come now. Returns how far it is ahead, at least."""
        now = time.monotonic() * 1_000_000
        sample = _Sample(now, shown - now)
        if now - self._later.taken >= SAMPLE_INTERVAL:
            self._earlier, self._later = self._later, sample
        return sample.ahead

    def ahead_before(self, since: float) -> float | None:
        """Returns how far the clock was ahead, at least, before ``since``, in seconds. None if that is not known."""
        moment = since * 1_000_000
        sample = self._later if self._later.taken <= moment else self._earlier
        return sample.ahead if 0 <= moment - sample.taken <= MAX_SAMPLE_AGE else None
