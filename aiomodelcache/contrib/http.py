"""``cached_response`` and ``CachedResponseMiddleware``: whole responses, cached until what they were read from changes.

A stored response is a derived entry, so a hit is one request to the store and no SQL. RFC 9110 and RFC 9111 say which
responses are stored and which requests they answer: see docs/guide/responses.md.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, MutableMapping
from contextlib import suppress
from functools import cache as once
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from tortoise.models import Model

from aiomodelcache.config import InvalidationType
from aiomodelcache.contrib.registration import required
from aiomodelcache.contrib.responses.lookups import Call, Found
from aiomodelcache.contrib.responses.requests import SAFE_METHODS, Request, uri_tag
from aiomodelcache.contrib.responses.runs import Application, Message, Receive, Send
from aiomodelcache.contrib.responses.service import ResponseCache, labelled
from aiomodelcache.declare.registry import module_of
from aiomodelcache.declare.value_declarations import ValueDeclaration, tuple_of
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.keys import encode_value
from aiomodelcache.encoding.messages import reason
from aiomodelcache.exceptions import CacheConfigurationError, CacheNotOpen, shown
from aiomodelcache.open_cache import default_cache
from aiomodelcache.write.manual import invalidate_tags

if TYPE_CHECKING:
    from starlette.requests import Request as StarletteRequest

Key = Callable[["StarletteRequest"], Any]
"""A function of a request that returns a part of a cache key: a number, a string, or a tuple of such values."""
ResponseTag = str | Callable[["StarletteRequest"], str | Iterable[str]]
"""The name of a tag, or a function of a request that returns one or several."""
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

MAX_SIZE: Final = 1_048_576
"""Maximum size of the content of a stored response, in bytes, by default. A larger response is sent and not stored."""
_COMPUTING: Final = "aiomodelcache.computing"
"""The key in the scope of a request under which the decorated endpoint itself runs."""
_PARAMETER: Final = "aiomodelcache_request"
"""The parameter by which FastAPI passes the request to a decorated endpoint."""


class CachedResponseMiddleware:
    """Caches the responses of an ASGI application to GET and HEAD, until what they were read from changes.

    >>> from aiomodelcache.contrib.http import CachedResponseMiddleware
    >>> app.add_middleware(CachedResponseMiddleware, vary=["Accept-Language"])

    The settings are those of ``cached_response``. A response that was computed from nothing recorded is stored only if
    its ``Cache-Control`` says for how long. A successful request by any other method invalidates the stored responses
    of its URL. ``name`` tells applications apart that answer the same URLs in one namespace.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """

    def __init__(
        self,
        app: Application,
        *,
        timeout: Duration | None = None,
        vary: Collection[str] = (),
        key: Key | None = None,
        session_cookies: Collection[str] | None = None,
        tags: ResponseTag | Iterable[ResponseTag] = (),
        depends_on: Iterable[type[Model]] = (),
        version: object = None,
        stale_if_error: Duration | None = None,
        soft_timeout: Duration | None = None,
        max_size: int = MAX_SIZE,
        name: str = "",
    ) -> None:
        self._app = app
        origin = f"{__name__}.{type(self).__name__}" + (f"({name})" if name else "")
        settings: dict[str, Any] = {"timeout": timeout, "version": version, "depends_on": tuple(depends_on)}
        settings |= {"stale_if_error": stale_if_error, "soft_timeout": soft_timeout}
        declaration = _declaration(origin, [_tag_of_uri, *map(_tag, tuple_of(tags))], **settings)
        self._responses = _responses(declaration, vary, key, session_cookies, max_size, needs_reads=True)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        reason = self._responses.bypass(request)
        if reason is None:
            await self._responses.respond(self._app, request, receive, send)
        elif scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, labelled(send, f"fwd=bypass; detail={reason}"))
        else:
            await self._app(scope, receive, _invalidating(request, send))


def cached_response(
    *,
    timeout: Duration | None = None,
    vary: Collection[str] = (),
    key: Key | None = None,
    session_cookies: Collection[str] | None = None,
    tags: ResponseTag | Iterable[ResponseTag] = (),
    depends_on: Iterable[type[Model]] = (),
    version: object = None,
    stale_if_error: Duration | None = None,
    soft_timeout: Duration | None = None,
    max_size: int = MAX_SIZE,
) -> Callable[[Endpoint], Endpoint]:
    """Caches the responses of an endpoint of Starlette or FastAPI, until what they were read from changes.

    >>> from aiomodelcache.contrib.http import cached_response
    >>> @app.get("/events/{slug}")
    ... @cached_response()
    ... async def show(slug: str) -> dict[str, str]:
    ...     event = await Event.cache.get_or_404(slug=slug)
    ...     return {"title": event.title}

    What the endpoint and its dependencies read through ``Event.cache`` and through Tortoise is recorded, as by
    ``cached``. A hit is one request to the store, and so is a 304. Responses have a strong ``ETag``, and tell clients
    to ask each time, unless the endpoint sets ``Cache-Control``.

    ``timeout``: the longest life of a response; seconds, a ``timedelta``, or text like ``"5m"``. ``vary``: names of
    fields of the request that the response depends on. ``key`` takes the request and returns a further part of the key,
    such as the user; without one, requests with ``Authorization`` or a cookie are not cached.
    ``session_cookies``: the names of the cookies that identify a user, if others do not matter. ``tags`` and
    ``depends_on`` are those of ``cached``; a tag may be a function of the request. A new ``version`` makes old
    responses unusable: pass that of your program. ``stale_if_error`` and ``soft_timeout`` are those of ``cached``; a
    status from 500 on is an error. ``max_size``: the largest content that is stored, in bytes.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """

    def decorate(endpoint: Endpoint) -> Endpoint:
        origin = f"{module_of(endpoint)}.{endpoint.__qualname__}"
        settings: dict[str, Any] = {"timeout": timeout, "version": version, "depends_on": tuple(depends_on)}
        settings |= {"stale_if_error": stale_if_error, "soft_timeout": soft_timeout}
        declaration = _declaration(origin, [*map(_tag, tuple_of(tags))], **settings)
        responses = _responses(declaration, vary, key, session_cookies, max_size, needs_reads=False)

        @wraps(endpoint)
        async def answer(*args: Any, **kwargs: Any) -> Any:
            request = kwargs.pop(_PARAMETER, None) or _request_among([*args, *kwargs.values()])
            scope = request.scope
            parsed = Request(scope)
            arguments = None
            if scope.get(_COMPUTING) is not responses and responses.bypass(parsed) is None:
                try:
                    arguments = [_keyable(value) for _, value in sorted(kwargs.items())] if key is None else None
                except TypeError as error:
                    _warn_unkeyable(declaration, error)
                else:
                    return _response_class()(responses, parsed, arguments)
            if inspect.iscoroutinefunction(endpoint):
                return await endpoint(*args, **kwargs)
            return await required("starlette.concurrency", "starlette").run_in_threadpool(endpoint, *args, **kwargs)

        cast("Any", answer).__signature__ = _with_request(endpoint)
        return cast("Endpoint", answer)

    return decorate


# Settings ----------------------------------------------------------------------------------------------------


def _declaration(origin: str, tags: Iterable[Any], **settings: Any) -> ValueDeclaration:
    declaration = ValueDeclaration(
        name=origin,
        origin=origin,
        signature=inspect.Signature(),
        tags=tuple(tags),
        negative_timeout=None,
        allowtime=None,
        codec=None,
        near=None,
        invalidation=InvalidationType.UNSET,
        cache_errors=None,
        returns=lambda: Found,
        **settings,
    )
    declaration.check()
    return declaration


def _responses(
    declaration: ValueDeclaration,
    vary: Collection[str],
    key: Key | None,
    session_cookies: Collection[str] | None,
    max_size: int,
    *,
    needs_reads: bool,
) -> ResponseCache:
    given: dict[str, Any] = {"vary": vary, "session_cookies": session_cookies or ()}
    for setting, names in given.items():
        if isinstance(names, str) or not all(isinstance(name, str) and name.isascii() for name in names):
            raise CacheConfigurationError(
                f"{declaration.origin}: {setting} is {shown(names)}: it must be a list of names, such as "
                + ('["Accept-Language"].' if setting == "vary" else '["session"].')
            )
    if "*" in vary:
        raise CacheConfigurationError(f"{declaration.origin}: vary names *: such responses cannot be cached.")
    return ResponseCache(
        declaration,
        vary=vary,
        key=None if key is None else lambda scope: key(_starlette_request(scope)),
        session_cookies=session_cookies,
        max_size=max_size,
        needs_reads=needs_reads,
    )


def _tag(tag: Any) -> Any:
    """Returns a tag of a response as a tag of the call that computes it."""

    def tag_of_call(call: Call) -> Any:
        return tag(_starlette_request(call.request.scope))

    return tag_of_call if callable(tag) else tag


def _tag_of_uri(call: Call) -> str:
    return uri_tag(call.request)


def _starlette_request(scope: MutableMapping[str, Any]) -> Any:
    return required("starlette.requests", "starlette").Request(scope)


def _invalidating(request: Request, send: Send) -> Send:
    """Returns a ``send`` that invalidates the stored responses of a URL before a response of success is sent."""

    async def send_after(message: Message) -> None:
        if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
            with suppress(CacheNotOpen):  # then it stores nothing either
                await invalidate_tags(default_cache().writable(), [uri_tag(request)])
        await send(message)

    return send_after


# Endpoints ---------------------------------------------------------------------------------------------------


@once
def _response_class() -> Any:
    """Returns a class of Starlette's responses that looks up the response when it is sent."""
    base: Any = required("starlette.responses", "starlette").Response

    class LookedUpResponse(base):  # type: ignore[misc]
        def __init__(self, responses: ResponseCache, request: Request, arguments: Any) -> None:
            base.__init__(self)
            self._responses = responses
            self._request = request
            self._arguments = arguments

        async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
            application = partial(_run_endpoint, self._responses)
            ran = await self._responses.respond(application, self._request, receive, send, self._arguments)
            if not ran and self.background is not None:
                await self.background()

    return LookedUpResponse


async def _run_endpoint(
    responses: ResponseCache, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    """Runs the route of a request once more, with its dependencies, in which the endpoint itself answers."""
    scope = {**scope, _COMPUTING: responses}
    route: Any = scope.get("route")
    if route is None:  # a router that does not name it
        endpoint: Any = scope["endpoint"]
        application = endpoint
        if not inspect.isclass(endpoint):
            application = required("starlette.routing", "starlette").request_response(endpoint)
        await application(scope, receive, send)
    else:
        await route.handle(scope, receive, send)


def _request_among(arguments: Iterable[Any]) -> Any:
    """Returns the request among the arguments of an endpoint. Raises ``TypeError`` if there is none."""
    for value in arguments:
        if isinstance(value, required("starlette.requests", "starlette").Request):
            return value
    raise TypeError("cached_response is for endpoints, which Starlette or FastAPI calls with a request.")


def _with_request(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Returns the signature of an endpoint, with a parameter by which FastAPI passes the request, if it has none."""
    try:
        signature = inspect.signature(endpoint, eval_str=True)
    except Exception:  # a name that is imported for type checkers only: FastAPI will say so
        signature = inspect.signature(endpoint)
    kind = required("starlette.requests", "starlette").Request
    parameters = list(signature.parameters.values())
    if not any(isinstance(each.annotation, type) and issubclass(each.annotation, kind) for each in parameters):
        at = len(parameters) - (bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        parameters.insert(at, inspect.Parameter(_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
    return signature.replace(parameters=parameters)


def _keyable(value: Any) -> Any:
    """Returns an argument of an endpoint as a part of a key, None for what FastAPI makes for each request.

    Raises ``TypeError`` for an object that cannot be one.
    """
    kind = cast("Any", type(value))
    if kind.__module__.partition(".")[0] in ("starlette", "fastapi"):
        return None
    if isinstance(value, Model):
        return value
    if kind in (list, tuple):
        return [_keyable(item) for item in value]
    if kind is dict:
        return {name: _keyable(item) for name, item in value.items()}
    if hasattr(kind, "model_dump_json"):
        return [kind.__qualname__, value.model_dump_json()]
    if dataclasses.is_dataclass(kind):
        fields: list[Any] = [_keyable(getattr(value, field.name)) for field in dataclasses.fields(kind)]
        return [type(value).__qualname__, *fields]
    encode_value(value)
    return value


def _warn_unkeyable(declaration: ValueDeclaration, error: TypeError) -> None:
    """Logs an endpoint whose responses are not cached because one of its arguments cannot be part of a key."""
    text = "aiomodelcache: responses of %s are not cached: %s Pass key= to cached_response."
    counters = default_cache().usable().stats.of(declaration.origin)
    counters.warn_once("unkeyable", text, declaration.origin, reason(error))
