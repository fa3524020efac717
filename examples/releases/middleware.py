"""What surrounds each request."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiomodelcache.testing import count_ops


class Costs:
    """Tells who sends ``X-Count`` what the answer cost: ``X-SQL`` statements and ``X-Cache`` round trips.

    All of the process are counted, so requests that ask for it take turns.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "X-Count" not in Headers(scope=scope):
            return await self._app(scope, receive, send)

        async def send_with_costs(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-SQL"], headers["X-Cache"] = str(len(ops.statements)), str(len(ops.operations))
            await send(message)

        async with self._turns:
            with count_ops() as ops:
                await self._app(scope, receive, send_with_costs)
