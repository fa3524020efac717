"""``register_model_cache`` for Starlette."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.contrib.registration import StoreOrURL, make_cache
from aiomodelcache.exceptions import NotFoundError

if TYPE_CHECKING:
    from starlette.applications import Starlette


def register_model_cache(
    app: "Starlette",
    url: StoreOrURL,
    *,
    namespace: str = "",
    request_scope: bool = True,
    server_timing: bool = False,
    **settings: Unpack[Settings],
) -> ModelCache:
    """Opens a cache when the application has started, and closes it before the application stops.

    The cache opens after the lifespan that the application has, so it may open Tortoise there, or with Tortoise's
    ``register_tortoise``, called before or after. Requests have a ``local_cache()``, unless ``request_scope`` is False.
    ``server_timing=True`` adds the response header ``Server-Timing``, as ``LocalCacheMiddleware`` says.
    ``get_or_404`` raises Starlette's ``HTTPException``, unless ``not_found`` names another one. Settings are those of
    ``CacheConfig``, durations in seconds.

    Call it before the application starts. Raises ``CacheConfigurationError`` for a wrong setting. Wrong declarations
    and a Tortoise that is not open raise it when the application starts. Returns the cache, which is not open yet.

    >>> from tortoise.contrib.starlette import register_tortoise
    >>> from aiomodelcache.contrib.starlette import register_model_cache
    >>> app = Starlette()
    >>> register_tortoise(app, db_url="postgres://localhost/app", modules={"app": ["events"]})
    >>> cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    cache = make_cache(url, namespace, not_found, settings)
    open_around(app, cache)
    if request_scope or server_timing:
        app.add_middleware(LocalCacheMiddleware, request_scope=request_scope, server_timing=server_timing)
    return cache


def open_around(app: "Starlette", cache: ModelCache) -> None:
    """Has the application open the cache after its present lifespan begins, and close it before that one ends."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any, None]:
        async with inner(app) as state, cache:
            yield state

    app.router.lifespan_context = lifespan


def not_found(error: NotFoundError) -> Exception:
    """Returns Starlette's ``HTTPException`` with the status 404: the default of the setting ``not_found``."""
    from starlette.exceptions import HTTPException

    return HTTPException(404, str(error))
