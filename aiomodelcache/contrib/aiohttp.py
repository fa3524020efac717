"""``register_model_cache`` for aiohttp's server."""

from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import StoreOrURL, make_cache, required
from aiomodelcache.contrib.server_timing import begin_timing, current_timing, joined
from aiomodelcache.exceptions import NotFoundError
from aiomodelcache.scopes.request import current_scope, local_cache

_SCOPE = "aiomodelcache_scope"
"""The key under which a request holds its scope."""
_TIMING = "aiomodelcache_timing"
"""The key under which a request holds the counts of its lookups."""


def register_model_cache(
    app: Any,
    url: StoreOrURL,
    *,
    namespace: str = "",
    request_scope: bool = True,
    server_timing: bool = False,
    **settings: Unpack[Settings],
) -> ModelCache:
    """Opens a cache when an ``aiohttp.web.Application`` starts, and closes it when the application is cleaned up.

    Call it after Tortoise's ``register_tortoise``. The cache opens in ``on_startup``, since ``cleanup_ctx`` runs before
    Tortoise opens, and closes at the beginning of ``on_cleanup``. Requests have a ``local_cache()`` until their
    response is prepared, unless ``request_scope`` is False. ``server_timing=True`` adds the response header
    ``Server-Timing``, as ``contrib.asgi.LocalCacheMiddleware`` says. ``get_or_404`` raises ``HTTPNotFound``, unless
    ``not_found`` names another exception. Settings are those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when the application starts for a wrong declaration or
    if Tortoise is not open. Returns the cache, which is not open yet::

        register_tortoise(app, db_url="postgres://localhost/app", modules={"app": ["events"]})
        cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = make_cache(url, namespace, not_found, settings)

    async def start(app: Any) -> None:
        await cache.open()

    async def clean_up(app: Any) -> None:
        await cache.close()

    app.on_startup.append(start)
    app.on_cleanup.insert(0, clean_up)
    if request_scope:
        app.middlewares.append(_middleware())
        app.on_response_prepare.append(_end_scope)
    if server_timing:
        app.middlewares.append(_timing_middleware())
        app.on_response_prepare.append(_add_timing)
    return cache


def _middleware() -> Any:
    async def model_cache_scope(request: Any, handler: Any) -> Any:
        async with local_cache():
            request[_SCOPE] = current_scope()
            return await handler(request)

    return required("aiohttp.web", "aiohttp").middleware(model_cache_scope)


async def _end_scope(request: Any, response: object) -> None:
    """Ends the scope of a request whose response starts, so that streams and WebSockets read current rows."""
    scope = request.get(_SCOPE)
    if scope is not None:
        scope.end()


def _timing_middleware() -> Any:
    async def model_cache_timing(request: Any, handler: Any) -> Any:
        request[_TIMING], token = begin_timing()
        try:
            return await handler(request)
        finally:
            current_timing.reset(token)

    return required("aiohttp.web", "aiohttp").middleware(model_cache_timing)


async def _add_timing(request: Any, response: Any) -> None:
    """Adds the header to a response that starts."""
    timing = request.get(_TIMING)
    value = joined(response.headers.get("Server-Timing"), timing) if timing is not None else ""
    if value:
        response.headers["Server-Timing"] = value


def not_found(error: NotFoundError) -> Exception:
    """Returns aiohttp's ``HTTPNotFound``: the default of the setting ``not_found``."""
    found: Exception = required("aiohttp.web", "aiohttp").HTTPNotFound(text=str(error))
    return found
