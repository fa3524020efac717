"""Return types as msgspec sees them: whether a codec can be made of one, and a text that changes with its fields."""

import json
import re
import sys
from enum import Enum
from typing import Any, Final, NamedTuple, cast, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.inspect import (
    ByteArrayType,
    CustomType,
    DataclassType,
    EnumType,
    ExtType,
    Field,
    LiteralType,
    MemoryViewType,
    NamedTupleType,
    RawType,
    StructType,
    Type,
    UnionType,
    type_info,
)

_OF_USERS: Final = (StructType, DataclassType, NamedTupleType, EnumType, ByteArrayType)
"""Types whose values come back only if the type is known: ``ValueCodec`` does not store them."""
_UNKNOWN: Final = (RawType, ExtType, MemoryViewType)
"""Types whose values are parts of a message, not copies of them."""
_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")
"""The end of the ``repr`` of an object such as a function."""
_SCALARS: Final = (type(None), bool, int, float, str, bytes)


class Shape(NamedTuple):
    """A return type. ``text`` is equal in all processes that declare the same fields with the same types.

    ``typed`` is True if the values need the type to be decoded, and all its parts can be.
    """

    text: str
    typed: bool


ANY: Final = Shape("", False)
"""The shape of values without a type, or of a type that msgspec does not know."""


def shape_of(annotation: Any) -> Shape:
    """Returns the shape of a type."""
    try:
        description = _Description()
        text = description.describe(type_info(annotation))
    except Exception:  # such as a union whose members look alike in a message
        return ANY
    return ANY if description.unknown else Shape(text, description.of_users)


def is_pydantic(cls: Any) -> bool:
    """Returns True for a class of pydantic's models. Does not import pydantic."""
    base: Any = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return isinstance(base, type) and isinstance(cls, type) and issubclass(cls, base)


class _Description:
    """The text of a type and of the types in it."""

    def __init__(self) -> None:
        self.unknown = self.of_users = False
        self._path: list[Type] = []
        """The types around the one that is described now."""

    def describe(self, value: Any) -> str:
        if isinstance(value, tuple):
            return f"({','.join(map(self.describe, cast('tuple[object, ...]', value)))})"
        if isinstance(value, Type):
            return self._type(value)
        if isinstance(value, Field):
            return self._struct(value)
        return _name(value)

    def _type(self, info: Type) -> str:
        for depth, outer in enumerate(self._path):
            if outer is info:  # a recursive type
                return f"#{depth}"
        self.of_users |= isinstance(info, _OF_USERS)
        self.unknown |= isinstance(info, _UNKNOWN)
        self._path.append(info)
        if isinstance(info, UnionType):
            text = f"({'|'.join(sorted(map(self.describe, info.types)))})"
        elif isinstance(info, LiteralType):
            text = f"Literal{sorted(map(repr, info.values))}"
        elif isinstance(info, EnumType):
            text = f"{info.cls.__qualname__}{[(name, _value(member)) for name, member in info.cls.__members__.items()]}"
        elif isinstance(info, CustomType):
            text = self._custom(info.cls)
        else:
            text = self._struct(info)
        self._path.pop()
        return text

    def _struct(self, value: msgspec.Struct) -> str:
        parts = [f"{name}={self.describe(getattr(value, name))}" for name in value.__struct_fields__]
        return f"{type(value).__name__}({','.join(parts)})"

    def _custom(self, cls: Any) -> str:
        if not is_pydantic(cls):
            self.unknown = True
            return ""
        self.of_users = True
        fields = {name: _ADDRESS.sub("", repr(field.annotation)) for name, field in cls.model_fields.items()}
        try:  # it describes nested models, too
            schema = json.dumps(cls.model_json_schema(), sort_keys=True)
        except Exception:  # a field of a type that JSON schemas do not have
            schema = ""
        return f"{cls.__qualname__}{fields}{schema}"


def _value(member: Enum) -> str:
    return _name(member.value)


def _name(value: object) -> str:
    """Returns a text that names a default value or a class. It contains no address of an object."""
    if value is NODEFAULT:
        return ""
    if type(value) in _SCALARS:
        return repr(value)
    named: Any = value if callable(value) else type(value)
    return getattr(get_origin(named) or named, "__qualname__", "")
