"""Transactions: the intents of all writes inside are marked before COMMIT and cleared after it.

Tortoise has no hook for this, but its context manager calls ``commit`` and ``rollback`` on the client
instance, so these two attributes are wrapped on that one instance, once. No class is changed.
"""

import sqlite3
from collections.abc import Collection
from typing import Any, Final

from tortoise.backends.base.client import TransactionalDBClient

from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.outcomes import was_refused

_ATTRIBUTE: Final = "_aiomodelcache_intents"

Intents = dict[OpenCache, Intent]
"""One write, or one transaction, as each open cache is told of it."""


def transaction_intent(client: TransactionalDBClient, cache: OpenCache) -> Intent:
    """Returns the intent that gathers what this transaction writes, for one open cache."""
    intents: Intents | None = client.__dict__.get(_ATTRIBUTE)
    if intents is None:
        intents = {}
        setattr(client, _ATTRIBUTE, intents)
        _wrap(client, intents)
    if cache not in intents:
        intents[cache] = cache.writer.new_transaction_intent()
    return intents[cache]


def pending_keys(client: TransactionalDBClient, cache: OpenCache) -> Collection[bytes]:
    """The keys that this transaction has touched so far."""
    intents: Intents = client.__dict__.get(_ATTRIBUTE, {})
    return intents[cache].clears.keys() if cache in intents else ()


def _wrap(client: Any, intents: Intents) -> None:
    commit, rollback = client.commit, client.rollback

    async def commit_and_clear() -> None:
        try:
            await _mark(intents)
        except BaseException:
            # Refused, or cancelled: nothing was committed yet. SQLite would otherwise commit the open
            # transaction at the next BEGIN.
            await rollback_and_clear()
            raise
        try:
            await commit()
        except sqlite3.Error:
            # The transaction is still open. The next BEGIN would commit it, and until then every reader is in it.
            await rollback_and_clear()
            raise
        except BaseException as error:
            if was_refused(error):
                await finish_intents(intents, committed=False)
            else:
                abandon(intents)
            raise
        await finish_intents(intents, committed=True)

    async def rollback_and_clear() -> None:
        try:
            await rollback()
        finally:
            await finish_intents(intents, committed=False)

    client.commit = commit_and_clear
    client.rollback = rollback_and_clear


async def _mark(intents: Intents) -> None:
    for cache, intent in list(intents.items()):  # a child task may write while we wait
        await cache.writer.mark(intent)


async def finish_intents(intents: Intents, *, committed: bool) -> None:
    """Withdraws what each cache was told. Goes on to the end also if the caller is cancelled meanwhile."""
    started = [cache.writer.finish(intent, committed=committed) for cache, intent in intents.items()]
    intents.clear()
    for ending in started:
        if ending is not None:
            await ending


def abandon(intents: Intents) -> None:
    """Leaves what each cache was told to expire: it is not known how the write ended."""
    for cache, intent in intents.items():
        cache.writer.abandon(intent)
    intents.clear()
