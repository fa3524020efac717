"""``Dashboard``: the ASGI application, and the contents of its paths."""

from functools import cache as once
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from aiomodelcache.client import ModelCache
from aiomodelcache.contrib.asgi_types import ASGIScope, Receive, Send
from aiomodelcache.contrib.dashboard.access import Access, Authorize, check_origin, token_for
from aiomodelcache.contrib.dashboard.feed import Feed
from aiomodelcache.contrib.dashboard.http import Refused, Response, as_json, body_of, path_in
from aiomodelcache.contrib.dashboard.lookups import clear_declaration, explain_lookup, inspect_lookup, names_of
from aiomodelcache.contrib.dashboard.stream import stream
from aiomodelcache.contrib.registration import check_cache
from aiomodelcache.exceptions import CacheNotOpen

_STATIC: Final = {
    "/dashboard.css": "text/css; charset=utf-8",
    "/dashboard.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}
"""The files of the page, by their paths, and their types."""
_READS: Final = ("/explain", "/inspect")


class Dashboard:
    """A page that shows a cache at work, as an ASGI application to mount.

    >>> from aiomodelcache.contrib.dashboard import Dashboard
    >>> def is_operator(scope) -> bool:
    ...     return Request(scope).session.get("role") == "operator"
    >>> app.mount("/cache", Dashboard(cache, authorize=is_operator))

    ``authorize`` takes the ASGI scope of each request, and returns True for operators. It may be ``async``, and may
    raise the framework's exceptions, such as a 401. Without it the dashboard raises ``CacheConfigurationError``, unless
    ``debug`` is set: then it is open for requests of its own machine alone.

    It only reads. ``allow_clear=True`` lets operators clear models and cached functions. ``values=True`` shows the
    values in keys and entries, which are hidden else. The cache may be closed as yet, and each process that has a
    dashboard publishes its counters, as with ``publish_stats``.
    """

    def __init__(
        self,
        cache: ModelCache,
        *,
        authorize: Authorize | None = None,
        allow_clear: bool = False,
        values: bool = False,
        debug: bool = False,
    ) -> None:
        check_cache("Dashboard", cache)
        self._cache = cache
        self._access = Access(authorize, debug=debug)
        self._allow_clear = allow_clear
        self._values = values
        self._feed = Feed(cache, values=values)
        cache.publish_stats()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            head = scope["method"] == "HEAD"
            try:
                await self._access.check(scope)
                response = await self._respond(scope, receive, send)
            except Refused as refused:
                response = as_json({"error": str(refused)}, refused.status)
            except CacheNotOpen:
                response = as_json({"error": "The cache is not open."}, 503)
            if response is not None:
                await response.send(send, head=head)

    async def _respond(self, scope: ASGIScope, receive: Receive, send: Send) -> Response | None:
        """Returns the response, or None if it is sent already. Raises ``Refused``."""
        path, method = path_in(scope), scope["method"]
        if path in (*_READS, "/clear"):
            if method != "POST":
                raise Refused(405, "This path takes POST.")
            check_origin(scope)
            return as_json(await self._answer(path, await body_of(receive)))
        if method not in ("GET", "HEAD"):
            raise Refused(405, "This path takes GET.")
        if path == "":  # relative links need the slash
            last = quote(scope["path"].rpartition("/")[2])
            return Response(b"", status=307, headers=[(b"location", f"./{last}/".encode())])
        if path == "/":
            token, headers = token_for(scope)
            page = _file("index.html").replace(b"{csrf}", token.encode())
            return Response(page, "text/html; charset=utf-8", headers=headers)
        if path in _STATIC:
            return Response(_file(path[1:]), _STATIC[path])
        if path == "/events" and method == "GET":
            await stream(self._feed, self._config(), receive, send)
            return None
        raise Refused(404, "There is nothing under this path.")

    async def _answer(self, path: str, body: bytes) -> dict[str, Any]:
        match path:
            case "/explain":
                return await explain_lookup(self._cache, body, values=self._values)
            case "/inspect":
                return await inspect_lookup(self._cache, body, values=self._values)
            case _:
                if not self._allow_clear:
                    raise Refused(403, "Clearing is switched off: pass Dashboard(..., allow_clear=True).")
                return await clear_declaration(self._cache, body)

    def _config(self) -> dict[str, Any]:
        names = names_of(self._cache)
        return {
            "namespace": self._cache.namespace,
            "values": self._values,
            "targets": names["targets"],
            "clearable": names["clearable"] if self._allow_clear else [],
        }


@once
def _file(name: str) -> bytes:
    return files("aiomodelcache.contrib.dashboard").joinpath("static", name).read_bytes()


async def _live(receive: Receive, send: Send) -> None:
    """Answers the lifespan of a server that runs the dashboard alone."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
