"""``cached_response`` and ``CachedResponseMiddleware``: whole responses, cached until what they were read from changes.

A stored response is a derived entry, so a hit is one request to the store and no SQL. RFC 9110 and RFC 9111 say which
responses are stored and which requests they answer: see docs/guide/responses.md.
"""

import inspect
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack, cast, overload

from tortoise.models import Model

from aiomodelcache.contrib.asgi_types import Application, ASGIScope, Message, Receive, Send
from aiomodelcache.contrib.registration import required
from aiomodelcache.contrib.responses.endpoints import (
    COMPUTING,
    PARAMETER,
    keyable,
    request_among,
    response_class,
    with_request,
)
from aiomodelcache.contrib.responses.lookups import ResponseCall, SharedAnswer
from aiomodelcache.contrib.responses.requests import SAFE_METHODS, Request, uri_tag
from aiomodelcache.contrib.responses.service import ResponseCache, labelled
from aiomodelcache.declare.options import key_option
from aiomodelcache.declare.registry import module_of
from aiomodelcache.declare.value_declarations import ValueDeclaration, tuple_of
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.exceptions import CacheConfigurationError, CacheNotOpen, TenantError, shown
from aiomodelcache.open_cache import default_cache
from aiomodelcache.write.manual import invalidate_tags

if TYPE_CHECKING:
    from starlette.requests import Request as StarletteRequest

ResponseKey = Callable[["StarletteRequest"], Any]
"""A function of a request that returns a part of a cache key: a number, a string, or a tuple of such values."""
ResponseTag = str | Callable[["StarletteRequest"], str | Iterable[str]]
"""The name of a tag, or a function of a request that returns one or several."""
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])

MAX_RESPONSE_SIZE: Final = 1_048_576
"""Maximum size of the content of a stored response, in bytes, by default. A larger response is sent and not stored."""


class ResponseSettings(TypedDict, total=False):
    """The settings of ``cached_response`` and ``CachedResponseMiddleware``: see there."""

    timeout: Duration | None
    vary: Collection[str]
    key: ResponseKey | None
    session_cookies: Collection[str] | None
    tags: ResponseTag | Iterable[ResponseTag]
    depends_on: type[Model] | Iterable[type[Model]]
    version: object
    stale_if_error: Duration | None
    soft_timeout: Duration | None
    max_size: int


class CachedResponseMiddleware:
    """Caches the responses of an ASGI application to GET and HEAD, until what they were read from changes.

    >>> from aiomodelcache.contrib.http import CachedResponseMiddleware
    >>> caching = Middleware(CachedResponseMiddleware, vary=["Accept-Language"])
    >>> app = Starlette(routes=routes, middleware=[caching])

    The settings are those of ``cached_response``. A response that was computed from nothing recorded is stored only if
    its ``Cache-Control`` says for how long. A successful request by any other method invalidates the stored responses
    of its URL. ``name`` tells applications apart that answer the same URLs in one namespace.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """

    def __init__(self, app: Application, *, name: str = "", **settings: Unpack[ResponseSettings]) -> None:
        self._app = app
        origin = f"{__name__}.{type(self).__name__}" + (f"({name})" if name else "")
        self._responses = _responses(origin, settings, [_tag_of_uri], needs_reads=True)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
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


@overload
def cached_response(endpoint: EndpointT, /) -> EndpointT: ...


@overload
def cached_response(**settings: Unpack[ResponseSettings]) -> Callable[[EndpointT], EndpointT]: ...


def cached_response(endpoint: Callable[..., Any] | None = None, /, **settings: Unpack[ResponseSettings]) -> Any:
    """Caches the responses of an endpoint of Starlette or FastAPI, until what they were read from changes.

    >>> from fastapi import FastAPI
    >>> from aiomodelcache.contrib.http import cached_response
    >>> app = FastAPI()
    >>> @app.get("/events/{slug}")
    ... @cached_response
    ... async def show(slug: str) -> dict[str, str]:
    ...     event = await Event.cache.get_or_404(slug=slug)
    ...     return {"title": event.title}

    What the endpoint and its dependencies read through ``Event.cache`` and through Tortoise is recorded, as by
    ``cached``. A hit is one request to the store, and so is a 304. Responses have a strong ``ETag``, and tell clients
    to ask each time, unless the endpoint sets ``Cache-Control``.

    ``timeout``: the longest life of a response; seconds, a ``timedelta``, or text like ``"5m"``. ``vary``: names of
    fields of the request that the response depends on. ``key`` takes the request and returns a further part of the key,
    such as the user. Without one, requests with ``Authorization`` or a cookie are not cached.
    ``session_cookies``: the names of the cookies that identify a user, if others do not matter. ``tags`` and
    ``depends_on`` are those of ``cached``; a tag may be a function of the request. A new ``version`` makes old
    responses unusable: pass that of your program. ``stale_if_error`` and ``soft_timeout`` are those of ``cached``; a
    status from 500 on is an error. ``max_size``: the largest content that is stored, in bytes.

    Raises ``CacheConfigurationError`` for a wrong setting.
    """

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(endpoint, type) or not hasattr(endpoint, "__qualname__"):
            raise CacheConfigurationError(
                f"cached_response is for functions, and {shown(endpoint)} is not one: decorate a function, or a method."
            )
        origin = f"{module_of(endpoint)}.{endpoint.__qualname__}"
        responses = _responses(origin, settings, [], needs_reads=False)

        @wraps(endpoint)
        async def answer(*args: Any, **kwargs: Any) -> Any:
            request = kwargs.pop(PARAMETER, None) or request_among([*args, *kwargs.values()])
            scope = request.scope
            parsed = Request(scope)
            arguments = None
            if scope.get(COMPUTING) is not responses and responses.bypass(parsed) is None:
                try:
                    arguments = (
                        [keyable(value) for _, value in sorted(kwargs.items())] if settings.get("key") is None else None
                    )
                except TypeError as error:
                    _warn_unkeyable(responses.declaration, error)
                else:
                    return response_class()(responses, parsed, arguments)
            if inspect.iscoroutinefunction(endpoint):
                return await endpoint(*args, **kwargs)
            return await required("starlette.concurrency", "starlette").run_in_threadpool(endpoint, *args, **kwargs)

        cast("Any", answer).__signature__ = with_request(endpoint)
        return answer

    return decorate if endpoint is None else decorate(endpoint)


# Settings ----------------------------------------------------------------------------------------------------


def _responses(origin: str, settings: ResponseSettings, own_tags: Iterable[Any], *, needs_reads: bool) -> ResponseCache:
    """Returns the stored responses of an endpoint or application. ``own_tags``: those beside the ones that it names."""
    for name in settings.keys() - ResponseSettings.__annotations__.keys():
        known = ", ".join(ResponseSettings.__annotations__)
        raise CacheConfigurationError(f"{origin}: there is no setting {name!r}. The settings: {known}.")
    vary, session_cookies = settings.get("vary", ()), settings.get("session_cookies")
    given: dict[str, Any] = {"vary": vary, "session_cookies": () if session_cookies is None else session_cookies}
    for setting, names in given.items():
        listed = issubclass(type(names), Collection) and not isinstance(names, str | bytes)
        if not listed or not all(isinstance(name, str) and name.isascii() for name in names):
            raise CacheConfigurationError(
                f"{origin}: {setting} is {shown(names)}: it must be a list of names, such as "
                + ('["Accept-Language"].' if setting == "vary" else '["session"].')
            )
    if "*" in vary:
        raise CacheConfigurationError(f"{origin}: vary names *: such responses cannot be cached.")
    key: Any = key_option(origin, settings.get("key"), "the request")
    max_size: Any = settings.get("max_size", MAX_RESPONSE_SIZE)
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 0:
        raise CacheConfigurationError(f"{origin}: max_size is {shown(max_size)}: it must be a whole number of bytes.")
    declaration = ValueDeclaration(
        name=origin,
        origin=origin,
        signature=inspect.Signature(),
        timeout=settings.get("timeout"),
        version=settings.get("version"),
        tags=(*own_tags, *map(_tag, tuple_of(origin, "tags", settings.get("tags", ())))),
        depends_on=tuple_of(origin, "depends_on", settings.get("depends_on", ())),
        stale_if_error=settings.get("stale_if_error"),
        soft_timeout=settings.get("soft_timeout"),
        negative_timeout=None,
        allowtime=None,
        codec=None,
        near=None,
        invalidation=InvalidationType.UNSET,
        cache_errors=None,
        returns=lambda: SharedAnswer,
    )
    declaration.check()
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

    def tag_of_call(call: ResponseCall) -> Any:
        return tag(_starlette_request(call.request.scope))

    return tag_of_call if callable(tag) else tag


def _tag_of_uri(call: ResponseCall) -> str:
    return uri_tag(call.request)


def _starlette_request(scope: ASGIScope) -> Any:
    return required("starlette.requests", "starlette").Request(scope)


def _invalidating(request: Request, send: Send) -> Send:
    """Returns a ``send`` that invalidates the stored responses of a URL before a response of success is sent."""

    async def send_after(message: Message) -> None:
        if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
            with suppress(CacheNotOpen):  # then it stores nothing either
                await invalidate_tags(default_cache().writable(), [uri_tag(request)])
        await send(message)

    return send_after


def _warn_unkeyable(declaration: ValueDeclaration, error: TypeError) -> None:
    """Logs an endpoint whose responses are not cached because one of its arguments cannot be part of a key."""
    text = "aiomodelcache: responses of %s are not cached: %s Pass key= to cached_response."
    with suppress(CacheNotOpen, TenantError):  # then no response is cached anyway
        counters = default_cache().usable().stats.of(declaration.origin)
        counters.warn_once("unkeyable", text, declaration.origin, safe_reason(error))
