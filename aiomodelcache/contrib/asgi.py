"""``LocalCacheMiddleware``: a ``local_cache()`` for each HTTP request of an ASGI application.

Knows only the ASGI protocol, so it works with any framework.
"""

from aiomodelcache.contrib.asgi_types import Application, ASGIScope, Message, Receive, Send
from aiomodelcache.contrib.server_timing import begin_timing, current_timing, with_timing
from aiomodelcache.scopes.request import current_scope, local_cache


class LocalCacheMiddleware:
    """Opens a ``local_cache()`` for each HTTP request, so that repeated lookups return the same object without I/O.

    >>> from aiomodelcache.contrib.asgi import LocalCacheMiddleware
    >>> app = Starlette(routes=routes, middleware=[Middleware(LocalCacheMiddleware)])
    >>> app = LocalCacheMiddleware(app)    # any ASGI application

    The scope ends when the response starts, or with an exception. So a stream (server-sent events) and a background
    task of Starlette read current rows, also in tasks that the endpoint started earlier. A WebSocket has no scope.
    Use ``async with local_cache()`` around each message of a stream or a WebSocket, and each attempt of a long poll.

    ``server_timing=True`` adds the response header ``Server-Timing``, which the developer tools of browsers show. It
    has the hits and misses, round trips and SQL statements of the request until the response starts, with their
    milliseconds. It tells every client what was cached, so enable it where all clients may know. A hit then takes up to
    twice the processor time. ``request_scope=False`` leaves only this header.
    """

    __slots__ = ("_app", "_request_scope", "_server_timing")

    def __init__(self, app: Application, *, request_scope: bool = True, server_timing: bool = False) -> None:
        self._app = app
        self._request_scope = request_scope
        self._server_timing = server_timing

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._server_timing:
            await self._timed(scope, receive, send)
        else:
            await self._scoped(scope, receive, send)

    async def _scoped(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if not self._request_scope:
            await self._app(scope, receive, send)
            return
        async with local_cache():
            local = current_scope()

            async def send_outside(message: Message) -> None:
                if message["type"] == "http.response.start" and local is not None:
                    local.end()
                await send(message)

            await self._app(scope, receive, send_outside)

    async def _timed(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        timing, token = begin_timing()

        async def send_timing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": with_timing(message.get("headers", ()), timing)}
            await send(message)

        try:
            await self._scoped(scope, receive, send_timing)
        finally:
            current_timing.reset(token)
