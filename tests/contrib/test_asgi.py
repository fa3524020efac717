"""``LocalCacheMiddleware``: a scope for each HTTP request until its response starts, and for no other connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aiomodelcache import ModelCache, local_cache
from aiomodelcache.contrib.asgi import LocalCacheMiddleware, Message, Receive, Send
from aiomodelcache.scopes.request import Scope, current_scope
from tests.support.in_process import client_of
from tests.support.models.models import User

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"", "more_body": False}

no_store = pytest.mark.only_on("no store", because="scopes are of this process")


class Application:
    """An application that records its calls and their request scopes."""

    def __init__(self, error: Exception | None = None, answer: tuple[Message, ...] = ()) -> None:
        self.scopes: list[Scope | None] = []
        self.calls: list[tuple[Any, ...]] = []
        self._error = error
        self._answer = answer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.calls.append((scope, receive))
        self.scopes.append(current_scope())
        await asyncio.sleep(0)
        assert current_scope() is self.scopes[self.calls.index((scope, receive))]
        for message in self._answer:
            await send(message)
        if self._error is not None:
            raise self._error


async def receive() -> Message:
    raise NotImplementedError


async def send(message: Message) -> None:
    raise NotImplementedError


@no_store
async def test_each_http_request_has_a_scope_that_ends_with_it() -> None:
    app = Application()
    wrapped = LocalCacheMiddleware(app)
    requests = [{"type": "http", "path": path} for path in ("/a", "/b")]
    await asyncio.gather(*[wrapped(request, receive, send) for request in requests])
    await wrapped({"type": "http", "path": "/c"}, receive, send)
    assert app.calls[:2] == [(request, receive) for request in requests]
    assert None not in app.scopes
    assert len(set(map(id, app.scopes))) == 3
    assert all(scope.over for scope in app.scopes if scope is not None)
    assert current_scope() is None


@no_store
@pytest.mark.parametrize("answer", [(), (START,), (START, BODY)])
async def test_an_error_of_the_application_is_raised_and_ends_the_scope(answer: tuple[Message, ...]) -> None:
    app = Application(LookupError("no such page"), answer)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(LookupError, match="no such page"):
        await LocalCacheMiddleware(app)({"type": "http"}, receive, send)
    [scope] = app.scopes
    assert scope is not None
    assert scope.over
    assert current_scope() is None
    assert tuple(sent) == answer


@no_store
async def test_the_scope_ends_before_the_response_starts_and_not_with_other_messages() -> None:
    seen: list[tuple[str, bool]] = []

    async def send(message: Message) -> None:
        seen.append((message["type"], current_scope() is not None))

    early: Message = {"type": "http.response.early_hint", "links": []}
    async with local_cache():
        outer = current_scope()
        app = Application(answer=(early, START, BODY))
        await LocalCacheMiddleware(app)({"type": "http"}, receive, send)
        assert current_scope() is outer
    [scope] = app.scopes
    assert scope is not None
    assert scope.parent is outer
    assert [kind for kind, _ in seen] == [message["type"] for message in (early, START, BODY)]

    seen.clear()
    await LocalCacheMiddleware(Application(answer=(early, START, BODY)))({"type": "http"}, receive, send)
    assert [in_scope for _, in_scope in seen] == [True, False, False]


@no_store
@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_websockets_and_lifespans_have_no_scope(kind: str) -> None:
    app = Application()
    await LocalCacheMiddleware(app)({"type": kind}, receive, send)
    assert app.scopes == [None]


# A real server -------------------------------------------------------------------------------------------


class Service:
    """A Starlette application whose responses say what lookups return, before and after they start."""

    def __init__(self) -> None:
        self.go_on = asyncio.Queue[None]()
        self.names: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/twice", self.twice),
                Route("/events", self.events),
                Route("/in-scopes", self.in_scopes),
                Route("/polled", self.polled),
                Route("/background", self.background),
                Route("/broken", self.broken),
            ],
            middleware=[Middleware(LocalCacheMiddleware)],
        )

    async def twice(self, request: Request) -> Response:
        first = await User.cache.get(id=1)
        return JSONResponse(await User.cache.get(id=1) is first)

    async def events(self, request: Request) -> Response:
        """Sends the name now, and once more for each item of the queue: server-sent events."""
        await User.cache.get(id=1)  # kept by the scope, in which the stream must not be caught

        async def stream() -> AsyncIterator[str]:
            while True:
                yield f"data: {(await User.cache.get(id=1)).username}\n\n"
                await self.go_on.get()

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def in_scopes(self, request: Request) -> Response:
        """Sends like ``events``, each message in a scope of its own."""

        async def stream() -> AsyncIterator[str]:
            while True:
                async with local_cache():
                    user = await User.cache.get(id=1)
                    assert await User.cache.get(id=1) is user
                yield f"data: {user.username}\n\n"
                await self.go_on.get()

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def polled(self, request: Request) -> Response:
        """Looks up in a child task that the endpoint started before its response, and that outlasts the start."""
        names = asyncio.Queue[str]()
        started = current_scope()

        async def poll() -> None:
            while True:
                names.put_nowait((await User.cache.get(id=1)).username)
                await self.go_on.get()
                assert started is not None
                assert started.over

        task = asyncio.create_task(poll())

        async def stream() -> AsyncIterator[str]:
            try:
                while True:
                    yield f"data: {await names.get()}\n\n"
            finally:
                task.cancel()

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def background(self, request: Request) -> Response:
        async def later() -> None:
            await self.go_on.get()
            self.names.append((await User.cache.get(id=1)).username)
            self.go_on.task_done()

        return JSONResponse((await User.cache.get(id=1)).username, background=BackgroundTask(later))

    async def broken(self, request: Request) -> Response:
        await User.cache.get(id=1)
        raise LookupError("no such page")


@pytest.fixture
async def service(cache: ModelCache) -> Service:
    await User.create(id=1, username="ada")
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service.app) as client:
        yield client


async def rename(to: str) -> None:
    """Writes outside of every request."""
    user = await User.get(id=1)
    user.username = to
    await user.save()


@pytest.mark.only_on("sqlite", because="what a scope remembers depends on no database")
class TestServer:
    async def test_lookups_before_the_response_share_their_objects(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/twice")).json() is True

    @pytest.mark.parametrize("path", ["/events", "/in-scopes", "/polled"])
    @pytest.mark.parametrize("below", [False, True], ids=["outermost", "below another middleware"])
    async def test_a_stream_sees_the_writes_between_its_messages(
        self, service: Service, client: httpx.AsyncClient, path: str, below: bool
    ) -> None:
        if below:

            async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
                return await call_next(request)

            service.app.user_middleware.insert(0, Middleware(BaseHTTPMiddleware, dispatch=dispatch))
        async with client.stream("GET", path) as response:
            lines = (line async for line in response.aiter_lines() if line)
            assert await anext(lines) == "data: ada"
            for name in ("grace", "katherine"):
                await rename(name)
                service.go_on.put_nowait(None)
                assert await anext(lines) == f"data: {name}"

    async def test_background_tasks_see_writes_after_the_response(
        self, service: Service, client: httpx.AsyncClient
    ) -> None:
        assert (await client.get("/background")).json() == "ada"
        await rename("grace")
        service.go_on.put_nowait(None)
        await service.go_on.join()
        assert service.names == ["grace"]

    async def test_an_error_leaves_no_scope_to_the_next_request_of_the_connection(
        self, client: httpx.AsyncClient
    ) -> None:
        assert (await client.get("/broken")).status_code == 500
        await rename("grace")
        assert (await client.get("/twice")).status_code == 200
