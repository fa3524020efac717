"""``check_same``: a strict comparison of a value with what its bytes decode to."""

import dataclasses
import datetime
import decimal
import enum
import functools
import math
import operator
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final, cast

import msgspec

from aiomodelcache.encoding.messages import SafeTypeError, described
from aiomodelcache.encoding.shapes import is_pydantic
from aiomodelcache.encoding.values import MAX_NESTING, TOO_DEEP


def check_same(value: Any, decoded: Any) -> None:
    """Raises ``SafeTypeError`` if two values, or parts of them, differ in type or in value.

    Stricter than ``==``: 1 is not 1.0, -0.0 is not 0.0, ``Decimal("1.0")`` is not ``Decimal("1")``, and times have the
    same offset from UTC. NaN is the same as NaN.
    """
    _Comparison().check(value, decoded, "it", MAX_NESTING)


class _Comparison:
    """One comparison. It looks up the fields of each class once."""

    def __init__(self) -> None:
        self._fields: dict[Any, dict[str, str]] = {}
        """The fields of each class, by name, with their names in errors."""

    def check(self, value: Any, decoded: Any, where: str, levels: int) -> None:
        """Compares two values. ``where`` names the part in the error."""
        kind = cast("Any", type(value))
        if kind is not type(decoded):
            raise _difference(value, decoded, where)
        equal = _SCALARS.get(kind)
        if equal is not None:
            if not equal(value, decoded):
                raise _difference(value, decoded, where)
        elif issubclass(kind, enum.Enum):
            if value is not decoded:
                raise _difference(value, decoded, where)
        elif not levels:
            raise SafeTypeError(TOO_DEEP)
        elif issubclass(kind, list | tuple):
            self._check_items(value, decoded, where, levels)
        elif issubclass(kind, dict):
            self._check_items(value, decoded, where, levels)  # in order
            self._check_items(value.values(), decoded.values(), where, levels)
        elif issubclass(kind, set | frozenset):
            found = {item: item for item in decoded}
            self._check_items(value, [found[item] for item in value if item in found], where, levels)
        else:
            self._check_object(kind, value, decoded, where, levels)

    def _check_items(self, items: Collection[Any], others: Collection[Any], where: str, levels: int) -> None:
        if len(items) != len(others):
            raise SafeTypeError(f"{where} would come back with other items")
        for item, other in zip(items, others, strict=True):
            self.check(item, other, where, levels - 1)

    def _check_object(self, kind: Any, value: Any, decoded: Any, where: str, levels: int) -> None:
        fields = self._fields.get(kind)
        if fields is None:
            names = _field_names(kind)
            if names is None:
                if value != decoded:
                    raise _difference(value, decoded, where)
                return
            fields = self._fields[kind] = {name: f"{kind.__qualname__}.{name}" for name in names}
        for name, place in fields.items():
            self.check(getattr(value, name, _UNSET), getattr(decoded, name, _UNSET), place, levels - 1)
        for name in getattr(value, "__dict__", ()):
            if name not in fields and not isinstance(getattr(kind, name, None), functools.cached_property):
                raise SafeTypeError(f"{where} has an attribute that is no field of {kind.__qualname__}")
        if is_pydantic(kind):
            self.check(_beside_fields(value), _beside_fields(decoded), where, levels - 1)


def _difference(value: object, decoded: object, where: str) -> SafeTypeError:
    other = described(decoded)
    return SafeTypeError(f"{where} is {described(value)}, which would come back as another value ({other})")


def _field_names(kind: Any) -> list[str] | None:
    """Returns the names of a class's fields, or None for a class whose objects are compared as a whole."""
    if issubclass(kind, msgspec.Struct):
        return [*kind.__struct_fields__]
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if is_pydantic(kind):
        return [*kind.model_fields]
    attributes: Any = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]


def _beside_fields(model: Any) -> list[Any]:
    """Returns what a model of pydantic has beside the values of its fields."""
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    return [extra and {**extra}, private and {**private}, model.model_fields_set]


def _same_float(value: float, decoded: float) -> bool:
    return (value == decoded and math.copysign(1, value) == math.copysign(1, decoded)) or value != value


def _same_moment(value: Any, decoded: Any) -> bool:
    """Compares two times of day, or two times of one date."""
    if value.replace(tzinfo=None) != decoded.replace(tzinfo=None) or value.utcoffset() != decoded.utcoffset():
        return False
    aware = value.tzinfo is not None
    return aware == (decoded.tzinfo is not None) and (aware or value.fold == decoded.fold)


_UNSET: Final = object()
_SCALARS: Final[dict[Any, Callable[[Any, Any], bool]]] = {
    **dict.fromkeys((type(None), bool, int, str, bytes, bytearray, uuid.UUID), operator.eq),
    **dict.fromkeys((datetime.date, datetime.timedelta), operator.eq),
    float: _same_float,
    decimal.Decimal: lambda value, decoded: value.as_tuple() == decoded.as_tuple(),
    datetime.datetime: _same_moment,
    datetime.time: _same_moment,
}
"""Comparisons of two values of one type, for types without parts."""
