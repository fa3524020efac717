"""Entries kept in this process, whose changes the server reports (``CLIENT TRACKING``).

No I/O and no event loop. Readers announce their reads and their results (``expect``, ``keep``). The connection of these
reads reports the server's messages (``invalidate``, ``answered``, ``lost``). Writers report their writes (``drop``),
and readers that they have an answer from elsewhere (``catch_up``). ``find`` answers lookups. Must not know what
entries mean, beyond their state.

**Maximum age of an answer.** Replies and invalidations arrive on one connection, in the order in which the server sent
them. So when a request is answered, every invalidation is known that the server sent before that request was made.
Answers are given until ``lag`` seconds after the sending of the last answered request, and no longer. Every answer
therefore includes all writes that were announced at least ``lag`` seconds before it, whatever the network, the server
and this process do. The usual delay is much shorter, one message.

**Order.** The database, or another connection, may have told a reader of a write whose invalidation is on its way. When
the reader has its answer, near entries answer nothing until a request is answered that was sent later (``require``). So
no later answer is older.

**Placeholders.** A value may be out of date when its reader gets it. An invalidation may follow the reply closely, or a
writer of this process may be faster on another connection. So a key is kept only if it was not dropped since its read
was announced. Dropping a key also removes its placeholder.

**Admission.** Entries are examined in a circle when there is no room. One that has answered since it was examined last
stays. Another one leaves if its key was used less often than that of the new entry, as far as ``FrequencySketch``
counts. Else the new entry is not kept. A key that is read once replaces no other. A hit only counts itself.

**Keys that are written all the time.** If a key is dropped several times in a row before it has answered, it is not
kept for a while (``UnusedDrops``).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Final, Literal

from aiomodelcache.backends.channels import Channel, TrackedSlot
from aiomodelcache.backends.covered import Coverage, MixedTicket, Ticket
from aiomodelcache.backends.frequency import FrequencySketch, UnusedDrops
from aiomodelcache.encoding.layout import ABSENT, VALUE, VERSION
from aiomodelcache.observe.events import NearChange
from aiomodelcache.observe.observers import Observers
from aiomodelcache.observe.stats import NearCounters, logger

OVERHEAD: Final = 320
"""Approximate bytes that an entry takes in addition to its key and its value."""
_SAMPLE: Final = 10
"""Number of counted uses for each entry, after which all counts are halved."""
_MAX_EXAMINED: Final = 32
"""Maximum number of used entries that are examined for one new entry. Beyond it, the new one is not kept."""
_BYTES_A_PLACE: Final = 32
"""Bytes of the limit for each place of the sketch, which takes one byte beside them. An entry takes ten times that."""
_MAX_USES: Final = 15
"""Maximum number of uses between two examinations that count."""
_STORABLE_STATES: Final = (VALUE, ABSENT, VERSION)
_NEVER: Final = float("-inf")


class _Kept:
    """The value of one key, the time until which it is used, its uses since it was examined, and its slot if any."""

    __slots__ = ("slot", "until", "used", "value")

    def __init__(self, value: bytes, until: float, used: int, slot: TrackedSlot | None) -> None:
        self.value = value
        self.until = until
        self.used = used
        self.slot = slot


class Near(Coverage):
    """The entries that one open cache keeps in this process: at most ``limit`` bytes, those used most often."""

    __slots__ = (
        "_entries", "_frequency", "_limit", "_ping_at", "_pinged", "_since", "_trusted_until", "_written", "channels",
        "counters", "expected", "expecting", "lag", "observers", "on", "ping", "splits", "tick", "tracked_slot",
    )  # fmt: skip

    def __init__(self, limit: int, lag: float) -> None:
        super().__init__()
        self.lag = lag
        self.counters = NearCounters()
        self.ping: Callable[[], None] = lambda: None
        """Sends a request whose only purpose is to be answered."""
        self.tick: Callable[[], None] = lambda: None
        """A callback that is called about twice in ``lag`` seconds while answers are given."""
        self.splits = 0
        """The number of reads that were split, as only some of their keys are expected. They are not of one moment."""
        self.observers: Observers | None = None
        """The observers of the cache, or None if there are none."""
        self.channels: list[Channel] = []
        """Those of several servers that report changes now."""
        self.tracked_slot: Callable[[bytes], TrackedSlot | None] | None = None
        """Returns the slot of a key among several servers, or None if its server reports nothing."""
        self.expecting = False
        """True if readers announce their reads, as a backend tracks them."""
        self.on = False
        """True if the server reports changes now. Otherwise nothing is kept."""
        self._limit = limit
        self._entries: OrderedDict[bytes, _Kept] = OrderedDict()
        """Entries, those first that are examined next."""
        self._frequency = FrequencySketch(limit // _BYTES_A_PLACE)
        self._written = UnusedDrops()
        self.expected: dict[bytes, Ticket] = {}
        """Placeholders: for each key being read, the ticket of its last read. A server need not track other keys."""
        self._since = _NEVER
        """Answers to requests that were sent earlier do not count."""
        self._trusted_until = _NEVER
        self._ping_at = _NEVER
        """The time at which to ping the server, so that answers continue."""
        self._pinged = False

    # Reading --------------------------------------------------------------------------------------

    def find(self, keys: Collection[bytes]) -> dict[bytes, bytes | None] | None:
        """Returns the values of these keys if all of them are kept and may be used, else None."""
        now = monotonic()
        if now >= self._ping_at and not self._is_trusted(now, keys):
            return None
        entries = self._entries
        found: dict[bytes, bytes | None] = {}
        for key in keys:
            kept = entries.get(key)
            if kept is None or kept.until <= now:
                return None
            found[key] = kept.value
            kept.used += 1
        return found

    def find_two(self, first: bytes, second: bytes) -> tuple[bytes, bytes] | None:
        """Returns the values of two keys as ``find`` does, at less cost."""
        now = monotonic()
        if now >= self._ping_at and not self._is_trusted(now, (first, second)):
            return None
        entries = self._entries
        one, two = entries.get(first), entries.get(second)
        if one is None or two is None or one.until <= now or two.until <= now:
            return None
        one.used += 1
        two.used += 1
        return one.value, two.value

    def holds(self, key: bytes) -> bool:
        """Returns True if ``find`` would find this key."""
        kept = self._entries.get(key)
        now = monotonic()
        if kept is None or (kept.slot is not None and now >= kept.slot.channel.trusted_until):
            return False
        return now < kept.until and now < self._trusted_until

    def _is_trusted(self, now: float, keys: Iterable[bytes]) -> bool:
        if self.channels:
            if now >= (look_at := self._trusted_until - self.lag / 2):
                self.ping()
            self._ping_at = min([look_at, *[channel.check(now) for channel in self.channels]])
            slots = [kept.slot for key in keys if (kept := self._entries.get(key)) is not None]
            return now < self._trusted_until and all(slot and now < slot.channel.trusted_until for slot in slots)
        if now >= self._trusted_until:
            return False
        if not self._pinged:
            self._pinged = True
            self.ping()
            self.tick()
        return True

    def expect(self, keys: Collection[bytes]) -> Ticket:
        """Announces that these keys are about to be read. Returns the ticket for ``keep``.

        Among keys that are not covered, those that are kept are not announced, because the announced keys are read by
        themselves.
        """
        ticket = [key for key in keys if key.startswith(self._prefixes)]
        if ticket:
            if len(ticket) < len(keys):
                ticket = self._not_kept(ticket)
            self.expected.update(dict.fromkeys(ticket, ticket))
        return ticket

    def _not_kept(self, keys: Iterable[bytes]) -> Ticket:
        now, entries, written = monotonic(), self._entries, self._written
        kept = {key for key in keys if (entry := entries.get(key)) is not None and now < entry.until}
        ticket = MixedTicket([key for key in keys if key not in kept and not written.paused(key, now)])
        ticket.kept = kept
        return ticket

    def keep(self, ticket: Ticket, found: Mapping[bytes, bytes | None]) -> None:
        """Keeps the values that were read. Skips keys that were dropped or announced again since ``expect``."""
        expected, on = self.expected, self.on
        for key in ticket:
            if expected.get(key) is ticket:
                del expected[key]
                value = found.get(key)
                if on and value is not None and value[:1] in _STORABLE_STATES:
                    self._put(key, value)
        if type(ticket) is MixedTicket:
            entries = self._entries
            if any((kept := entries.get(key)) is None or kept.value != found.get(key) for key in ticket.kept):
                self.require(self.catch_up())

    def catch_up(self) -> float:
        """Records that a reader got a newer answer elsewhere, maybe. Returns the time for ``require``.

        Asks the server at once, so that its answer has come when the reader has its own.
        """
        now = monotonic()
        if self.on and self.tracked_slot is None:
            self.ping()
        for channel in self.channels:
            channel.ask()
        return now

    def require(self, since: float) -> None:
        """Answers nothing until a request is answered that was sent at ``since`` or later (monotonic)."""
        if self.channels:
            for channel in self.channels:
                channel.require(since)
            self._ping_at = _NEVER
        elif self.on and self._trusted_until < since + self.lag:
            self._since, self._trusted_until, self._ping_at = since, _NEVER, _NEVER

    def _put(self, key: bytes, value: bytes) -> None:
        ttl = next(ttls[value[:1] == ABSENT] for prefix, *ttls in self._policies if key.startswith(prefix))
        now = monotonic()
        if not ttl or self._written.paused(key, now):
            self._remove(key)
            return
        former, used = self._entries.get(key), 0
        if former is not None:
            used = former.used
            self._remove(key)
        slot = None
        if self.tracked_slot is not None:
            slot = self.tracked_slot(key)
            if slot is None:
                return
            slot.keys.add(key)
            self._ping_at = min(self._ping_at, slot.channel.ping_at)
        self._entries[key] = _Kept(value, now + ttl, used, slot)
        self.counters.bytes += len(key) + len(value) + OVERHEAD
        if self.counters.bytes * 2 > self._limit:  # else there is room for all
            self._frequency.add(key)
            self._make_room(key)

    def _make_room(self, new: bytes) -> None:
        """Removes entries until the others fit: those that were used less often than ``new``, or that one itself."""
        frequency, entries, examined = self._frequency, self._entries, 0
        while self.counters.bytes > self._limit:
            key, kept = next(iter(entries.items()))
            if kept.used and key != new and examined < _MAX_EXAMINED:
                frequency.add(key, min(kept.used, _MAX_USES))
                kept.used = 0
                entries.move_to_end(key)
                examined += 1
                continue
            self._remove(new if kept.used or max(frequency.count(key), 1) >= frequency.count(new) else key)
            self.counters.evicted += 1
            self._notify("evicted", 1)
        if frequency.added > _SAMPLE * len(entries):
            frequency.halve()

    def _remove(self, key: bytes) -> bool:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self.counters.bytes -= len(key) + len(kept.value) + OVERHEAD
            if kept.slot is not None:
                kept.slot.keys.discard(key)
        return kept is not None

    # Dropping -------------------------------------------------------------------------------------

    def drop(self, keys: Iterable[bytes]) -> int:
        """Drops keys and their placeholders. Returns how many of the keys were kept."""
        count = 0
        for key in keys:
            self.expected.pop(key, None)
            kept = self._entries.get(key)
            if kept is not None:
                self._written.note(key, monotonic(), used=bool(kept.used))
                count += self._remove(key)
        return count

    def drop_all(self) -> None:
        """Drops all keys and all placeholders."""
        dropped, self._entries = len(self._entries), OrderedDict()  # at once, because there may be very many
        self.counters.bytes = 0
        for channel in self.channels:
            channel.slots.clear()
        self.drop_lost((), dropped)

    def drop_lost(self, keys: Iterable[bytes], dropped: int = 0) -> None:
        """Drops keys whose changes may not have been reported, beside those ``dropped``, and all placeholders."""
        self.expected.clear()
        count = dropped + sum(map(self._remove, keys))
        if count:
            self.counters.dropped += 1
            self._notify("dropped", count)

    def drop_beside(self, keys: Iterable[bytes]) -> None:
        """Drops all entries of those of several servers that hold these keys."""
        for slot in filter(None, map(self.tracked_slot or (lambda _: None), keys)):
            slot.channel.drop_all()

    # The connection -------------------------------------------------------------------------------

    def begin(self, sent: float, ping: Callable[[], None]) -> None:
        """Records that the server reports changes on a new connection, as requested at ``sent`` (monotonic)."""
        self.drop_all()
        self.on = True
        self.ping = ping
        self.answered(sent)

    def answered(self, sent: float) -> None:
        """Records the answer to a request that was sent at ``sent`` (monotonic).

        All invalidations that the server sent before that answer have been reported. Several servers have channels for
        that, and this is the answer to the question which of them has each key.
        """
        if sent >= self._since:
            self._trusted_until = sent + self.lag
            self._ping_at = _NEVER if self.tracked_slot else sent + self.lag / 2
            self._pinged = False

    def invalidate(self, keys: Iterable[bytes] | None) -> None:
        """Drops the keys that the server reports as changed; None means all keys."""
        if keys is None:
            self.drop_all()
        else:
            count = self.drop(keys)
            self.counters.invalidated += count
            if count:
                self._notify("invalidated", count)

    def refused(self, reason: object) -> None:
        """Records that the server refused to report changes on a new connection. Logs the first refusal."""
        if not self.counters.refused:
            logger.warning(
                "aiomodelcache: nothing is kept near, because the server does not allow HELLO 3 and CLIENT TRACKING "
                "(since Redis 6.2.7; permissions +hello and +client|tracking): %s",
                reason,
            )
        self.counters.refused += 1
        self._notify("refused", 0)

    def _notify(self, kind: Literal["invalidated", "dropped", "evicted", "refused"], keys: int) -> None:
        if self.observers is not None:
            self.observers.note(NearChange(kind=kind, keys=keys))

    def lost(self) -> None:
        """Records that changes are no longer reported, and drops everything."""
        self.on = False
        self._trusted_until = self._ping_at = _NEVER
        self.drop_all()
