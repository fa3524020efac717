"""The parts that ``register_model_cache`` of all frameworks share: the store's type, and making the cache."""

from redis.asyncio import Redis, RedisCluster

from aiomodelcache.backends.protocol import Backend
from aiomodelcache.client import ModelCache
from aiomodelcache.config import NotFound, Settings

Store = str | Backend | Redis | RedisCluster
"""The first argument of ``ModelCache``: a URL, a client of redis-py, or a ``Backend``."""


def make_cache(store: Store, namespace: str, not_found: NotFound, settings: Settings) -> ModelCache:
    """Returns a closed cache whose ``get_or_404`` raises the framework's ``not_found``, unless the settings name one.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """
    merged: Settings = {"not_found": not_found, **settings}
    return ModelCache(store, namespace=namespace, **merged)
