"""``register_model_cache`` for workers of arq."""

from collections.abc import Awaitable, Callable
from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import StoreOrURL
from aiomodelcache.scopes.request import local_cache

_SCOPE = "aiomodelcache_scope"
"""The key under which the context of a job holds its scope."""

Hook = Callable[[dict[Any, Any]], Awaitable[None]]


def register_model_cache(
    worker_settings: type, url: StoreOrURL, *, namespace: str = "", job_scope: bool = True, **settings: Unpack[Settings]
) -> ModelCache:
    """Opens a cache in each worker of a ``WorkerSettings`` class, and gives each job a ``local_cache()``.

    Call it below the class. The cache opens after the class's ``on_startup``, which opens Tortoise, and closes before
    its ``on_shutdown``. ``job_scope=False`` gives jobs no scope. Settings are those of ``CacheConfig``, durations in
    seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when a worker starts for a wrong declaration or if
    Tortoise is not open. Returns the cache, which is not open yet::

        cache = register_model_cache(WorkerSettings, "redis://localhost:6379/0", namespace="shop")
    """
    cache = ModelCache(url, namespace=namespace, **settings)

    async def open_cache(ctx: dict[Any, Any]) -> None:
        await cache.open()

    async def close_cache(ctx: dict[Any, Any]) -> None:
        await cache.close()

    _hook(worker_settings, "on_startup", open_cache, first=False)
    _hook(worker_settings, "on_shutdown", close_cache, first=True)
    if job_scope:
        _hook(worker_settings, "on_job_start", _begin_scope, first=True)
        _hook(worker_settings, "on_job_end", _end_scope, first=False)
    return cache


def _hook(worker_settings: type, name: str, own: Hook, *, first: bool) -> None:
    """Has a hook of the class call ``own``, before or after the function that it has."""
    theirs: Hook | None = getattr(worker_settings, name, None)

    async def both(ctx: dict[Any, Any]) -> None:
        if first:
            await own(ctx)
        if theirs is not None:
            await theirs(ctx)
        if not first:
            await own(ctx)

    setattr(worker_settings, name, staticmethod(both))


async def _begin_scope(ctx: dict[Any, Any]) -> None:
    ctx[_SCOPE] = local_cache().__enter__()


async def _end_scope(ctx: dict[Any, Any]) -> None:
    scope = ctx.pop(_SCOPE, None)
    if scope is not None:
        scope.__exit__(None, None, None)
