"""Requests and responses of plain ASGI, with the headers that every response of the dashboard has."""

import json
from dataclasses import dataclass
from typing import Any, Final

from aiomodelcache.contrib.asgi_types import ASGIScope, Headers, Receive, Send

MAX_BODY: Final = 64 * 1024
"""Maximum number of bytes of a request's body. Beyond it, the request is refused."""
CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""Only the dashboard's own files, and no text that becomes markup: not even by a mistake in its script."""
_HEADERS: Final = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Refused(Exception):
    """A request that gets an error as its response. The text is for the operator, and holds no value of a column."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Response:
    """A response with a body that is known."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Headers = ()

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Sends the response. ``head``: without its body."""
        own = [*self.headers, (b"content-length", b"%d" % len(self.body))]
        await start(send, self.status, self.kind, own)
        await send({"type": "http.response.body", "body": b"" if head else self.body})


async def start(send: Send, status: int, kind: str, headers: Headers = ()) -> None:
    """Sends the beginning of a response, with the headers that all have."""
    own = [*_HEADERS, (b"content-type", kind.encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})


def as_json(data: Any, status: int = 200) -> Response:
    """Returns a response of JSON."""
    return Response(json_text(data).encode(), "application/json", status)


def json_text(data: Any) -> str:
    """Returns JSON in one line of ASCII, in which keys of any bytes have a place."""
    return json.dumps(data, separators=(",", ":"), default=str)


def header(scope: ASGIScope, name: bytes) -> str | None:
    """Returns the value of a request's header, the first one if there are several."""
    return next((value.decode("latin-1") for own, value in scope["headers"] if own.lower() == name), None)


def path_in(scope: ASGIScope) -> str:
    """Returns the path below the place at which the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


async def body_of(receive: Receive) -> bytes:
    """Returns the body of a request. Raises ``Refused`` if it is too long, or if the client has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The client has left.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, f"The request is longer than {MAX_BODY} bytes.")
        if not message.get("more_body", False):
            return bytes(body)
