"""Writes to cached models while no cache is open: a warning for each model, because readers are not told of them.

Must not know declarations: ``declare`` says which models are cached.
"""

import inspect
import warnings
from typing import Final
from weakref import WeakSet

from tortoise.models import Model

from aiomodelcache.exceptions import CacheNotOpenWarning
from aiomodelcache.open_cache import open_caches
from aiomodelcache.scopes.bypass import expects_no_cache
from aiomodelcache.write.uninvalidated import count_skipped

cached_models: Final[WeakSet[type[Model]]] = WeakSet()
"""All live models that are declared cached, whether or not Tortoise has loaded them."""
_warned: Final[WeakSet[type[Model]]] = WeakSet()


def warn_if_unopened(model: type[Model]) -> None:
    """Warns once of a write that no open cache captures, if the model is declared cached.

    Counts a write in a ``no_invalidation`` block.

    Raises ``CacheNotOpenWarning`` if a filter of ``warnings`` makes it an error: then each such write is refused.
    """
    count_skipped(model)
    if (
        any(not cache.loop.is_closed() for cache in open_caches.copy())
        or model not in cached_models
        or model in _warned
    ):
        return
    if not expects_no_cache():
        name = model.__name__
        warnings.warn(
            f"{name} is written while no ModelCache is open in this process, so other processes may read old rows from "
            "the cache: open one around the program (`async with ModelCache(url):`, after Tortoise.init). If the "
            "cache is empty, or cleared afterwards, write inside `with writes_without_cache():`.",
            CacheNotOpenWarning,
            stacklevel=_callers_level(),
        )
        _warned.add(model)


def _callers_level() -> int:
    """Returns the ``stacklevel`` of the line that wrote: the first one outside of this package and Tortoise."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("aiomodelcache.", "tortoise.")):
        level, frame = level + 1, frame.f_back
    return level
