"""Marks the intents of all writes in a transaction before its COMMIT, and clears them after it.

Tortoise has no hook for this, but its context manager calls ``commit`` and ``rollback`` of the client instance. So
these two methods are wrapped on that instance, once. No class is changed.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final

from tortoise.backends.base.client import TransactionalDBClient

from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.outcomes import may_survive_rollback, was_refused
from aiomodelcache.orm.transactions import settled
from aiomodelcache.write.deferred import current_deferral
from aiomodelcache.write.own_rows import read_own_rows

_ATTRIBUTE: Final = "_aiomodelcache_intents"

Intents = dict[OpenCache, Intent]
"""The intents of one write, or of one transaction, by open cache."""


def transaction_intent(client: TransactionalDBClient, cache: OpenCache) -> Intent:
    """Returns the intent that gathers the writes of this transaction, for one open cache."""
    intents: Intents | None = client.__dict__.get(_ATTRIBUTE)
    if intents is None:
        intents = {}
        setattr(client, _ATTRIBUTE, intents)
        _wrap(client, intents)
    if cache not in intents:
        intents[cache] = cache.writer.new_transaction_intent()
    return intents[cache]


class TransactionIntents(Intents):
    """The intents of one statement in a transaction. A cache that another thread opens in between gets one, too."""

    def __init__(self, client: TransactionalDBClient, caches: Iterable[OpenCache]) -> None:
        super().__init__({cache: transaction_intent(client, cache) for cache in caches})
        self._client = client

    def __missing__(self, cache: OpenCache) -> Intent:
        intent = self[cache] = transaction_intent(self._client, cache)
        return intent


def pending_keys(client: TransactionalDBClient, cache: OpenCache) -> Collection[bytes]:
    """Returns the keys that the writes of this transaction have affected so far."""
    intents: Intents = client.__dict__.get(_ATTRIBUTE, {})
    return intents[cache].clears.keys() if cache in intents else ()


def _wrap(client: Any, intents: Intents) -> None:
    commit, rollback = client.commit, client.rollback

    async def commit_and_clear() -> None:
        try:
            await _mark(intents)
        except BaseException:
            # Refused or cancelled: nothing is committed yet. SQLite would otherwise commit the open transaction at the
            # next BEGIN.
            await rollback_and_clear()
            raise
        await (settled(commit_until_clear()) if intents else commit())

    async def commit_until_clear() -> None:
        try:
            await read_own_rows(client, intents.values())
        except BaseException:
            await rollback_and_clear()
            raise
        try:
            await commit()
        except BaseException as error:
            if _leaves_open(error):
                # The next BEGIN would commit the transaction, and until then all readers would be in it.
                await rollback_and_clear()
            elif was_refused(error):
                await _finish_rolled_back(client, intents)
            else:
                abandon_intents(intents)
            raise
        await finish_intents(intents, committed=True)

    async def rollback_and_clear() -> None:
        try:
            await rollback()
        finally:
            await _finish_rolled_back(client, intents)

    client.commit = commit_and_clear
    client.rollback = rollback_and_clear


def _leaves_open(error: BaseException) -> bool:
    """Returns whether a COMMIT that raised ``error`` has left the transaction open, as SQLite does."""
    import sqlite3  # for programs that use SQLite only

    return isinstance(error, sqlite3.Error)


async def _mark(intents: Intents) -> None:
    for cache, intent in list(intents.items()):  # a child task may write, and add an intent, during the wait
        await cache.writer.mark(intent)


async def _finish_rolled_back(client: TransactionalDBClient, intents: Intents) -> None:
    """Withdraws the intents of a transaction that was rolled back, or clears its keys if writes may have survived."""
    may_survive = may_survive_rollback(client)
    for intent in intents.values():
        intent.saves = None
    if may_survive:
        for intent in intents.values():
            intent.discard_hints()
            intent.replaced.clear()
    await finish_intents(intents, committed=may_survive)


async def finish_intents(intents: Intents, *, committed: bool) -> None:
    """Clears the intents of each cache. If the caller is cancelled meanwhile, clearing goes on in the background.

    In a ``deferred_invalidation`` block, intents of committed writes are kept until its end.
    """
    deferral = current_deferral() if committed else None
    if deferral is not None:
        for cache in [cache for cache, intent in intents.items() if deferral.keep(cache, intent)]:
            del intents[cache]
    clears = [cache.writer.finish(intent, committed=committed) for cache, intent in intents.items()]
    intents.clear()
    for clear in clears:
        if clear is not None:
            await clear


def abandon_intents(intents: Intents) -> None:
    """Leaves the intents of each cache to expire, because the outcome of the write is unknown."""
    for cache, intent in intents.items():
        cache.writer.abandon(intent)
    intents.clear()
