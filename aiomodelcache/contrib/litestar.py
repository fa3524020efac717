"""``ModelCachePlugin`` for Litestar."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.contrib.registration import StoreOrURL, make_cache, required
from aiomodelcache.exceptions import NotFoundError


class ModelCachePlugin:
    """A Litestar plugin that opens a cache with the application.

    The cache opens after the ``lifespan`` managers and ``on_startup`` hooks of the application, so both may open
    Tortoise. It closes before any of them closes. Requests have a ``local_cache()`` until their response starts, unless
    ``request_scope`` is False. ``server_timing=True`` adds the response header ``Server-Timing``, as
    ``LocalCacheMiddleware`` says. ``get_or_404`` raises Litestar's ``NotFoundException``, unless ``not_found`` names
    another exception. Settings are those of ``CacheConfig``, durations in seconds.

    Raises ``CacheConfigurationError`` for a wrong setting, and when the application starts for a wrong declaration or
    if Tortoise is not open. Raises ``ImportError`` without Litestar. ``cache`` is the ``ModelCache``::

        plugin = ModelCachePlugin("redis://localhost:6379/0", namespace="shop")
        app = Litestar(route_handlers=[show], plugins=[plugin])
    """

    def __init__(
        self,
        url: StoreOrURL,
        *,
        namespace: str = "",
        request_scope: bool = True,
        server_timing: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        required("litestar", "litestar")
        self.cache: ModelCache = make_cache(url, namespace, not_found, settings)
        self._request_scope = request_scope
        self._server_timing = server_timing

    def on_app_init(self, app_config: Any) -> Any:
        """Adds the cache to an application that is being made. Litestar calls it."""
        app_config.lifespan.append(self._close_first)
        app_config.on_startup.append(self._open)
        if self._request_scope or self._server_timing:
            define: Any = required("litestar.middleware", "litestar").DefineMiddleware
            options = {"request_scope": self._request_scope, "server_timing": self._server_timing}
            app_config.middleware.insert(0, define(LocalCacheMiddleware, **options))
        return app_config

    async def _open(self, app: Any) -> None:
        await self.cache.open()

    @asynccontextmanager
    async def _close_first(self, app: Any) -> AsyncGenerator[None, None]:
        # Managers end in reverse order, and hooks of on_shutdown run after them.
        try:
            yield
        finally:
            await self.cache.close()


def not_found(error: NotFoundError) -> Exception:
    """Returns Litestar's ``NotFoundException``: the default of the setting ``not_found``."""
    found: Exception = required("litestar.exceptions", "litestar").NotFoundException(detail=str(error))
    return found
