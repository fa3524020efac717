"""Filling an entry again in the background, while it goes on answering.

An entry that was an answer, but is a stale copy or near its end, is filled again in the background. It is not
leased for that, so that it goes on answering: the fill replaces just the entry that was read before the SQL,
which no longer stands if a writer has come in between, or anybody else. One reader is elected, by a lease on
a key beside it; if that reader dies the lease ends by itself. What the entry is to hold is asked of its kind's
module.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiomodelcache.encoding.layout import LEASE, PREFIX_SIZE, STALE
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import AcquireLeases, Attempt, Filling, LeaseResult, Plan, Spawn, Store

ELECTION: Final = b":!"
"""What the key of such a lease has behind the entry's own. No value's encoding begins like this."""


class Renewable(Protocol):
    """What has entries to be filled again: rows, an index, a result."""

    counters: Counters
    lifetimes: Lifetimes


Renewing = Callable[[LeaseResult, Attempt], Plan[list[Filling]]]
"""Asks again for what an entry is to hold, with the election and the attempt at that entry: what to store."""


def renewed(
    entry_set: Renewable,
    key: bytes,
    entry: bytes,
    versions: Sequence[bytes],
    again: Renewing,
    ttl: float | None = None,
) -> Spawn:
    """The request to fill again an entry that was an answer. ``versions``: what ``again`` finds in ``LeaseResult``.

    ``ttl``: how long that may take, in seconds, if not as long as usual.
    """
    if entry[:1] == STALE:
        entry_set.counters.stale += 1
    return Spawn(
        key + entry[:PREFIX_SIZE],
        _renew(entry_set, key, entry, AcquireLeases([(key + ELECTION, b"")], list(versions), None, ttl), again),
        entry_set.counters,
    )


def _renew(entry_set: Renewable, key: bytes, entry: bytes, take: AcquireLeases, again: Renewing) -> Plan[bool]:
    taken: LeaseResult = yield take
    election = (taken.attempt, key + ELECTION, b"", 1)
    if taken.values[0] != LEASE + taken.attempt.token:
        return False
    try:
        fills = yield from again(taken, taken.attempt._replace(held=entry[:PREFIX_SIZE]))
    except Exception:
        yield Store([election])
        raise
    stored = yield Store([*fills, election])
    for (attempt, _, value, _), accepted in zip(fills, stored, strict=False):
        entry_set.counters.refreshed += bool(accepted and value and attempt.held)
        entry_set.counters.refused += bool(value and not accepted)
    return True
