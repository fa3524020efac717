"""``register_model_cache`` for FastStream."""

from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import StoreOrURL, required
from aiomodelcache.scopes.request import local_cache


def register_model_cache(
    app: Any, url: StoreOrURL, *, namespace: str = "", message_scope: bool = True, **settings: Unpack[Settings]
) -> ModelCache:
    """Opens a cache when a ``FastStream`` application starts, and closes it after its brokers have stopped.

    Call it after the ``on_startup`` hook or the lifespan that opens Tortoise. The cache closes before every hook of
    ``after_shutdown``, where Tortoise may be closed. Messages have a ``local_cache()``, unless ``message_scope`` is
    False. Settings are those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when the application starts for a wrong declaration or
    if Tortoise is not open. Returns the cache, which is not open yet::

        cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = ModelCache(url, namespace=namespace, **settings)

    async def open_model_cache() -> None:
        await cache.open()

    async def close_model_cache() -> None:
        await cache.close()

    app.on_startup(open_model_cache)
    app.after_shutdown(close_model_cache)
    hooks = app._after_shutdown_calling  # there is no public way to come first
    hooks.insert(0, hooks.pop())
    if message_scope:
        base = required("faststream", "faststream").BaseMiddleware
        middleware = type("ModelCacheScope", (base,), {"consume_scope": _consume_scope})
        for broker in app.brokers:
            broker.insert_middleware(middleware)
    return cache


async def _consume_scope(middleware: object, call_next: Any, message: Any) -> Any:
    async with local_cache():
        return await call_next(message)
