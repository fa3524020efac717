"""An asyncio-native model cache for Tortoise-ORM.

One round trip answers everything awaited in a tick. No answer holds a row older than the last acknowledged write.
"""

import importlib
import typing

from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.client import ModelCache
from aiomodelcache.config import CacheConfig
from aiomodelcache.declare.cached import cached
from aiomodelcache.declare.classes import (
    InstanceCache,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
)
from aiomodelcache.declare.manager import ModelCacheManager
from aiomodelcache.declare.model import CachedModel
from aiomodelcache.declare.related import RelatedInstanceCache, RelatedQuerysetCache
from aiomodelcache.declare.values import ValueCache
from aiomodelcache.durations import (
    CACHE_TIME_3H,
    CACHE_TIME_5M,
    CACHE_TIME_5S,
    CACHE_TIME_6H,
    CACHE_TIME_10M,
    CACHE_TIME_12H,
    CACHE_TIME_15M,
    CACHE_TIME_15S,
    CACHE_TIME_30M,
    CACHE_TIME_30S,
    CACHE_TIME_DAY,
    CACHE_TIME_H,
    CACHE_TIME_M,
    CACHE_TIME_MONTH,
    CACHE_TIME_S,
    CACHE_TIME_WEEK,
    CACHE_TIME_YEAR,
    Duration,
)
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.entries.results import DontCache
from aiomodelcache.exceptions import (
    BackendError,
    CacheConfigurationError,
    CacheError,
    CacheNotOpen,
    CacheNotOpenWarning,
    CacheNotRegistered,
    CacheWriteError,
    DatabaseOverloaded,
    NotFoundError,
    ReadOnlyInstanceError,
    StaleInstanceError,
    TenantError,
)
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.batch import BatchCacheQuery
from aiomodelcache.query.dependencies import depends_on
from aiomodelcache.query.parts import Page
from aiomodelcache.scopes.bypass import writes_without_cache
from aiomodelcache.scopes.request import local_cache
from aiomodelcache.write.deferred import deferred_invalidation
from aiomodelcache.write.uninvalidated import no_invalidation

if typing.TYPE_CHECKING:
    from aiomodelcache.backends.redis.backend import RedisBackend
    from aiomodelcache.query.explain import EntryState, Explanation

__all__ = [
    "CACHE_TIME_3H",
    "CACHE_TIME_5M",
    "CACHE_TIME_5S",
    "CACHE_TIME_6H",
    "CACHE_TIME_10M",
    "CACHE_TIME_12H",
    "CACHE_TIME_15M",
    "CACHE_TIME_15S",
    "CACHE_TIME_30M",
    "CACHE_TIME_30S",
    "CACHE_TIME_DAY",
    "CACHE_TIME_H",
    "CACHE_TIME_M",
    "CACHE_TIME_MONTH",
    "CACHE_TIME_S",
    "CACHE_TIME_WEEK",
    "CACHE_TIME_YEAR",
    "Backend",
    "BackendError",
    "BatchCacheQuery",
    "CacheConfig",
    "CacheConfigurationError",
    "CacheError",
    "CacheNotOpen",
    "CacheNotOpenWarning",
    "CacheNotRegistered",
    "CacheQuery",
    "CacheWriteError",
    "CachedModel",
    "Codec",
    "DatabaseOverloaded",
    "DontCache",
    "Duration",
    "EntryState",
    "Explanation",
    "InstanceCache",
    "InvalidationType",
    "MemoryBackend",
    "ModelCache",
    "ModelCacheManager",
    "NotFoundError",
    "Page",
    "QuerysetCache",
    "QuerysetCountCache",
    "QuerysetExistsCache",
    "ReadOnlyInstanceError",
    "RedisBackend",
    "RelatedInstanceCache",
    "RelatedQuerysetCache",
    "ResultCache",
    "StaleInstanceError",
    "TenantError",
    "ValueCache",
    "cached",
    "deferred_invalidation",
    "depends_on",
    "local_cache",
    "no_invalidation",
    "writes_without_cache",
]

_LATER: typing.Final = {
    "EntryState": "query.explain",
    "Explanation": "query.explain",
    "RedisBackend": "backends.redis.backend",  # imports redis-py, which a store in memory does without
}
"""Names that are imported when they are asked for, because most programs start without them."""

if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = value
        return value
