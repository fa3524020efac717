"""``register_model_cache`` for Sanic."""

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
    """Opens a cache in each worker of a ``Sanic`` application before it serves, and closes it after it has served.

    Call it after Tortoise's ``register_tortoise``. Sanic runs the listeners of a stop in reverse order, so the cache
    closes before Tortoise. Requests have a ``local_cache()`` until their response starts, unless ``request_scope`` is
    False. A WebSocket has no scope. ``server_timing=True`` adds the response header ``Server-Timing``, as
    ``contrib.asgi.LocalCacheMiddleware`` says. ``get_or_404`` raises Sanic's ``NotFound``, unless ``not_found`` names
    another exception. Settings are those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when a worker starts for a wrong declaration or if
    Tortoise is not open. Returns the cache, which is not open yet::

        register_tortoise(app, db_url="postgres://localhost/app", modules={"app": ["events"]})
        cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = make_cache(url, namespace, not_found, settings)

    async def open_model_cache(app: Any) -> None:
        await cache.open()

    async def close_model_cache(app: Any) -> None:
        await cache.close()

    app.register_listener(open_model_cache, "before_server_start")
    app.register_listener(close_model_cache, "after_server_stop")
    if request_scope:
        app.register_middleware(_begin_scope, "request", priority=_FIRST)
        app.register_middleware(_end_scope, "response", priority=-_FIRST)

    if server_timing:
        app.register_middleware(_begin_timing, "request", priority=_FIRST)
        app.register_middleware(_end_timing, "response", priority=-_FIRST)
    return cache


_FIRST = 1_000
"""The priority of a middleware that runs before those of an application."""


def _is_websocket(request: Any) -> bool:
    """Returns True for a WebSocket. It stays open, and Sanic runs no middleware for a response of it."""
    return request.route is not None and request.route.extra.websocket


async def _begin_scope(request: Any) -> None:
    if _is_websocket(request):
        return
    request.ctx.model_cache_scope = scope = local_cache()
    scope.__enter__()


async def _end_scope(request: Any, response: object) -> None:
    """Ends the scope of a request, whose response has not started yet."""
    scope = getattr(request.ctx, "model_cache_scope", None)
    if scope is not None:
        del request.ctx.model_cache_scope  # the response of an exception handler runs the middleware again
        scope.__exit__(None, None, None)


async def _begin_timing(request: Any) -> None:
    if not _is_websocket(request):
        request.ctx.model_cache_timing = begin_timing()


async def _end_timing(request: Any, response: Any) -> None:
    """Adds the header to a response that has not started yet."""
    begun = getattr(request.ctx, "model_cache_timing", None)
    if begun is not None:
        del request.ctx.model_cache_timing
        timing, token = begun
        current_timing.reset(token)
        value = joined(response.headers.get("server-timing"), timing)
        if value:
            response.headers["server-timing"] = value


def not_found(error: NotFoundError) -> Exception:
    """Returns Sanic's ``NotFound``: the default of the setting ``not_found``."""
    found: Exception = required("sanic.exceptions", "sanic").NotFound(str(error))
    return found
