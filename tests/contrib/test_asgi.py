"""``LocalCacheMiddleware``: a request scope for each HTTP request, and for no other connection."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from aiomodelcache.contrib.asgi import LocalCacheMiddleware, Message, Receive, Send
from aiomodelcache.scopes.request import Scope, current_scope

pytestmark = pytest.mark.only_on("no store", because="scopes are of this process")


class Application:
    """An application that records its calls and their request scopes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.scopes: list[Scope | None] = []
        self.calls: list[tuple[Any, ...]] = []
        self._error = error

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.calls.append((scope, receive, send))
        self.scopes.append(current_scope())
        await asyncio.sleep(0)
        assert current_scope() is self.scopes[self.calls.index((scope, receive, send))]
        if self._error is not None:
            raise self._error


async def receive() -> Message:
    raise NotImplementedError


async def send(message: Message) -> None:
    raise NotImplementedError


async def test_each_http_request_has_a_scope_that_ends_with_it() -> None:
    app = Application()
    wrapped = LocalCacheMiddleware(app)
    requests = [{"type": "http", "path": path} for path in ("/a", "/b")]
    await asyncio.gather(*[wrapped(request, receive, send) for request in requests])
    await wrapped({"type": "http", "path": "/c"}, receive, send)
    assert [call[0] for call in app.calls[:2]] == requests
    assert app.calls[0][1:] == (receive, send)
    assert None not in app.scopes
    assert len(set(map(id, app.scopes))) == 3
    assert all(scope.over for scope in app.scopes if scope is not None)
    assert current_scope() is None


async def test_an_error_of_the_application_is_raised_and_ends_the_scope() -> None:
    app = Application(LookupError("no such page"))
    with pytest.raises(LookupError, match="no such page"):
        await LocalCacheMiddleware(app)({"type": "http"}, receive, send)
    [scope] = app.scopes
    assert scope is not None
    assert scope.over
    assert current_scope() is None


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_websockets_and_lifespans_have_no_scope(kind: str) -> None:
    app = Application()
    await LocalCacheMiddleware(app)({"type": kind}, receive, send)
    assert app.scopes == [None]
