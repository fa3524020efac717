"""The tables whose writes by other programs relays announce, and how long each relay is known to live.

No I/O. A relay claims that everything committed before a moment is invalidated, and the claim ends ``relay_lag`` after
that moment, by the store's clock. This process asks for the remaining life of the claims now and then, and counts it
down by its own clock, from before it asked.

**Answers.** What the store has executed while a claim lived is at most ``relay_lag`` old. So the countdown is looked at
when the reply is there, as the request may have been delayed. It must be the countdown that was known when the request
was sent. A relay that comes back may have invalidated what a delayed reply still holds. Near entries are dropped when a
relay comes back, for the same reason.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Final

from aiomodelcache.observe.stats import Stats, logger

RELAY_LOST: Final = "relay lost"
"""The reason of a lookup that reads the database because no relay lives."""
_NEVER: Final = float("-inf")


class Claims:
    """The time until which a relay of each connection is known to live, by this process's clock. Never changes."""

    __slots__ = ("by_connection", "until")

    def __init__(self, by_connection: Mapping[str, float]) -> None:
        self.by_connection = by_connection
        self.until = min(by_connection.values())
        """The time until which relays of all connections live."""


class Relayed:
    """The relayed tables of one open cache, by their connections."""

    def __init__(
        self,
        connections: Iterable[str],
        keys: Mapping[bytes, frozenset[str]],
        beginnings: Sequence[tuple[bytes, str]],
        stats: Stats,
        *,
        serves: bool = False,
        on_return: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.claims = Claims(dict.fromkeys(connections, _NEVER))
        """The latest claims. A request remembers those that were known before it was sent."""
        self.serves = serves
        """True if entries answer although no relay lives."""
        self.clock = clock
        self._keys = keys
        """The keys of epochs and versions of relayed tables, with the connections that they are about."""
        self._beginnings = beginnings
        """The beginnings of other keys that depend on relayed tables."""
        self._stats = stats
        self._on_return = on_return
        """A callback that drops the entries kept in this process."""
        self._lost: set[str] = set()
        """The connections whose relays are known to be lost, as far as it was logged."""

    def learn(self, asked: float, remaining: Mapping[str, int]) -> None:
        """Records the milliseconds that a relay of each connection lives, as answered to a request.

        ``asked``: the time right before the request was sent, by ``clock``.
        """
        now, before = self.clock(), self.claims.by_connection
        # A store counts in whole milliseconds, so a life may be shorter by one.
        until = {name: asked + (left - 1) / 1000 if left > 0 else _NEVER for name, left in remaining.items()}
        if any(before[name] <= now < until[name] for name in until):
            self._on_return()
        self.claims = Claims(until)

    def report(self) -> None:
        """Logs which relays were lost or came back since the last call."""
        lost = self.lost_connections()
        for name in sorted(lost - self._lost):
            effect = "their entries answer all the same" if self.serves else "their lookups read the database"
            text = "aiomodelcache: no relay lives for the models with relay = True on %s, so %s: %s"
            logger.warning(text, name, effect, "run `aiomodelcache relay` of this release")
        for name in sorted(self._lost - lost):
            logger.info("aiomodelcache: a relay lives for the models on %s again", name)
        self._lost = lost

    def lost_connections(self) -> set[str]:
        """Returns the connections of which no relay lives now."""
        now = self.clock()
        return {name for name, until in self.claims.by_connection.items() if until <= now}

    def covers(self, keys: Iterable[bytes]) -> bool:
        """Returns True if any of these keys depends on a relayed table."""
        return any(self._connections_of(key) for key in keys)

    def expired(self, claims: Claims) -> bool:
        """Returns True if a relay is lost, of whatever connection."""
        return self.clock() >= claims.until

    def is_lost(self, keys: Iterable[bytes], claims: Claims) -> bool:
        """Returns True if any of these keys depends on a relayed table of which no relay lives.

        ``claims``: those that were known before the request for the entries was sent.
        """
        now = self.clock()
        if now < claims.until:
            return False
        self.report()
        lost = {name for name, until in claims.by_connection.items() if until <= now}
        return not all(lost.isdisjoint(self._connections_of(key)) for key in keys)

    def refuses(self, keys: Iterable[bytes], claims: Claims) -> bool:
        """Returns True if entries under these keys must not answer, as no relay lives.

        With the setting "serve", counts the lookup instead.
        """
        lost = self.is_lost(keys, claims)
        self._stats.relay_served += lost and self.serves
        return lost and not self.serves

    def _connections_of(self, key: bytes) -> frozenset[str]:
        found = self._keys.get(key)
        if found is not None:
            return found
        return frozenset([name for beginning, name in self._beginnings if key.startswith(beginning)])


class UnwatchedRelayed(Relayed):
    """Relayed tables on a connection that no relay watches, so that their entries never answer."""

    def report(self) -> None:
        """Logs nothing."""
