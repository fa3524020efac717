"""Return annotations of the functions and methods that compute results."""

import inspect
from collections.abc import Awaitable, Coroutine, Mapping
from types import UnionType
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from aiomodelcache.entries.results import DontCache

_AWAITED: Final = (Coroutine, Awaitable)
_UNIONS: Final = (Union, UnionType)
_TypeArguments = Mapping[Any, Any]
"""Types by the type variables that stand for them."""


def return_type(function: Any, names: _TypeArguments | None = None) -> Any:
    """Returns the type of the values of a coroutine function that may be stored, by its annotation.

    Returns Any if there is no annotation, or if it has names that cannot be resolved.
    """
    try:
        function = inspect.unwrap(function)
        annotation = function.__annotations__["return"]
        holder = type("Returning", (), {"__annotations__": {"return": annotation}})
        resolved = get_type_hints(holder, function.__globals__, include_extras=True)["return"]
        return _stored(_replaced(resolved, names or {}))
    except Exception:  # a name that is imported for type checkers only, or is local to a function
        return Any


def returned_by(cls: type, method: str, base: type) -> Any:
    """Returns the type of what a class computes: by the annotation of its method, or else by the argument of ``base``.

    ``base`` is a generic class of the library whose only argument is the type of its values.
    """
    owner = next(each for each in cls.__mro__ if method in vars(each))
    function: Any = vars(owner)[method]
    if "return" in getattr(function, "__annotations__", {}):
        return return_type(function, _arguments(cls, owner))
    try:
        [argument] = _arguments(cls, base).values()
        return _stored(argument)
    except Exception:  # the base has no argument
        return Any


def _stored(annotation: Any) -> Any:
    """Returns the type without the ``DontCache`` and the coroutine around it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in _AWAITED:
        return _stored(args[-1])
    if origin in _UNIONS:
        kept = [each for each in args if DontCache not in (each, get_origin(each))]
        return Union[tuple(kept)] if kept else Any  # noqa: UP007 - the members are known at run time only
    return Any if DontCache in (annotation, origin) else annotation


def _arguments(cls: type, base: type) -> _TypeArguments:
    """Returns the arguments that a class gives to the type variables of one of its bases."""
    return _follow(cls, base, {}) or {}


def _follow(cls: type, base: type, names: _TypeArguments) -> _TypeArguments | None:
    if cls is base:
        return names
    for declared in vars(cls).get("__orig_bases__", cls.__bases__):
        origin: Any = get_origin(declared) or declared
        if isinstance(origin, type) and issubclass(origin, base):
            parameters = cast("tuple[Any, ...]", getattr(origin, "__parameters__", ()))
            args = [_replaced(each, names) for each in get_args(declared)]
            return _follow(origin, base, dict(zip(parameters, args, strict=False)))
    return None


def _replaced(annotation: Any, names: _TypeArguments) -> Any:
    """Returns the type with its type variables replaced."""
    if isinstance(annotation, TypeVar):
        return names.get(annotation, Any)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or isinstance(annotation, type):
        return annotation
    return annotation[tuple(names.get(each, Any) for each in parameters)]
