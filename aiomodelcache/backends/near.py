"""Entries kept in this process, whose changes the server reports (``CLIENT TRACKING``).

No I/O and no event loop. Readers announce their reads and their results (``expect``, ``keep``). The connection of these
reads reports the server's messages (``invalidate``, ``answered``, ``lost``). Writers report their writes (``drop``).
``find`` answers lookups. Must not know what entries mean, beyond their state.

**Maximum age of an answer.** Replies and invalidations arrive on one connection, in the order in which the server sent
them. So when a request is answered, every invalidation is known that the server sent before that request was made.
Answers are given until ``lag`` seconds after the sending of the last answered request, and no longer. Every answer
therefore includes all writes that were announced at least ``lag`` seconds before it, whatever the network, the server
and this process do. The usual delay is much shorter, one message.

**Placeholders.** A value may be out of date when its reader gets it. An invalidation may follow the reply closely, or a
writer of this process may be faster on another connection. So a key is kept only if it was not dropped since its read
was announced. Dropping a key also removes its placeholder.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Final, Literal

from aiomodelcache.encoding.layout import ABSENT, VALUE, VERSION
from aiomodelcache.observe.events import NearChange
from aiomodelcache.observe.observers import Observers
from aiomodelcache.observe.stats import NearCounters, logger

Ticket = list[bytes]
"""The keys that one read expects. Compared by identity: it must be the list that ``expect`` returned."""

OVERHEAD: Final = 320
"""Approximate bytes that an entry takes in addition to its key and its value."""
NEAR_TTL_FRACTION: Final = 0.1
"""Maximum lifetime of a near entry, as a fraction of its lifetime in the store. Beyond it, the entry is read again.

A near entry may outlive the store's entry by this fraction.
"""
_STORABLE_STATES: Final = (VALUE, ABSENT, VERSION)
_NEVER: Final = float("-inf")
_FOR_EVER: Final = float("inf")


class Near:
    """The entries that one open cache keeps in this process: at most ``limit`` bytes, those used most recently."""

    __slots__ = (
        "_entries",
        "_expected",
        "_limit",
        "_ping_at",
        "_pinged",
        "_policies",
        "_prefixes",
        "_trusted_until",
        "counters",
        "lag",
        "observers",
        "on",
        "ping",
        "tick"
    )  # fmt: skip

    def __init__(self, limit: int, lag: float) -> None:
        self.lag = lag
        self.counters = NearCounters()
        self.ping: Callable[[], None] = lambda: None
        """Sends a request whose only purpose is to be answered."""
        self.tick: Callable[[], None] = lambda: None
        """A callback that is called about twice in ``lag`` seconds while answers are given."""
        self.observers: Observers | None = None
        """The observers of the cache, or None if there are none."""
        self.on = False
        """True if the server reports changes now. Otherwise nothing is kept."""
        self._limit = limit
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """Entries, each with the time until which it is used."""
        self._expected: dict[bytes, Ticket] = {}
        """Placeholders: for each key being read, the ticket of its last read."""
        self._policies: list[tuple[bytes, float, float]] = []
        self._prefixes: tuple[bytes, ...] = ()
        self._trusted_until = _NEVER
        self._ping_at = _NEVER
        """The time at which to ping the server, so that answers continue."""
        self._pinged = False

    # Covered keys ---------------------------------------------------------------------------------

    def cover(self, prefix: bytes, ttl: float, absence_ttl: float) -> None:
        """Keeps the values of keys with this prefix, unless a longer prefix applies.

        Keeps none if both lifetimes are zero.

        ``ttl`` and ``absence_ttl``: the lifetimes of values and of absences in the store, in seconds.
        """
        self._policies = sorted(
            {*self._policies, (prefix, ttl * NEAR_TTL_FRACTION, absence_ttl * NEAR_TTL_FRACTION)}, key=_longest_first
        )
        self._prefixes = tuple([prefix for prefix, ttl, _ in self._policies if ttl])

    def cover_version(self, key: bytes) -> None:
        """Keeps a version, which lives until the server reports a change."""
        self.cover(key, _FOR_EVER, _FOR_EVER)

    @property
    def wanted(self) -> bool:
        """True if any key is covered."""
        return bool(self._prefixes)

    # Reading --------------------------------------------------------------------------------------

    def find(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None] | None:
        """Returns the values of these keys if all of them are kept and may be used, else None."""
        now = monotonic()
        if now >= self._ping_at and not self._is_trusted(now):
            return None
        entries = self._entries
        found: dict[bytes, bytes | None] = {}
        for key in keys:
            kept = entries.get(key)
            if kept is None or kept[1] <= now:
                return None
            found[key] = kept[0]
            entries.move_to_end(key)
        return found

    def find_two(self, first: bytes, second: bytes) -> tuple[bytes, bytes] | None:
        """Returns the values of two keys as ``find`` does, at less cost."""
        now = monotonic()
        if now >= self._ping_at and not self._is_trusted(now):
            return None
        entries = self._entries
        one, two = entries.get(first), entries.get(second)
        if one is None or two is None or one[1] <= now or two[1] <= now:
            return None
        entries.move_to_end(first)
        entries.move_to_end(second)
        return one[0], two[0]

    def holds(self, key: bytes) -> bool:
        """Returns True if ``find`` would find this key."""
        kept = self._entries.get(key)
        now = monotonic()
        return kept is not None and now < kept[1] and now < self._trusted_until

    def _is_trusted(self, now: float) -> bool:
        if now >= self._trusted_until:
            return False
        if not self._pinged:
            self._pinged = True
            self.ping()
            self.tick()
        return True

    def expect(self, keys: Iterable[bytes]) -> Ticket:
        """Announces that these keys are about to be read. Returns the ticket for ``keep``."""
        ticket = [key for key in keys if key.startswith(self._prefixes)]
        self._expected.update(dict.fromkeys(ticket, ticket))
        return ticket

    def keep(self, ticket: Ticket, found: Mapping[bytes, bytes | None]) -> None:
        """Keeps the values that were read. Skips keys that were dropped or announced again since ``expect``."""
        for key in ticket:
            if self._expected.get(key) is ticket:
                del self._expected[key]
                value = found.get(key)
                if value is not None and value[:1] in _STORABLE_STATES and self.on:
                    self._put(key, value)
        while self.counters.bytes > self._limit:
            self._remove(next(iter(self._entries)))
            self.counters.evicted += 1
            self._tell("evicted", 1)

    def _put(self, key: bytes, value: bytes) -> None:
        self._remove(key)
        ttl = next(self._ttl(policy, value) for policy in self._policies if key.startswith(policy[0]))
        if ttl:
            self._entries[key] = (value, monotonic() + ttl)
            self.counters.bytes += len(key) + len(value) + OVERHEAD

    @staticmethod
    def _ttl(policy: tuple[bytes, float, float], value: bytes) -> float:
        return policy[2] if value[:1] == ABSENT else policy[1]

    def _remove(self, key: bytes) -> bool:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self.counters.bytes -= len(key) + len(kept[0]) + OVERHEAD
        return kept is not None

    # Dropping -------------------------------------------------------------------------------------

    def drop(self, keys: Iterable[bytes]) -> int:
        """Drops keys and their placeholders. Returns how many of the keys were kept."""
        count = 0
        for key in keys:
            self._expected.pop(key, None)
            count += self._remove(key)
        return count

    def drop_all(self) -> None:
        """Drops all keys and all placeholders."""
        self.counters.dropped += bool(self._entries)
        if self._entries:
            self._tell("dropped", len(self._entries))
        self.counters.bytes = 0
        self._entries.clear()
        self._expected.clear()

    # The connection -------------------------------------------------------------------------------

    def begin(self, sent: float, ping: Callable[[], None]) -> None:
        """Records that the server reports changes on a new connection, as requested at ``sent`` (monotonic)."""
        self.drop_all()
        self.on = True
        self.ping = ping
        self.answered(sent)

    def answered(self, sent: float) -> None:
        """Records the answer to a request that was sent at ``sent`` (monotonic).

        All invalidations that the server sent before that answer have been reported.
        """
        self._trusted_until = sent + self.lag
        self._ping_at = sent + self.lag / 2
        self._pinged = False

    def invalidate(self, keys: Iterable[bytes] | None) -> None:
        """Drops the keys that the server reports as changed; None means all keys."""
        if keys is None:
            self.drop_all()
        else:
            count = self.drop(keys)
            self.counters.invalidated += count
            if count:
                self._tell("invalidated", count)

    def refused(self, reason: object) -> None:
        """Records that the server refused to report changes on a new connection. Logs the first refusal."""
        if not self.counters.refused:
            logger.warning(
                "aiomodelcache: nothing is kept near, because the server does not allow HELLO 3 and CLIENT TRACKING "
                "(since Redis 6.2.7; permissions +hello and +client|tracking): %s",
                reason,
            )
        self.counters.refused += 1
        self._tell("refused", 0)

    def _tell(self, kind: Literal["invalidated", "dropped", "evicted", "refused"], keys: int) -> None:
        if self.observers is not None:
            self.observers.note(NearChange(kind=kind, keys=keys))

    def lost(self) -> None:
        """Records that changes are no longer reported, and drops everything."""
        self.on = False
        self._trusted_until = self._ping_at = _NEVER
        self.drop_all()


def _longest_first(policy: tuple[bytes, float, float]) -> int:
    return -len(policy[0])
