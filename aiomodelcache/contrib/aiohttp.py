"""``register_model_cache`` for aiohttp's server."""

from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import Store, make_cache, required
from aiomodelcache.exceptions import NotFoundError
from aiomodelcache.scopes.request import current_scope, local_cache

_SCOPE = "aiomodelcache_scope"
"""The key under which a request holds its scope."""


def register_model_cache(
    app: Any, url: Store, *, namespace: str = "", request_scope: bool = True, **settings: Unpack[Settings]
) -> ModelCache:
    """Opens a cache when an ``aiohttp.web.Application`` starts, and closes it when the application is cleaned up.

    Call it after Tortoise's ``register_tortoise``. The cache opens in ``on_startup``, since ``cleanup_ctx`` runs before
    Tortoise opens, and closes at the beginning of ``on_cleanup``. Requests have a ``local_cache()`` until their
    response is prepared, unless ``request_scope`` is False. ``get_or_404`` raises ``HTTPNotFound``, unless
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


def not_found(error: NotFoundError) -> Exception:
    """Returns aiohttp's ``HTTPNotFound``: the default of the setting ``not_found``."""
    found: Exception = required("aiohttp.web", "aiohttp").HTTPNotFound(text=str(error))
    return found
