"""Endpoints of Starlette and FastAPI: their request, their arguments as parts of a key, and runs of their route."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from functools import cache as once
from functools import partial
from typing import Any, Final, cast

from tortoise.models import Model

from aiomodelcache.contrib.asgi_types import ASGIScope, Receive, Send
from aiomodelcache.contrib.registration import required
from aiomodelcache.contrib.responses.plain import is_plain
from aiomodelcache.contrib.responses.requests import Request
from aiomodelcache.contrib.responses.service import ResponseCache
from aiomodelcache.encoding.keys import encode_value

COMPUTING: Final = "aiomodelcache.computing"
"""The key in the scope of a request under which the decorated endpoint itself runs."""
_SCOPES: Final = ("fastapi.security.oauth2", "SecurityScopes")
"""The module and the name of a class whose instances depend on the route alone."""
PARAMETER: Final = "aiomodelcache_request"
"""The parameter by which FastAPI passes the request to a decorated endpoint."""


@once
def response_class() -> Any:
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


async def _run_endpoint(responses: ResponseCache, scope: ASGIScope, receive: Receive, send: Send) -> None:
    """Runs the route of a request once more, with its dependencies, in which the endpoint itself answers."""
    scope = {**scope, COMPUTING: responses}
    route: Any = scope.get("route")
    if route is None:  # a router that does not name it
        endpoint: Any = scope["endpoint"]
        application = endpoint
        if not inspect.isclass(endpoint):
            application = required("starlette.routing", "starlette").request_response(endpoint)
        await application(scope, receive, send)
    else:
        await route.handle(scope, receive, send)


def request_among(arguments: Iterable[Any]) -> Any:
    """Returns the request among the arguments of an endpoint. Raises ``TypeError`` if there is none."""
    for value in arguments:
        if isinstance(value, required("starlette.requests", "starlette").Request):
            return value
    raise TypeError("cached_response is for endpoints, which Starlette or FastAPI calls with a request.")


def with_request(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Returns the signature of an endpoint, with a parameter by which FastAPI passes the request, if it has none."""
    try:
        signature = inspect.signature(endpoint, eval_str=True)
    except Exception:  # a name that is imported for type checkers only: FastAPI will say so
        signature = inspect.signature(endpoint)
    kind = required("starlette.requests", "starlette").Request
    parameters = list(signature.parameters.values())
    if not any(isinstance(each.annotation, type) and issubclass(each.annotation, kind) for each in parameters):
        at = len(parameters) - (bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        parameters.insert(at, inspect.Parameter(PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
    return signature.replace(parameters=parameters)


@once
def _made_by_frameworks() -> tuple[type, ...]:
    """Returns the types of arguments that say no more than the request itself."""
    names = ("requests.HTTPConnection", "responses.Response", "background.BackgroundTask")
    pairs = [name.split(".") for name in names]
    return tuple([getattr(required(f"starlette.{module}", "starlette"), name) for module, name in pairs])


def keyable(value: Any) -> Any:
    """Returns an argument of an endpoint as a part of a key, None for the request itself and the like.

    Raises ``TypeError`` for an object that cannot be one.
    """
    kind = cast("Any", type(value))
    if is_plain(value):
        return value
    if isinstance(value, _made_by_frameworks()) or (kind.__module__, kind.__name__) == _SCOPES:
        return None
    if isinstance(value, Model):
        return value
    if kind in (list, tuple):
        return [keyable(item) for item in value]
    if kind is dict:
        return {name: keyable(item) for name, item in value.items()}
    if hasattr(kind, "model_dump_json"):
        return [kind.__qualname__, value.model_dump_json()]
    if dataclasses.is_dataclass(kind):
        fields: list[Any] = [keyable(getattr(value, field.name)) for field in dataclasses.fields(kind)]
        return [type(value).__qualname__, *fields]
    encode_value(value)
    return value
