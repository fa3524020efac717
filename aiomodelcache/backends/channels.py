"""The connections of several servers that report changes to one ``Near``, as the nodes of a Redis Cluster do.

Each server vouches for its own entries. One that is silent, or that does not answer for its keys, makes only these wait
for it. Must not know how keys are divided among servers: slots are numbers, which the backend gives to keys.

**Pings.** A server that keeps answering may have lost its keys to another one. So it is asked about a key: a refusal is
no answer, and the entries end with ``lag``.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

_NEVER: Final = float("-inf")
_FOR_EVER: Final = float("inf")


class Keeper(Protocol):
    """The part of ``Near`` that channels use."""

    lag: float
    on: bool
    channels: "list[Channel]"

    def drop_lost(self, keys: Iterable[bytes]) -> None:
        """Drops keys whose changes may not have been reported, and all placeholders."""

    def invalidate(self, keys: Iterable[bytes]) -> None:
        """Drops keys that a server reports as changed."""

    def refused(self, reason: object) -> None:
        """Records that a server refuses to report changes."""


class TrackedSlot:
    """The kept keys of one slot, and the channel that reports their changes."""

    __slots__ = ("channel", "keys")

    def __init__(self, channel: "Channel") -> None:
        self.channel = channel
        self.keys: set[bytes] = set()


class Channel:
    """One server's connection, and the time until which it vouches for the entries that were read on it."""

    __slots__ = ("_ping", "_pinged", "near", "on", "ping_at", "since", "slots", "trusted_until")

    def __init__(self, near: Keeper) -> None:
        self.on = False
        """True if the server reports changes now."""
        self.trusted_until = self.ping_at = self.since = _NEVER
        self.slots: dict[int, TrackedSlot] = {}
        """The kept keys by slot."""
        self.near = near
        self._ping: Callable[[bytes], None] = lambda _: None
        self._pinged = False

    def slot(self, slot: int) -> TrackedSlot | None:
        """Returns the kept keys of a slot, or None if the server does not report changes now."""
        return self.slots.setdefault(slot, TrackedSlot(self)) if self.on else None

    def check(self, now: float) -> float:
        """Pings the server if that is due, so that its entries go on to answer. Returns the time of the next check."""
        key = self._any_key()
        if key is None:
            return _FOR_EVER
        if self.ping_at <= now and not self._pinged:  # also after a time without lookups
            self._pinged = True
            self._ping(key)
        return self.ping_at

    def _any_key(self) -> bytes | None:
        return next((key for tracked in self.slots.values() for key in tracked.keys), None)

    def ask(self) -> None:
        """Pings the server, if any of its keys is kept."""
        if (key := self._any_key()) is not None:
            self._ping(key)

    def require(self, since: float) -> None:
        """See ``Near``."""
        if self.trusted_until < since + self.near.lag:
            self.since, self.trusted_until, self.ping_at = since, _NEVER, _NEVER

    def leave(self, slot: int) -> None:
        """Drops the entries of a slot that this server does not serve any more."""
        self.near.drop_lost(list(self.slots.pop(slot).keys))

    def drop_all(self) -> None:
        """Drops all entries that were read here."""
        slots, self.slots = self.slots, {}
        self.near.drop_lost([key for tracked in slots.values() for key in tracked.keys])

    # The connection -------------------------------------------------------------------------------

    def begin(self, sent: float, ping: Callable[[bytes], None]) -> None:
        """Records that the server reports changes on a new connection, as requested at ``sent`` (monotonic).

        ``ping`` asks the server about a key.
        """
        self._ping = ping
        self.answered(sent)
        self._use(on=True)

    def answered(self, sent: float) -> None:
        """See ``Near``."""
        if sent >= self.since:
            self.trusted_until = sent + self.near.lag
            self.ping_at = sent + self.near.lag / 2
            self._pinged = False

    def invalidate(self, keys: Iterable[bytes] | None) -> None:
        """See ``Near``. None means all keys of this server."""
        if keys is None:
            self.drop_all()
        else:
            self.near.invalidate(keys)

    def refused(self, reason: object) -> None:
        """See ``Near``."""
        self.near.refused(reason)

    def lost(self) -> None:
        """Records that changes are no longer reported here, and drops all entries that were read here."""
        self.trusted_until = self.ping_at = _NEVER
        self._use(on=False)

    def _use(self, *, on: bool) -> None:
        self.on = on
        others = [channel for channel in self.near.channels if channel is not self]
        self.near.channels = [*others, self] if on else others
        self.near.on = bool(self.near.channels)
        self.drop_all()
