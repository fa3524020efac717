"""One request of HTTP, as the cache sees it: its key, its directives, and reasons to leave it to the application."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from aiomodelcache.contrib.asgi_types import ASGIScope
from aiomodelcache.contrib.responses.fields import Fields, directives, lifetime

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CONDITIONAL: Final = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"}
)
_NOT_FOR_THE_APPLICATION: Final = _CONDITIONAL | {b"cache-control", b"pragma"}
"""Fields that the cache itself answers. A response that is computed for all does not depend on them."""


class Request:
    """A request, by its ASGI scope."""

    __slots__ = ("fields", "headers", "scope")

    def __init__(self, scope: ASGIScope) -> None:
        self.scope = scope
        self.headers: Fields = scope["headers"]
        self.fields: dict[bytes, bytes] = {}
        """The value of each field, the values of repeated ones joined by commas."""
        for name, value in self.headers:
            known = self.fields.get(name)
            self.fields[name] = value if known is None else known + b", " + value

    @property
    def is_head(self) -> bool:
        """True if the response must have no content."""
        return bool(self.scope["method"] == "HEAD")

    def directives(self) -> dict[bytes, bytes | None]:
        """Returns the directives of the request's ``Cache-Control``."""
        return directives(self.headers) if b"cache-control" in self.fields else {}

    def bypass(self, keyed: Collection[bytes], session_cookies: Collection[bytes] | None) -> str | None:
        """Returns the reason for which only the application may answer, or None.

        ``keyed``: the fields that identify a user and are part of the key. ``session_cookies``: the names of cookies
        that identify a user, None for all.
        """
        fields = self.fields
        if self.scope["method"] not in ("GET", "HEAD"):
            return "method"
        if b"range" in fields:
            return "range"
        if b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip() != b"0":
            return "content"
        if b"cache-control" in fields and b"no-store" in self.directives():
            return "no-store"
        if b"authorization" in fields and b"authorization" not in keyed:
            return "authorization"
        if b"cookie" in fields and b"cookie" not in keyed and self.has_session(session_cookies):
            return "cookie"
        return None

    def has_session(self, session_cookies: Collection[bytes] | None) -> bool:
        """Returns True if the request has one of these cookies. None stands for all."""
        if session_cookies is None or b"cookie" not in self.fields:
            return b"cookie" in self.fields
        pairs = self.fields[b"cookie"].replace(b",", b";").split(b";")
        return any(pair.partition(b"=")[0].strip() in session_cookies for pair in pairs)

    def uri(self) -> tuple[Any, ...]:
        """Returns the target of the request: scheme, host, path and query."""
        scope = self.scope
        host = self.fields.get(b"host")
        return (
            scope.get("scheme", "http"),
            repr(scope.get("server")) if host is None else host.lower(),
            scope.get("root_path", ""),
            scope["path"],
            scope.get("raw_path") or b"",
            scope.get("query_string", b""),
        )

    def varying(self, names: Iterable[bytes]) -> list[tuple[bytes, bytes | None]]:
        """Returns the names and values of the fields by which the response may vary."""
        return [(name, self.fields.get(name)) for name in sorted(names)]

    def for_computation(self) -> ASGIScope:
        """Returns the scope of a request for a whole response, without what belongs to this client."""
        scope: dict[str, Any] = {**self.scope, "method": "GET", "extensions": {}}
        scope["headers"] = [pair for pair in self.headers if pair[0] not in _NOT_FOR_THE_APPLICATION]
        if "state" in scope:
            scope["state"] = dict(scope["state"])
        return scope

    def accepts(self, asked: Mapping[bytes, bytes | None]) -> Callable[[float, float | None, float], bool] | None:
        """Returns a function that says if a stored response may answer, by directives of the request.

        The function takes the time at which the response was created, the time at which it expires or None, and the
        time now. None if any fresh response may answer.
        """
        if not asked.keys() & {b"no-cache", b"max-age", b"min-fresh"}:
            return None

        def accept(created: float, expires: float | None, now: float) -> bool:
            if b"no-cache" in asked:
                return False
            if b"max-age" in asked and now - created > lifetime(asked[b"max-age"]):
                return False
            return b"min-fresh" not in asked or expires is None or expires - now >= lifetime(asked[b"min-fresh"])

        return accept


def uri_tag(request: Request) -> str:
    """Returns the tag of all responses of a target, by which a write to it invalidates them."""
    digest = hashlib.blake2b(repr(request.uri()).encode("utf-8", "surrogatepass"), digest_size=20)
    return f"http {digest.hexdigest()}"
