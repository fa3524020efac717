"""``Costs``: middleware that reports the cost of a request."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiomodelcache.testing import count_ops


class Costs:
    """Adds the cost of a response to its headers, if the request has ``X-Count``.

    ``X-SQL`` is the number of statements, ``X-Cache`` the number of round trips. The counters cover the whole process,
    so counted requests run one after the other.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._counting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "X-Count" not in Headers(scope=scope):
            return await self._app(scope, receive, send)

        async def send_with_costs(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-SQL"], headers["X-Cache"] = str(len(ops.statements)), str(len(ops.operations))
            await send(message)

        async with self._counting:
            with count_ops() as ops:
                await self._app(scope, receive, send_with_costs)
