"""Snapshots: answers of several lookups that were all in the database at one moment.

A lookup's answer is unchanged for as long as the entries that answered hold the same tokens. So if all tokens are the
same after the last answer, all answers were true at that moment. Otherwise the lookups are made again. If writers leave
no such moment, a transaction gives one. Of relayed tables only a transaction can.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import CacheError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.transactions import snapshot_transaction
from aiomodelcache.scopes.tracking import Tracker, TrackingBlock, current_tracker

T = TypeVar("T")

ATTEMPTS: Final = 3
"""Number of times that the lookups are made before a transaction answers."""


async def at_one_moment(cache: OpenCache, look_up: Callable[[], Awaitable[T]]) -> T:
    """Awaits lookups until all answers are of one moment, at last in a transaction on their connection.

    Raises ``CacheError`` if a transaction is needed and the lookups are on several connections.
    """
    caller, tracker = current_tracker(), cache.derivations.tracker()
    if caller is not None:
        caller.unfinished += 1  # for good, if the caller is cancelled
    for _ in range(ATTEMPTS if cache.guarded.healthy else 0):
        tracker = cache.derivations.tracker()
        known = frozenset(caller.versions if caller is not None else ())
        with TrackingBlock(tracker):
            answer = await look_up()
        if cache.reader.relayed is not None and cache.reader.relayed.covers({*tracker.dependencies, *tracker.used}):
            break  # no token tells of another program's write before its relay does
        if await cache.derivations.is_unchanged(tracker):
            if caller is not None:
                caller.use(tracker.used, known)
                caller.needed |= tracker.needed
                caller.add_all(tracker.dependencies)
                caller.unfinished -= 1
            return answer
    if caller is not None:
        caller.refuse("a snapshot was read in a transaction")
    async with snapshot_transaction(_only_connection(cache, tracker)):
        return await look_up()


def _only_connection(cache: OpenCache, tracker: Tracker) -> BaseDBAsyncClient:
    """Returns the connection of all rows that were read, as far as a tracker has recorded them."""
    read = {
        entries.schema.connection: entries.schema.client
        for entries in cache.models.values()
        if not tracker.dependencies.keys().isdisjoint(entries.rows.partitions.epochs)
    }
    clients = read or {schema.connection: schema.client for schema in cache.connections}
    if len(clients) > 1:
        raise CacheError(
            f"No moment was found at which all rows of this snapshot were together in the databases {sorted(clients)}, "
            "because they are written too often or the store is away: try again, or ask for those of one database."
        )
    [client] = clients.values()
    return client
