"""The parts that ``register_model_cache`` of all frameworks share: the store's type, and making the cache.

Also checks the argument of parts that take a cache. And imports the frameworks, which are optional: type checkers and
tests do without those that are missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from aiomodelcache.backends.protocol import Backend
from aiomodelcache.client import ModelCache
from aiomodelcache.config import NotFound, Settings
from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheConfigurationError

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


def check_cache(name: str, cache: object) -> None:
    """Raises ``CacheConfigurationError``, which begins with the class ``name``, for anything but a ``ModelCache``."""
    if not isinstance(cache, ModelCache):
        raise CacheConfigurationError(f"{name}: cache is {described(cache)}: it must be a ModelCache.")


def required(module: str, extra: str, name: str | None = None) -> Any:
    """Returns a module of an optional library. Raises ``ImportError``, which names the extra to install.

    ``name``: the module of this package that needs it, if its name is not that of the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        needed = f"aiomodelcache.contrib.{name or extra} needs {module.partition('.')[0]}"
        raise ImportError(f"{needed}: pip install 'aiomodelcache[{extra}]'.") from error
