"""``Responses``: the library with each answer read from a whole cached response, by ASGI in the process of the reader.

A client keeps the last body of each URL. It sends the body's ETag with half of its requests, and takes a 304 for an
answer: the body that it has. Endpoints are cached by ``cached_response``, or by the middleware above all of them.
"""

import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aiomodelcache.config import CacheConfig
from aiomodelcache.contrib.http import CachedResponseMiddleware, cached_response
from aiomodelcache.contrib.responses import service
from soak.derived import (
    Computations,
    pair_by_lookups,
    pair_by_snapshot,
    pair_by_statements,
    row_by_lookup,
    row_by_statement,
    slug_by_lookup,
    slug_by_statement,
    team_by_lookup,
    team_by_statement,
)
from soak.subjects import SMALL_BATCHES, Library, Seen
from soak.world import World

OK: Final = 200
NOT_MODIFIED: Final = 304
CONDITIONAL: Final = 0.5
"""The share of requests that send the ETag of the body that the client has."""


class Client:
    """A client of an ASGI application, which keeps the last body of each URL."""

    def __init__(self, application: Any, chance: random.Random) -> None:
        self._application = application
        self._chance = chance
        self._kept: dict[str, tuple[bytes, Any]] = {}
        """The ETag and the content of the last whole response, by path."""
        self.not_modified = 0
        """Number of 304s."""

    async def get(self, path: str) -> Any:
        """Returns the content of a URL: of a response, or what the client has, if the server says that it is current.

        Raises ``RuntimeError`` for any other status.
        """
        kept = self._kept.get(path) if self._chance.random() < CONDITIONAL else None
        headers = [(b"host", b"soak")] + ([] if kept is None else [(b"if-none-match", kept[0])])
        status, fields, body = await self._request(path, headers)
        if status == NOT_MODIFIED and kept is not None:
            self.not_modified += 1
            return kept[1]
        if status != OK:
            raise RuntimeError(f"{path} answered {status}")
        content = json.loads(body)
        self._kept[path] = fields[b"etag"], content
        return content

    async def _request(self, path: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes], bytes]:
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        raw = path.encode()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": raw,
        }
        scope |= {
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "server": ("soak", 80),
            "client": ("soak", 1),
        }
        await self._application(scope, receive, send)
        start, *parts = messages
        return start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in parts)


class Responses(Library):
    """aiomodelcache, with each answer read from a cached response."""

    def __init__(
        self, url: str, world: World, chance: random.Random, config: CacheConfig, allowtime: float = 0
    ) -> None:
        super().__init__(url, world, chance, config, allowtime)
        self.batches = SMALL_BATCHES
        self._computations = Computations()
        self._clients = [Client(application, chance) for application in self._applications()]

    def _applications(self) -> list[Any]:
        """Returns applications with the same endpoints: cached one by one, and below the middleware."""
        decorated = [Route(path, cached_response()(endpoint)) for path, endpoint in self._endpoints()]
        plain = [Route(path, endpoint) for path, endpoint in self._endpoints()]
        return [Starlette(routes=decorated), Starlette(routes=plain, middleware=[Middleware(CachedResponseMiddleware)])]

    def _endpoints(self) -> list[tuple[str, Callable[[Request], Awaitable[JSONResponse]]]]:
        by_key = row_by_lookup, row_by_statement, slug_by_lookup, slug_by_statement, team_by_lookup, team_by_statement
        by_two = map(self._computations.numbered, (pair_by_snapshot, pair_by_lookups, pair_by_statements))
        return [
            *[(f"/{function.__name__}/{{one:int}}", _endpoint(function)) for function in by_key],
            *[(f"/{function.__name__}/{{one:int}}/{{two:int}}", _endpoint(function)) for function in by_two],
        ]

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all("row", pks)]

    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._all("slug", slugs)]

    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        return [[(row[0], row[1]) for row in rows] for rows in await self._all("team", teams)]

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        """Returns two rows of one response. A stored one is of one moment, and so is one that the client had."""
        way, start = self.chance.choice(["snapshot", "lookups", "statements"]), time.monotonic_ns()
        first, second = pks
        number, answer = await self._get(f"/pair_by_{way}/{first}/{second}")
        together = way == "snapshot" or self._computations.stored_before(number, start)
        return [(version, nonce) for version, nonce in answer], together

    async def _all(self, kind: str, keys: Sequence[int]) -> list[Any]:
        return [await self._get(f"/{kind}_by_{self.chance.choice(['lookup', 'statement'])}/{key}") for key in keys]

    async def _get(self, path: str) -> Any:
        return await self.chance.choice(self._clients).get(path)

    def not_modified(self) -> int:
        return sum(client.not_modified for client in self._clients)


def _endpoint(function: Callable[..., Awaitable[Any]]) -> Callable[[Request], Awaitable[JSONResponse]]:
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(await function(*request.path_params.values()))

    endpoint.__qualname__ = f"endpoint.{function.__name__}"
    return endpoint


class Agreeing(Responses):
    """The same responses, but each client that has a body is told that it is current."""

    async def open(self) -> None:
        module: Any = service
        evaluate = module.evaluate

        def agree(request: Any, status: int, headers: Any) -> int | None:
            return NOT_MODIFIED if b"if-none-match" in request.fields else evaluate(request, status, headers)

        module.evaluate = agree
        await super().open()
