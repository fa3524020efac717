"""Runs of an application for a response that its client may not wait for, by ASGI without a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.contrib.http import CachedResponseMiddleware, cached_response
from tests.contrib.responding import Site
from tests.support.gates import until
from tests.support.models.models import User

pytestmark = [
    pytest.mark.only_on("sqlite", because="runs of an application depend on no database"),
    pytest.mark.only_on("memory", because="runs of an application depend on no store"),
]


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await User.create(id=1, username="ada")


class Client:
    """A client of an application: its messages, and whether it is still there."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.app = app
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self._asked = False
        self._scope = {"type": "http", "method": "GET", "path": "/page", "headers": [], "query_string": b"", **scope}

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def start(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self.app(self._scope, self.receive, self.send))

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_response_whose_client_was_cancelled_is_stored_and_what_follows_it_runs(cache: ModelCache) -> None:
    site, followed = Site("starlette"), list[str]()

    async def follow() -> None:
        followed.append((await User.cache.get(id=1)).username)

    site.reply = lambda request, user: PlainTextResponse("page", background=BackgroundTask(follow))
    site.gate = asyncio.Event()
    task = Client(site.app).start()
    await until(lambda: site.seen)
    await cancel(task)
    site.gate.set()
    await until(lambda: followed)
    await cache.open_cache.tasks.finish(5)
    assert followed == ["ada"]
    assert len(site.seen) == 1


async def test_what_fails_after_a_response_without_a_client_is_reported_to_the_loop(cache: ModelCache) -> None:
    site, reported = Site("middleware"), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

    async def fail() -> None:
        raise LookupError("after the response")

    site.reply = lambda request, user: PlainTextResponse("page", background=BackgroundTask(fail))
    site.gate = asyncio.Event()
    task = Client(site.app).start()
    await until(lambda: site.seen)
    await cancel(task)
    site.gate.set()
    await until(lambda: reported)
    assert [str(error) for error in reported] == ["after the response"]


async def test_a_stream_whose_client_was_cancelled_before_it_began_is_ended(cache: ModelCache) -> None:
    site, sent = Site("fastapi"), list[str]()

    async def parts() -> AsyncIterator[str]:
        while True:
            sent.append("part")
            yield "part"

    site.reply = lambda request, user: StreamingResponse(parts())
    site.gate = asyncio.Event()
    task = Client(site.app).start()
    await until(lambda: site.seen)
    await cancel(task)
    site.gate.set()
    await until(lambda: sent and not cache.open_cache.tasks.busy)
    assert sent == ["part"]


async def test_a_stream_ends_when_its_client_leaves(cache: ModelCache) -> None:
    site, ended = Site("starlette"), list[str]()

    async def parts() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    site.reply = lambda request, user: StreamingResponse(parts())
    client = Client(site.app)
    task = client.start()
    await until(lambda: client.content == b"first")
    client.gone.set()
    await until(lambda: ended)
    await task
    assert not cache.open_cache.tasks.busy


async def test_a_client_that_cannot_be_sent_to_ends_what_follows(cache: ModelCache) -> None:
    site, followed = Site("starlette"), list[str]()

    async def follow() -> None:
        followed.append("followed")

    site.reply = lambda request, user: PlainTextResponse("page", background=BackgroundTask(follow))
    client = Client(site.app)

    async def send(message: Any) -> None:
        raise OSError("the connection is closed")

    client.send = send  # type: ignore[method-assign]
    with pytest.raises(OSError, match="the connection is closed"):
        await client.start()
    await cache.open_cache.tasks.finish(5)
    assert followed == []


async def test_an_application_that_sends_nothing_is_an_error(cache: ModelCache) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    with pytest.raises(RuntimeError, match="returned without sending a response"):
        await Client(CachedResponseMiddleware(app)).start()


async def test_a_response_without_all_of_its_content_is_not_stored(cache: ModelCache) -> None:
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append((await User.cache.get(id=1)).username)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"page"})

    cached_app = CachedResponseMiddleware(app)
    for _ in range(2):
        client = Client(cached_app)
        await client.start()
        assert (b"content-length", b"9") in client.sent[0]["headers"]
    assert len(calls) == 2


async def test_messages_that_are_no_part_of_a_plain_response_are_passed_on(cache: ModelCache) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b"page"}
    trailers = {"type": "http.response.trailers", "headers": []}
    hint = {"type": "http.response.early_hint", "links": []}
    for messages in ([{**start, "trailers": True}, body, trailers], [hint, start, body]):
        calls: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any, messages: Any = messages, calls: Any = calls) -> None:
            calls.append((await receive())["type"])
            await User.cache.get(id=1)
            for message in messages:
                await send(message)

        cached_app = CachedResponseMiddleware(app, name=messages[0]["type"])
        for _ in range(2):
            client = Client(cached_app, path=f"/{messages[0]['type']}")
            await client.start()
            assert [message["type"] for message in client.sent] == [message["type"] for message in messages]
        assert len(calls) == 2


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_connections_are_passed_on(kind: str) -> None:
    calls: list[Any] = []

    async def app(*arguments: Any) -> None:
        calls.append(arguments)

    arguments: Any = ({"type": kind}, object(), object())
    await CachedResponseMiddleware(app)(*arguments)
    assert calls == [arguments]


async def test_a_router_that_does_not_name_its_route(cache: ModelCache) -> None:
    calls: list[str] = []

    @cached_response
    async def show(request: Request) -> PlainTextResponse:
        calls.append(request.method)
        return PlainTextResponse((await User.cache.get(id=1)).username)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await show(Request({**scope, "endpoint": show}, receive))
        await response({**scope, "endpoint": show}, receive, send)

    for _ in range(2):
        client = Client(app)
        await client.start()
        assert client.content == b"ada"
    assert calls == ["GET"]


async def test_a_function_that_is_no_endpoint_is_an_error() -> None:
    @cached_response()
    async def show(slug: str) -> None:
        pass

    with pytest.raises(TypeError, match="cached_response is for endpoints"):
        await show("pycon")
