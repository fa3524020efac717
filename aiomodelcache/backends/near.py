"""Entries kept in this process, which the server tells of every change (``CLIENT TRACKING``).

No I/O and no event loop: who reads says what it is about to read and what it got (``expect``, ``keep``), the connection
on which that happens says what the server told (``invalidate``, ``answered``, ``lost``), writers what they wrote
(``drop``), and ``find`` answers. Must not know what entries mean, beyond their state.

**How old an answer may be.** Replies and invalidations come on one connection, in the order in which the server made
them. So when a request is answered, every invalidation is known that the server made before that request was sent.
Answers are given until ``lag`` seconds after the moment when the last answered request was sent, and no longer: none
is older than the last write that was announced ``lag`` seconds before, whatever the network, the server and this
process do. Usually it is much less, one message.

**Placeholders.** What was read may be out of date when whoever asked is told, because an invalidation followed the
reply closely, or because a writer of this process, on another connection, was faster. So a key is kept only if nobody
dropped it since it was asked for: dropping removes the placeholder, too.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Final

from aiomodelcache.encoding.layout import ABSENT, VALUE, VERSION
from aiomodelcache.observe.stats import NearCounters, logger

Ticket = list[bytes]
"""What one read expects. The very list that ``expect`` returned."""

OVERHEAD: Final = 320
"""Bytes that an entry takes beside its key and its value, about."""
NEAR_TTL_FRACTION: Final = 0.1
"""An entry is kept for so much of its whole life, then read again: it may outlive its time in the store by that."""
_ANSWERS: Final = (VALUE, ABSENT, VERSION)
_NEVER: Final = float("-inf")
_FOR_EVER: Final = float("inf")


class Near:
    """What one open cache keeps in this process: at most ``limit`` bytes, what was used last."""

    __slots__ = (
        "_asked", "_due", "_expected", "_good_until", "_held", "_kinds", "_limit", "_prefixes", "counters", "lag", "on",
        "ping", "tick"
    )  # fmt: skip

    def __init__(self, limit: int, lag: float) -> None:
        self.lag = lag
        self.counters = NearCounters()
        self.ping: Callable[[], None] = lambda: None
        """Sends a request that has no other purpose than to be answered."""
        self.tick: Callable[[], None] = lambda: None
        """Called now and then while answers are given, about twice in ``lag`` seconds."""
        self.on = False
        """Whether the server tells of changes now. Without that nothing is kept."""
        self._limit = limit
        self._held: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """Entries, each with the moment until which it is believed."""
        self._expected: dict[bytes, Ticket] = {}
        """Placeholders: by whom a key is being read."""
        self._kinds: list[tuple[bytes, float, float]] = []
        self._prefixes: tuple[bytes, ...] = ()
        self._good_until = _NEVER
        self._due = _NEVER
        """When to ask the server for a sign, so that answers go on."""
        self._asked = False

    # What is kept ---------------------------------------------------------------------------------

    def cover(self, prefix: bytes, lives: float, absences_live: float) -> None:
        """Keeps what is under keys that begin so, if no longer prefix says otherwise; nothing if both are zero.

        ``lives`` and ``absences_live``: for how many seconds the store does.
        """
        self._kinds = sorted(
            {*self._kinds, (prefix, lives * NEAR_TTL_FRACTION, absences_live * NEAR_TTL_FRACTION)}, key=_longest_first
        )
        self._prefixes = tuple([prefix for prefix, life, _ in self._kinds if life])

    def cover_version(self, key: bytes) -> None:
        """Keeps a version, which lives until it is told otherwise."""
        self.cover(key, _FOR_EVER, _FOR_EVER)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to be kept."""
        return bool(self._prefixes)

    # Reading --------------------------------------------------------------------------------------

    def find(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None] | None:
        """What is under these keys, if all of them are kept and may be believed."""
        now = monotonic()
        if now >= self._due and not self._believed(now):
            return None
        held = self._held
        found: dict[bytes, bytes | None] = {}
        for key in keys:
            kept = held.get(key)
            if kept is None or kept[1] <= now:
                return None
            found[key] = kept[0]
            held.move_to_end(key)
        return found

    def holds(self, key: bytes) -> bool:
        """Whether a key would be found."""
        kept = self._held.get(key)
        now = monotonic()
        return kept is not None and now < kept[1] and now < self._good_until

    def _believed(self, now: float) -> bool:
        if now >= self._good_until:
            return False
        if not self._asked:
            self._asked = True
            self.ping()
            self.tick()
        return True

    def expect(self, keys: Iterable[bytes]) -> Ticket:
        """Says that these keys will be read now. ``keep`` takes the ticket."""
        ticket = [key for key in keys if key.startswith(self._prefixes)]
        self._expected.update(dict.fromkeys(ticket, ticket))
        return ticket

    def keep(self, ticket: Ticket, found: Mapping[bytes, bytes | None]) -> None:
        """Keeps what was read, but for what was dropped, or asked for by somebody else, since it was expected."""
        for key in ticket:
            if self._expected.get(key) is ticket:
                del self._expected[key]
                value = found.get(key)
                if value is not None and value[:1] in _ANSWERS and self.on:
                    self._put(key, value)
        while self.counters.bytes > self._limit:
            self._remove(next(iter(self._held)))
            self.counters.evicted += 1

    def _put(self, key: bytes, value: bytes) -> None:
        self._remove(key)
        life = next(self._life(kind, value) for kind in self._kinds if key.startswith(kind[0]))
        if life:
            self._held[key] = (value, monotonic() + life)
            self.counters.bytes += len(key) + len(value) + OVERHEAD

    @staticmethod
    def _life(kind: tuple[bytes, float, float], value: bytes) -> float:
        return kind[2] if value[:1] == ABSENT else kind[1]

    def _remove(self, key: bytes) -> bool:
        kept = self._held.pop(key, None)
        if kept is not None:
            self.counters.bytes -= len(key) + len(kept[0]) + OVERHEAD
        return kept is not None

    # Forgetting -----------------------------------------------------------------------------------

    def drop(self, keys: Iterable[bytes]) -> int:
        """Forgets keys, and what is being read of them. Returns how many were kept."""
        count = 0
        for key in keys:
            self._expected.pop(key, None)
            count += self._remove(key)
        return count

    def drop_all(self) -> None:
        """Forgets everything, and what is being read."""
        self.counters.dropped += bool(self._held)
        self.counters.bytes = 0
        self._held.clear()
        self._expected.clear()

    # The connection -------------------------------------------------------------------------------

    def begin(self, sent: float, ping: Callable[[], None]) -> None:
        """The server tells of changes from now on, on a new connection; it was asked to at ``sent`` (monotonic)."""
        self.drop_all()
        self.on = True
        self.ping = ping
        self.answered(sent)

    def answered(self, sent: float) -> None:
        """A request was answered which was sent at ``sent`` (monotonic), and all that the server told before it."""
        self._good_until = sent + self.lag
        self._due = sent + self.lag / 2
        self._asked = False

    def invalidate(self, keys: Iterable[bytes] | None) -> None:
        """The server told that these keys have changed; None: all of them."""
        if keys is None:
            self.drop_all()
        else:
            self.counters.invalidated += self.drop(keys)

    def refused(self, reason: object) -> None:
        """The server would not tell of changes on a new connection. Logged the first time."""
        if not self.counters.refused:
            logger.warning(
                "aiomodelcache: nothing is kept near, because the server does not allow HELLO 3 and CLIENT TRACKING "
                "(since Redis 6; permissions +hello and +client|tracking): %s",
                reason,
            )
        self.counters.refused += 1

    def lost(self) -> None:
        """Nobody tells of changes any more."""
        self.on = False
        self._good_until = self._due = _NEVER
        self.drop_all()


def _longest_first(kind: tuple[bytes, float, float]) -> int:
    return -len(kind[0])
