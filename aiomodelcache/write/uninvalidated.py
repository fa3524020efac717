"""``no_invalidation``: a block whose writes invalidate nothing, counted and logged.

A context variable holds the block, so that tasks started inside belong to it.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from tortoise.models import Model

from aiomodelcache.observe.stats import logger
from aiomodelcache.open_cache import open_caches

_skipped: Final[ContextVar[Counter[str] | None]] = ContextVar("aiomodelcache_uninvalidated", default=None)
"""The numbers of writes in the open block, by model."""


@contextmanager
def no_invalidation() -> Generator[None]:
    """A block whose writes invalidate nothing: cached rows stay, though they are older than the writes.

    For writes that no cached value shows, like a counter that is never read from the cache. Also for bulk loads that
    are followed by ``clear()``. It breaks the promise that no lookup returns a row older than an acknowledged write. So
    each write is counted as ``uninvalidated``, and a warning is logged when the block ends. ``invalidate()`` and
    ``clear()`` work inside. It applies to this task and to tasks started inside the block.

    >>> with no_invalidation():
    ...     await Event.filter(id=7).update(position=F("position") + 1)
    """
    skipped: Counter[str] = Counter()
    before = _skipped.get()
    _skipped.set(skipped)
    try:
        yield
    finally:
        _skipped.set(before)
        if skipped:
            shown = ", ".join(f"{name} ({number})" for name, number in sorted(skipped.items()))
            logger.warning("aiomodelcache: writes inside no_invalidation() left old entries in the cache: %s", shown)


def skips_invalidation() -> bool:
    """Returns True inside a ``no_invalidation`` block."""
    return _skipped.get() is not None


def count_skipped(model: type[Model]) -> None:
    """Counts a write that invalidates nothing, in the block and in each open cache that it would invalidate in."""
    skipped = _skipped.get()
    affected = [cache for cache in open_caches.copy() if model in cache.written]
    if skipped is None or not affected:
        return
    skipped[model.__name__] += 1
    for stats in {id(cache.stats): cache.stats for cache in affected}.values():
        stats.uninvalidated += 1
