"""``register_model_cache`` for Quart."""

from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.contrib.registration import StoreOrURL, make_cache, required
from aiomodelcache.exceptions import NotFoundError


def register_model_cache(
    app: Any,
    url: StoreOrURL,
    *,
    namespace: str = "",
    request_scope: bool = True,
    server_timing: bool = False,
    **settings: Unpack[Settings],
) -> ModelCache:
    """Opens a cache before a ``Quart`` application serves, and closes it first when serving ends.

    Call it after the ``before_serving`` function that opens Tortoise. Quart runs ``after_serving`` functions in their
    order too, so the cache's comes first. Requests have a ``local_cache()`` until their response starts, unless
    ``request_scope`` is False. ``server_timing=True`` adds the response header ``Server-Timing``, as
    ``LocalCacheMiddleware`` says. ``get_or_404`` raises Werkzeug's ``NotFound``, unless ``not_found`` names another
    exception. Settings are those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when serving begins for a wrong declaration or if
    Tortoise is not open. Returns the cache, which is not open yet::

        cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = make_cache(url, namespace, not_found, settings)

    async def open_model_cache() -> None:
        await cache.open()

    app.before_serving(open_model_cache)
    app.after_serving_funcs.insert(0, cache.close)
    if request_scope or server_timing:
        app.asgi_app = LocalCacheMiddleware(app.asgi_app, request_scope=request_scope, server_timing=server_timing)
    return cache


def not_found(error: NotFoundError) -> Exception:
    """Returns Werkzeug's ``NotFound``: the default of the setting ``not_found``."""
    found: Exception = required("werkzeug.exceptions", "quart").NotFound(str(error))
    return found
