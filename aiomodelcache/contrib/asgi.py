"""``LocalCacheMiddleware``: a ``local_cache()`` around each HTTP request of an ASGI application.

Knows only the ASGI protocol, so it works with any framework.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiomodelcache.scopes.request import local_cache

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class LocalCacheMiddleware:
    """Opens a ``local_cache()`` for each HTTP request, so that repeated lookups return the same object without I/O.

    >>> from aiomodelcache.contrib.asgi import LocalCacheMiddleware
    >>> app = Starlette(routes=routes, middleware=[Middleware(LocalCacheMiddleware)])
    >>> app = LocalCacheMiddleware(app)    # any ASGI application

    The scope lasts until the application has sent its answer, background tasks of Starlette included. A WebSocket has
    no scope, because it may stay open for hours and would not see the writes of others. Use
    ``async with local_cache()`` around the handling of each of its messages. Exceptions of the application are passed
    on.
    """

    __slots__ = ("_app",)

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with local_cache():
            await self._app(scope, receive, send)
