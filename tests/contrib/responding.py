"""Applications whose responses are cached, each in three ways."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from aiomodelcache.contrib.http import CachedResponseMiddleware, cached_response
from tests.support.models.models import User

KINDS = ("starlette", "fastapi", "middleware")
"""The ways to cache a response: ``cached_response`` for an endpoint of both frameworks, and the middleware."""
METHODS = ["GET", "HEAD", "POST"]


class Site:
    """An application with one endpoint for all paths, which reads a row through the cache.

    ``reply`` makes its responses, by default the name in the row. ``seen`` are the requests that the endpoint answered.
    """

    def __init__(self, kind: str, **settings: Any) -> None:
        self.seen: list[Request] = []
        self.reply: Callable[[Request, User], Response] = lambda request, user: PlainTextResponse(user.username)
        self.gate: asyncio.Event | None = None
        """An event that the endpoint waits for, after it was called."""
        self.app: Any
        if kind == "fastapi":
            self.app = FastAPI()
            endpoint = cached_response(**settings)(self._for_fastapi)
            self.app.api_route("/{path:path}", methods=METHODS)(endpoint)
        else:
            decorate = cached_response(**settings) if kind == "starlette" else lambda endpoint: endpoint
            middleware = [Middleware(CachedResponseMiddleware, **settings)] if kind == "middleware" else []
            routes = [Route("/{path:path}", decorate(self.endpoint), methods=METHODS)]
            self.app = Starlette(routes=routes, middleware=middleware)

    async def endpoint(self, request: Request) -> Response:
        self.seen.append(request)
        user = await User.cache.get(id=1)
        if self.gate is not None:
            await self.gate.wait()
        return self.reply(request, user)

    async def _for_fastapi(self, request: Request, path: str) -> Response:
        return await self.endpoint(request)

    def send(self, content: str = "", status: int = 200, **headers: str) -> None:
        """Has the endpoint send this from now on."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply = lambda request, user: PlainTextResponse(content or user.username, status, named)


class Watched:
    """An application that counts the requests without content that have arrived, and the clients that have left."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.arrived = self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.arrived += 1
        messages = iter([await receive()])
        leaving = asyncio.create_task(self._leave(receive))

        async def receive_next() -> Any:
            return next(messages, None) or await asyncio.shield(leaving)

        try:
            await self._app(scope, receive_next, send)
        finally:
            leaving.cancel()

    async def _leave(self, receive: Any) -> Any:
        message = await receive()
        self.left += 1
        return message


def status_of(response: httpx.Response) -> str:
    """Returns what the cache says that it did for a response."""
    return response.headers.get("cache-status", "").removeprefix("aiomodelcache; ")
