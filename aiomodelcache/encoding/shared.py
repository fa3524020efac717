"""Copies of decoded values that many callers get, made faster than by decoding the bytes again."""

from collections.abc import Callable
from sys import getsizeof
from typing import Any, Final, NamedTuple, cast

from aiomodelcache.encoding.codec import NATIVE

Copy = Callable[[Any], Any]
"""A function that returns a copy of a value of one shape."""
_CONSTANT: Final[frozenset[Any]] = NATIVE | {type(None)}
"""Types whose values cannot be changed, and hold nothing that can be."""


class SharedPlain(NamedTuple):
    """A decoded value without instances in it, of which any number of copies can be made."""

    value: Any
    copy: Copy
    size: int
    """The approximate bytes that the value takes in memory."""


def shared_plain(value: Any) -> SharedPlain | None:
    """Returns a value to be copied for each caller, or None if decoding it again takes no longer."""
    copy = None if type(value) in _CONSTANT else _copier_of(value)
    return None if copy is None else SharedPlain(value, copy, _size_of(value))


_copy_dict: Final = cast("Copy", dict[Any, Any].copy)
_copy_list: Final = cast("Copy", list[Any].copy)


def _copier_of(value: Any) -> Copy | None:
    kind = cast("Any", type(value))
    if kind in _CONSTANT or (kind is tuple and _CONSTANT.issuperset(map(type, value))):
        return _itself
    if kind is dict and _CONSTANT.issuperset(map(type, value)):  # its keys
        copiers = {key: _copier_of(part) for key, part in value.items() if type(part) not in _CONSTANT}
        if None in copiers.values():
            return None
        return _copier_of_dicts(cast("dict[Any, Copy]", copiers)) if copiers else _copy_dict
    if kind is list:
        if _CONSTANT.issuperset(map(type, value)):
            return _copy_list
        shared = set(map(_copier_of, value))
        if len(shared) == 1 and (copy := shared.pop()) is not None:
            return _copier_of_lists(copy)
    return None


def _itself(value: Any) -> Any:
    return value


def _copier_of_dicts(copiers: dict[Any, Copy]) -> Copy:
    def copy(value: dict[Any, Any]) -> dict[Any, Any]:
        copied = value.copy()
        for key, copy_part in copiers.items():
            copied[key] = copy_part(copied[key])
        return copied

    return copy


def _copier_of_lists(copy: Copy) -> Copy:
    return lambda value: list(map(copy, value))


def _size_of(value: Any) -> int:
    kind = cast("Any", type(value))
    parts: Any = value.values() if kind is dict else value if kind in (list, tuple) else ()
    return getsizeof(value) + sum(map(_size_of, parts))
