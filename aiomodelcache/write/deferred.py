"""``deferred_invalidation``: a block whose writes stay marked until its end, and are cleared together there.

A write in the block is marked before its COMMIT like any other, so no lookup returns an older row meanwhile. Until the
block ends, lookups of the rows query the database and store nothing. A context variable holds the block.
"""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import OpenCache


class Deferral:
    """The intents that a block has collected, until it ends."""

    def __init__(self) -> None:
        self.over = False
        self._intents: list[tuple[OpenCache, Intent]] = []

    def keep(self, cache: OpenCache, intent: Intent) -> bool:
        """Keeps the intent of a committed write. Returns False if that is not safe, because a key is not marked.

        That is so if the store could not be reached, and for rows that were invalidated by hand.
        """
        if not intent.clears.keys() <= intent.marked:
            return False
        if intent.saves is not None:
            intent.saves.withdraw()  # others may write to the row until the end of the block
        intent.drop()  # from the requests' scopes, now and at the end
        self._intents.append((cache, intent))
        return True

    def finish(self) -> list[Awaitable[None]]:
        """Ends the block, and starts to clear everything. Returns what to wait for."""
        self.over = True
        started = [cache.writer.finish(intent, committed=True) for cache, intent in self._intents]
        return [each for each in started if each is not None]


_current: Final[ContextVar[Deferral | None]] = ContextVar("aiomodelcache_deferral", default=None)


def current_deferral() -> Deferral | None:
    """Returns the block around the caller, or None. A task that outlives its block is outside."""
    deferral = _current.get()
    return None if deferral is None or deferral.over else deferral


@asynccontextmanager
async def deferred_invalidation() -> AsyncGenerator[None]:
    """A block whose invalidations are completed together at its end, for many writes in a row.

    >>> async with deferred_invalidation():
    ...     for event in events:
    ...         await event.save()

    Each write is marked before its COMMIT, as always, and so waits for one request instead of two. Until the block
    ends, lookups of these rows and their lists query the database and store nothing. So a list is not rebuilt after
    each write. ``invalidate()`` and ``clear()`` take effect at once. It applies to this task and to tasks started
    inside the block. A block inside another one ends with that.
    """
    outer = current_deferral()
    if outer is not None:
        yield
        return
    deferral = Deferral()
    _current.set(deferral)
    try:
        yield
    finally:
        _current.set(None)
        for each in deferral.finish():  # cancelling the caller does not end them
            await each
