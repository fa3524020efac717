"""``LocalCacheMiddleware``: a ``local_cache()`` for each HTTP request of an ASGI application.

Knows only the ASGI protocol, so it works with any framework.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiomodelcache.scopes.request import current_scope, local_cache

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class LocalCacheMiddleware:
    """Opens a ``local_cache()`` for each HTTP request, so that repeated lookups return the same object without I/O.

    >>> from aiomodelcache.contrib.asgi import LocalCacheMiddleware
    >>> app = Starlette(routes=routes, middleware=[Middleware(LocalCacheMiddleware)])
    >>> app = LocalCacheMiddleware(app)    # any ASGI application

    The scope ends when the response starts, or with an exception. So a stream (server-sent events) and a background
    task of Starlette read current rows, also in tasks that the endpoint started earlier. A WebSocket has no scope.
    Use ``async with local_cache()`` around each message of a stream or a WebSocket, and each attempt of a long poll.
    """

    __slots__ = ("_app",)

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with local_cache():
            local = current_scope()

            async def send_outside(message: Message) -> None:
                if message["type"] == "http.response.start" and local is not None:
                    local.end()
                await send(message)

            await self._app(scope, receive, send_outside)
