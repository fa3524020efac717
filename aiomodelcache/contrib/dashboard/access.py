"""The guards of the dashboard: authorization, or the local machine alone, and tokens against forged requests."""

import hmac
import inspect
import re
import secrets
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from aiomodelcache.contrib.asgi_types import ASGIScope
from aiomodelcache.contrib.dashboard.http import Refused, header
from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheConfigurationError

Authorize = Callable[[ASGIScope], "bool | Awaitable[bool]"]
"""A function of the ASGI scope of a request, plain or ``async``. Returns True for an operator."""

COOKIE: Final = "aiomodelcache_csrf"
"""The cookie that holds the token of a browser. Its requests that change something repeat the token in a header."""
_TOKEN_BYTES: Final = 32
_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
_REMEDY: Final = "pass Dashboard(cache, authorize=...), a function of the ASGI scope that returns True for operators"


class Access:
    """The guards of one dashboard. Raises ``CacheConfigurationError`` if it would be open to all."""

    def __init__(self, authorize: Authorize | None, *, debug: bool) -> None:
        if authorize is None and not debug:
            raise CacheConfigurationError(
                f"Dashboard: authorize is missing: {_REMEDY}, or debug=True to open it for this machine alone."
            )
        if authorize is not None and not callable(authorize):
            raise CacheConfigurationError(f"Dashboard: authorize is {described(authorize)}: {_REMEDY}.")
        self._authorize = authorize

    async def check(self, scope: ASGIScope) -> None:
        """Lets operators pass. Raises ``Refused`` for other requests, and what ``authorize`` raises."""
        if self._authorize is None:
            if not is_local(scope):
                raise Refused(403, f"This dashboard is open for requests of its own machine alone: {_REMEDY}.")
            return
        answer: Any = self._authorize(scope)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not True:  # frameworks have objects for users who are not logged in, and these are true
            other = "" if answer is None or answer is False else f": authorize returned {described(answer)}, not True"
            raise Refused(403, f"You are not authorized to see this dashboard{other}.")


def is_local(scope: ASGIScope) -> bool:
    """Returns True for a request from this machine, to a name of this machine, and not by way of a proxy.

    A web page elsewhere can have a name that leads to 127.0.0.1, so the name counts, too.
    """
    client = scope.get("client")
    if client is None or any(header(scope, name) is not None for name in _FORWARDED):
        return False
    host = urlsplit(f"//{header(scope, b'host') or ''}").hostname or ""
    named = host == "localhost" or host.endswith(".localhost") or _is_loopback(host)
    return named and _is_loopback(str(client[0]))


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def token_for(scope: ASGIScope) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Returns the token of a browser, and the headers that give it one if it has none yet.

    All processes take it, because each compares two parts of the request, and keeps nothing.
    """
    token = _cookie(scope)
    if token is not None:
        return token, []
    token = secrets.token_hex(_TOKEN_BYTES)
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    path = str(scope.get("root_path", "")).rstrip("/")
    path = path if _PLAIN_PATH.fullmatch(path) else "/"  # a part of the path may be the client's own text
    cookie = f"{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"
    return token, [(b"set-cookie", cookie.encode())]


def check_origin(scope: ASGIScope) -> None:
    """Raises ``Refused`` unless a request comes from the dashboard's own page, with the browser's token."""
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site is not None:
        own = site == "same-origin"
    else:
        own = origin is None or urlsplit(origin).netloc == header(scope, b"host")
    token, sent = _cookie(scope), header(scope, b"x-csrf-token")
    if not own or token is None or sent is None or not hmac.compare_digest(token.encode(), sent.encode()):
        raise Refused(403, "The request lacks the token of this page: load the page again.")
    if (header(scope, b"content-type") or "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "The body of a request must be application/json.")


def _cookie(scope: ASGIScope) -> str | None:
    """Returns the token in the request's cookie, if it is one that the dashboard has made."""
    cookies: SimpleCookie = SimpleCookie()
    for name, value in scope["headers"]:
        if name.lower() == b"cookie":
            try:
                cookies.load(value.decode("latin-1"))
            except CookieError:
                continue
    found = cookies.get(COOKIE)
    token = found.value if found is not None else ""
    return token if len(token) == 2 * _TOKEN_BYTES and set(token) <= set("0123456789abcdef") else None
