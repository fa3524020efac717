"""The parts that ``register_model_cache`` of all frameworks share: the store's type, and making the cache.

Also imports the frameworks, which are optional: type checkers and tests do without those that are missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from aiomodelcache.backends.protocol import Backend
from aiomodelcache.client import ModelCache
from aiomodelcache.config import NotFound, Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

StoreOrURL: TypeAlias = "str | Backend | Redis | RedisCluster"
"""The first argument of ``ModelCache``: a URL, a client of redis-py, or a ``Backend``."""


def make_cache(store: StoreOrURL, namespace: str, not_found: NotFound, settings: Settings) -> ModelCache:
    """Returns a closed cache whose ``get_or_404`` raises the framework's ``not_found``, unless the settings name one.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """
    merged: Settings = {"not_found": not_found, **settings}
    return ModelCache(store, namespace=namespace, **merged)


def required(module: str, extra: str, name: str | None = None) -> Any:
    """Returns a module of an optional library. Raises ``ImportError``, which names the extra to install.

    ``name``: the module of this package that needs it, if its name is not that of the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        needed = f"aiomodelcache.contrib.{name or extra} needs {module.partition('.')[0]}"
        raise ImportError(f"{needed}: pip install 'aiomodelcache[{extra}]'.") from error
