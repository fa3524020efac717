"""What the caches did, counted: one ``Counters`` per cache class and one ``Stats`` per open cache."""

import logging
from dataclasses import dataclass, field
from typing import Final

logger: Final = logging.getLogger("aiomodelcache")


@dataclass(slots=True)
class Counters:
    """Counts of one cache class: a model's rows, or an index over them. All only grow."""

    hits: int = 0
    """Lookups answered by the cache, "no such row" included."""
    misses: int = 0
    """Lookups that needed the database."""
    fills: int = 0
    """Entries stored."""
    stale: int = 0
    """Answers that were known to be stale, and allowed to be by ``allowtime``."""
    refreshed: int = 0
    """Entries replaced in the background: stale ones, and values near the end of their life."""
    reset: int = 0
    """Lookups made again in the background right after a write, by ``InvalidationType.RESET``."""
    unrefreshed: int = 0
    """Background lookups that failed, or were not begun because too many were under way."""
    refused: int = 0
    """Entries not stored because a writer or another reader came in between, or the lease ran out."""
    repaired: int = 0
    """Index entries that led to a row which no longer matches, and were replaced."""
    unfillable: int = 0
    """Answers that cannot be stored: found by a loose comparison, partial, or not encodable."""
    undecodable: int = 0
    """Entries with bytes that this program cannot read: damaged, or not written by any cache."""
    mismatched: int = 0
    """Entries of another version of this program or its schema, or of another row than the key says."""
    warned: set[str] = field(default_factory=set[str], repr=False)
    """Kinds of trouble already logged for this class; each is logged once."""

    def warn_once(self, kind: str, message: str, *args: object) -> None:
        """Logs a warning, the first time that this kind of trouble is seen."""
        if kind not in self.warned:
            self.warned.add(kind)
            logger.warning(message, *args)


@dataclass(slots=True)
class NearCounters:
    """What was kept in this process. All but ``bytes`` only grow."""

    hits: int = 0
    """Rounds of reading that needed no request, because all that they asked for was kept."""
    invalidated: int = 0
    """Entries dropped because the server told so."""
    dropped: int = 0
    """How often all was dropped: the connection was lost, the server emptied, or the cache failed."""
    evicted: int = 0
    """Entries dropped because there was no room for them."""
    refused: int = 0
    """Connections on which the server would not tell of changes, so that nothing is kept."""
    bytes: int = 0
    """What is kept now takes so much memory, about."""


@dataclass(slots=True)
class Stats:
    """Counts of one open cache."""

    round_trips: int = 0
    """Requests sent to the cache server, by readers and writers."""
    statements: int = 0
    """SQL statements sent by readers."""
    backend_errors: int = 0
    """Round trips that failed; what they were for was done without the cache."""
    bypassed: int = 0
    """Rounds of reading that went straight to the database because the server was failing."""
    undelivered: int = 0
    """Invalidations that could not be sent at once and were kept for later."""
    unknown_outcomes: int = 0
    """Writes of which it is not known whether they were committed; their intents expire."""
    near: NearCounters = field(default_factory=NearCounters)
    """What is kept in this process."""
    by_cache: dict[str, Counters] = field(default_factory=dict[str, Counters])

    def of(self, name: str) -> Counters:
        """The counters of a cache class, created on first use."""
        return self.by_cache.setdefault(name, Counters())
