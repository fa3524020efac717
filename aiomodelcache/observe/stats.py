"""Counts of cache operations: one ``Counters`` for each cache class and one ``Stats`` for each open cache."""

import logging
from dataclasses import dataclass, field
from typing import Final

logger: Final = logging.getLogger("aiomodelcache")


@dataclass(slots=True)
class Counters:
    """Counts of one cache class: a model's rows, an index over them, or computed results. All only grow."""

    hits: int = 0
    """Lookups answered by the cache, absences included."""
    misses: int = 0
    """Lookups that needed the database."""
    seconds: float = 0.0
    """Seconds that the SQL statements and computations of misses took, added up."""
    fills: int = 0
    """Entries stored."""
    stale: int = 0
    """Answers from stale copies, within the ``allowtime`` of their class."""
    stale_if_error: int = 0
    """Answers from last good values because computing a result failed, by ``stale_if_error``."""
    stale_if_slow: int = 0
    """Answers from last good values because computing a result took longer than its ``soft_timeout``."""
    refreshed: int = 0
    """Entries replaced in the background: stale copies, and values near the end of their life."""
    extended: int = 0
    """Entries whose life a hit extended, by ``sliding``."""
    reset: int = 0
    """Lookups repeated in the background right after a write, by ``InvalidationType.RESET``."""
    unrefreshed: int = 0
    """Background lookups that failed, or were skipped because too many were in flight."""
    refused: int = 0
    """Entries not stored because a writer or another reader intervened, or because the lease expired."""
    repaired: int = 0
    """Index entries and results that led to a row which is gone or no longer matches, and were replaced."""
    unfillable: int = 0
    """Answers that cannot be stored: found through a loose collation, partial, or not encodable."""
    written_through: int = 0
    """Rows that their writers have stored right after the COMMIT, by ``write_through``."""
    unknown_rows: int = 0
    """Saved rows that their writers did not store, because they do not know them as the database has them."""
    contended_rows: int = 0
    """Saved rows that their writers did not store, because another writer intervened or the store refused."""
    undecodable: int = 0
    """Entries with bytes that this program cannot read: damaged, or not written by any cache."""
    adopted: int = 0
    """Rows answered by entries of another release of this program, whose model has more columns."""
    mismatched: int = 0
    """Entries of another version of this program or its schema, or of a row that the key does not name."""
    name: str = field(default="", repr=False, compare=False)
    """The name of the class in ``Stats.by_cache``."""
    warned: set[str] = field(default_factory=set[str], repr=False)
    """The kinds of problems already logged for this class. Each kind is logged once."""

    def warn_once(self, kind: str, message: str, *args: object) -> None:
        """Logs a warning if this kind of problem was not logged for this class before."""
        if kind not in self.warned:
            self.warned.add(kind)
            logger.warning(message, *args)


@dataclass(slots=True)
class NearCounters:
    """Counts of the entries kept in this process. All but ``bytes`` only grow."""

    hits: int = 0
    """Rounds of reading that needed no request, because all their entries were kept in this process."""
    invalidated: int = 0
    """Entries removed because the server reported a change."""
    dropped: int = 0
    """Removals of all entries: the connection was lost, the server was emptied, or the cache failed."""
    evicted: int = 0
    """Entries removed to stay within ``near_memory_limit``."""
    refused: int = 0
    """Connections on which the server refused to report changes, so that no entries are kept."""
    bytes: int = 0
    """The approximate size of the entries that are kept now."""


@dataclass(slots=True)
class DecodedCounters:
    """Counts of the rows, and answers of queries, that are kept decoded. All but ``bytes`` only grow."""

    hits: int = 0
    """Those that were not decoded because the same bytes had been decoded before."""
    kept: int = 0
    """Those that were kept, when the same bytes were read for the second time."""
    evicted: int = 0
    """Those that were removed to stay within ``decoded_memory_limit``."""
    bytes: int = 0
    """The approximate size of those that are kept now."""


@dataclass(slots=True)
class VerifiedCounters:
    """Counts of the entries that ``ModelCache(verify=...)`` has compared with the database. All only grow."""

    compared: int = 0
    """Comparisons that ended. Most entries agree."""
    stale: int = 0
    """Entries that differed from the database with no writer at work, and were invalidated."""
    changed: int = 0
    """Entries that were written, replaced or evicted while they were compared: no fault."""
    skipped: int = 0
    """Chosen entries that were not compared: too many at once, or a key that does not tell its values."""
    failed: int = 0
    """Comparisons that ended because the database or the store failed."""


@dataclass(slots=True)
class Stats:
    """Counts of one open cache."""

    round_trips: int = 0
    """Requests sent to the cache server, by readers and writers."""
    statements: int = 0
    """SQL statements sent by readers."""
    backend_errors: int = 0
    """Round trips that failed. Their lookups and writes continued without the cache."""
    bypassed: int = 0
    """Rounds of reading that went straight to the database because the server was failing."""
    relay_bypassed: int = 0
    """Lookups of models with ``relay = True`` that read the database because no relay lived."""
    relay_served: int = 0
    """Lookups of models with ``relay = True`` that were answered although no relay lived: ``on_relay_loss="serve"``."""
    extended_leases: int = 0
    """Times that a lease was extended because its statement took longer than half of ``lease_ttl``."""
    queued_loads: int = 0
    """Loads of lookups that missed and waited, because as many statements were in flight as the database bears."""
    overloaded_loads: int = 0
    """Loads that waited for longer than ``load_wait``: see ``on_overload``."""
    load_limits: dict[str, int] = field(default_factory=dict[str, int])
    """The number of statements of lookups that may be in flight now, by the name of the database connection."""
    undelivered: int = 0
    """Invalidations that could not be sent at once and were kept for later."""
    unknown_outcomes: int = 0
    """Writes that may or may not have been committed. Their intents stay until they expire."""
    observer_errors: int = 0
    """Exceptions that observers raised. They do not reach the caller."""
    uninvalidated: int = 0
    """Writes in ``no_invalidation`` blocks, after which old entries may stay in the cache."""
    near: NearCounters = field(default_factory=NearCounters)
    """Counts of the entries kept in this process."""
    decoded: DecodedCounters = field(default_factory=DecodedCounters)
    """Counts of the rows, and answers of queries, that are kept decoded."""
    verified: VerifiedCounters = field(default_factory=VerifiedCounters)
    """Counts of the entries that were compared with the database, by the setting ``verify``."""
    by_cache: dict[str, Counters] = field(default_factory=dict[str, Counters])
    """The counters of each cache class, by its name."""

    def of(self, name: str) -> Counters:
        """Returns the counters of a cache class, created on first use."""
        return self.by_cache.setdefault(name, Counters(name=name))
