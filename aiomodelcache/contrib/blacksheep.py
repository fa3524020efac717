"""``register_model_cache`` for BlackSheep."""

from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import StoreOrURL, make_cache, required
from aiomodelcache.contrib.server_timing import begin_timing, current_timing, joined
from aiomodelcache.exceptions import NotFoundError
from aiomodelcache.scopes.request import local_cache


def register_model_cache(
    app: Any,
    url: StoreOrURL,
    *,
    namespace: str = "",
    request_scope: bool = True,
    server_timing: bool = False,
    **settings: Unpack[Settings],
) -> ModelCache:
    """Opens a cache when a BlackSheep ``Application`` starts, and closes it first when the application stops.

    Call it after Tortoise's ``register_tortoise``. BlackSheep runs ``on_stop`` handlers in their order too, so the
    cache's comes first. Requests have a ``local_cache()`` until their response starts, unless ``request_scope`` is
    False. ``server_timing=True`` adds the response header ``Server-Timing``, as ``contrib.asgi.LocalCacheMiddleware``
    says. ``get_or_404`` raises BlackSheep's ``NotFound``, unless ``not_found`` names another exception. Settings are
    those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when the application starts for a wrong declaration or
    if Tortoise is not open. Returns the cache, which is not open yet::

        register_tortoise(app, db_url="postgres://localhost/app", modules={"app": ["events"]})
        cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = make_cache(url, namespace, not_found, settings)

    async def open_model_cache(app: Any) -> None:
        await cache.open()

    async def close_model_cache(app: Any) -> None:
        await cache.close()

    app.on_start += open_model_cache
    app.on_stop += close_model_cache
    handlers = app.on_stop._handlers  # there is no public way to come first
    handlers.insert(0, handlers.pop())
    if request_scope:
        app.middlewares.insert(0, _scoped)
    if server_timing:
        app.middlewares.insert(0, _timed)
    return cache


async def _scoped(request: Any, handler: Any) -> Any:
    if hasattr(request, "accept"):  # a WebSocket, which stays open
        return await handler(request)
    async with local_cache():
        return await handler(request)


async def _timed(request: Any, handler: Any) -> Any:
    if hasattr(request, "accept"):
        return await handler(request)
    timing, token = begin_timing()
    try:
        response = await handler(request)
    finally:
        current_timing.reset(token)
    own = response.headers.get_first(b"server-timing")
    value = joined(own.decode("latin-1") if own is not None else None, timing)
    if value:
        response.headers.set(b"server-timing", value.encode("latin-1"))
    return response


def not_found(error: NotFoundError) -> Exception:
    """Returns BlackSheep's ``NotFound``: the default of the setting ``not_found``."""
    found: Exception = required("blacksheep.exceptions", "blacksheep").NotFound(str(error))
    return found
