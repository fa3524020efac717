"""Background refresh of entries that are still used as answers.

An entry that was an answer, but is a stale copy or about to expire, is filled again in the background. It is not leased
for that, so it continues to answer lookups. The fill replaces only the entry that was read before the SQL. If a writer
or another reader has replaced that entry in the meantime, the fill is refused. If the new content equals the old, the
entry keeps its token: no writer has marked it, and what depends on it stays valid. One reader is elected by a lease on
a key beside the entry. If that reader dies, the lease expires. The module of each kind of entry loads the new content.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiomodelcache.encoding.layout import LEASE, PREFIX_SIZE, STALE, with_kept_token
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import AcquireLeases, Attempt, LeaseResult, Plan, PlannedFill, Spawn, StoreFills

ELECTION_SUFFIX: Final = b":!"
"""The suffix that makes an entry's key the key of its election lease. No value's encoding begins like this."""


class Refreshable(Protocol):
    """A set of entries that can be refreshed: rows, an index, a result."""

    counters: Counters
    lifetimes: Lifetimes


Reload = Callable[[LeaseResult, Attempt], Plan[list[PlannedFill]]]
"""Loads the new content of an entry, given the election's lease and the attempt at the entry. Returns the fills."""


def refresh_request(
    entry_set: Refreshable,
    key: bytes,
    entry: bytes,
    versions: Sequence[bytes],
    reload: Reload,
    ttl: float | None = None,
) -> Spawn:
    """Returns the request to refresh an entry that was an answer.

    ``versions``: the version keys that ``reload`` reads from ``LeaseResult``. ``ttl``: maximum seconds that the refresh
    may take; None for the default, ``load_ttl``.
    """
    if entry[:1] == STALE:
        entry_set.counters.stale += 1
    return Spawn(
        key + entry[:PREFIX_SIZE],
        _refresh(
            entry_set, key, entry, AcquireLeases([(key + ELECTION_SUFFIX, b"")], list(versions), None, ttl), reload
        ),
        entry_set.counters,
    )


def _refresh(entry_set: Refreshable, key: bytes, entry: bytes, acquire: AcquireLeases, reload: Reload) -> Plan[bool]:
    acquired: LeaseResult = yield acquire
    election = (acquired.attempt, key + ELECTION_SUFFIX, b"", 1)
    if acquired.values[0] != LEASE + acquired.attempt.token:
        return False
    try:
        fills = yield from reload(acquired, acquired.attempt._replace(replaces=entry[:PREFIX_SIZE]))
    except Exception:
        yield StoreFills([election])
        raise
    fills = [
        (attempt, filled, with_kept_token(value, entry) if filled == key else value, ttl)
        for attempt, filled, value, ttl in fills
    ]
    stored = yield StoreFills([*fills, election])
    for (attempt, _, value, _), accepted in zip(fills, stored, strict=False):
        entry_set.counters.refreshed += bool(accepted and value and attempt.replaces)
        entry_set.counters.refused += bool(value and not accepted)
    return True
