"""Encodes values without a declared type: computed results, JSON documents, arrays.

msgpack alone confuses some Python types, such as tuples and lists. Their values are wrapped as msgpack extensions.
Pickle is never used, because decoding bytes must not run code.
"""

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import msgspec

from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.messages import SafeTypeError, described, safe_cause, safe_reason

encoder: Final = msgspec.msgpack.Encoder(uuid_format="bytes")

MAX_NESTING: Final = 100
"""Maximum number of lists, dicts, tuples and sets inside one another. A value that is nested deeper is not stored.

Well below Python's recursion limit, so that no walk over a stored value raises ``RecursionError``.
"""


class ValueCodec:
    """The codec of computed results: any value made of numbers, text, dates, lists, tuples, sets and dicts."""

    def encode(self, value: Any) -> bytes:
        """Returns the bytes of ``value``. Raises ``TypeError`` naming the type of a value that cannot be stored."""
        return encoder.encode(to_msgpack(value))

    def decode(self, data: bytes) -> Any:
        """Returns an equal value of the same types, a new object on each call. Raises ``DecodeError``."""
        try:
            return _untyped.decode(data)
        except Exception as error:
            raise DecodeError(safe_reason(error)) from safe_cause(error)


class InstanceReference(NamedTuple):
    """A reference to an instance within a computed result: its model, and its primary key as ``KeysCodec`` writes it.

    ``model`` includes the app, because another database may have a table of the same name for another model.
    """

    model: str
    pk: bytes


class StoredInstance(NamedTuple):
    """Stands for an instance within a derived value, which is stored beside the value under this number."""

    number: int


class StoredMember(NamedTuple):
    """Stands for a member of an enum within a derived value: a field whose values are such members, and its value."""

    model: str
    field: str
    value: Any


def to_msgpack(value: Any, levels: int = MAX_NESTING) -> Any:
    """Returns ``value`` with every part that untyped msgpack would confuse wrapped as an extension.

    Raises ``TypeError`` naming the type of a value that has no encoding. A subclass has none either: its instances
    would come back as those of the base class. Also raises it for a value that is nested deeper than ``levels``.
    """
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind in _UNAMBIGUOUS or (kind is int and -(2**63) <= value < 2**64):
        return value
    if kind in _NESTING and not levels:
        raise SafeTypeError(TOO_DEEP)
    if kind is list:
        if _is_flat(value):
            return value
        return [item if type(item) in _UNAMBIGUOUS else to_msgpack(item, levels - 1) for item in value]
    if kind is dict and _STR_ONLY.issuperset(map(type, value)):
        if _is_plain(value.values(), levels):
            return value
        return {
            key: item if type(item) in _UNAMBIGUOUS else to_msgpack(item, levels - 1) for key, item in value.items()
        }
    code = _CODES.get(kind)
    if code is None:
        raise SafeTypeError(
            f"{described(value)} cannot be cached: return numbers, text, dates, lists or dicts, "
            "or annotate the result with its type"
        )
    if code in _COLLECTIONS:
        items = map(list, value.items()) if kind is dict else value
        return msgspec.msgpack.Ext(code, encoder.encode([to_msgpack(item, levels - 1) for item in items]))
    return msgspec.msgpack.Ext(code, _SCALARS[code][1](value))


def _is_flat(items: Collection[Any]) -> bool:
    """Returns True for items that msgpack takes as they are. Some others may be such, too."""
    kinds = set(map(type, items))
    if int not in kinds:
        return kinds <= _UNAMBIGUOUS
    if not kinds <= _LEAVES:
        return False
    numbers = items if len(kinds) == 1 else [item for item in items if type(item) is int]
    return bool(min(numbers) >= -(2**63) and max(numbers) < 2**64)


def _is_plain(items: Collection[Any], levels: int) -> bool:
    """Returns True for items that msgpack takes as they are, among them flat lists. Some others may be such, too."""
    kinds = set(map(type, items))
    if not kinds <= _PLAIN or (levels == 1 and list in kinds):
        return False
    for item in items if not kinds <= _UNAMBIGUOUS else ():
        kind: Any = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is list:
            if not _is_flat(item):
                return False
        elif kind is int and not -(2**63) <= item < 2**64:
            return False
    return True


def read_extension(code: int, data: memoryview) -> Any:
    """Returns the value of one msgpack extension."""
    if code in _COLLECTIONS:
        return _COLLECTIONS[code][1](_untyped.decode(data))
    return _SCALARS[code][2](bytes(data))


TOO_DEEP: Final = f"it is nested deeper than {MAX_NESTING} levels"
_untyped: Final = msgspec.msgpack.Decoder(ext_hook=read_extension)
_UNAMBIGUOUS: Final = frozenset({type(None), bool, str, float, bytes})
_LEAVES: Final = _UNAMBIGUOUS | {int}
_PLAIN: Final = _LEAVES | {list}
_STR_ONLY: Final = frozenset({str})
_SCALARS: Final[dict[int, tuple[type, Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
    1: (int, lambda value: b"%d" % value, lambda data: int(data.decode())),
    2: (decimal.Decimal, lambda value: str(value).encode(), lambda data: decimal.Decimal(data.decode())),
    3: (uuid.UUID, lambda value: value.bytes, lambda data: uuid.UUID(bytes=data)),
    4: (
        datetime.datetime,
        lambda value: value.isoformat().encode(),
        lambda data: datetime.datetime.fromisoformat(data.decode()),
    ),
    5: (
        datetime.date,
        lambda value: value.isoformat().encode(),
        lambda data: datetime.date.fromisoformat(data.decode()),
    ),
    6: (
        datetime.time,
        lambda value: value.isoformat().encode(),
        lambda data: datetime.time.fromisoformat(data.decode()),
    ),
    7: (
        datetime.timedelta,
        lambda value: b"%d" % (value // datetime.timedelta(microseconds=1)),
        lambda data: datetime.timedelta(microseconds=int(data.decode())),
    ),
}
_COLLECTIONS: Final[dict[int, tuple[type, Callable[[Any], Any]]]] = {
    8: (tuple, tuple),
    9: (set, set),
    10: (frozenset, frozenset),
    11: (dict, dict),
    12: (InstanceReference, lambda items: InstanceReference(*items)),
    13: (StoredInstance, lambda items: StoredInstance(*items)),
    14: (StoredMember, lambda items: StoredMember(*items)),
}
_CODES: Final = {entry[0]: code for table in (_SCALARS, _COLLECTIONS) for code, entry in table.items()}
_NESTING: Final = frozenset[Any]({list, *(kind for kind, _ in _COLLECTIONS.values())})
"""The types whose values hold other values."""
_CODE: Final = re.escape(bytes([_CODES[InstanceReference]]))
_REFERENCE: Final = re.compile(
    _CODE
    + b"(?:"
    + b"|".join([b"(?<=" + size + _CODE + b")" for size in (rb"[\xd4-\xd8]", rb"\xc7.", rb"\xc8..", rb"\xc9....")])
    + b")",
    re.DOTALL,
)
"""The beginning of an ``InstanceReference``, of any length. Numbers and text may hold the same bytes.

The pattern begins with the byte that all have in common, because the search skips to that byte quickly.
"""
_CONTAINERS: Final = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])
"""The bytes with which msgpack's lists, maps and extensions begin. Numbers and text may hold them, too."""


def is_surely_plain(data: bytes) -> bool:
    """Returns True if an encoded value certainly holds no ``InstanceReference``, and is not nested too deep.

    Reads the bytes only: a walk over the value takes a hundred times as long.
    """
    return _REFERENCE.search(data) is None and len(data) - len(data.translate(None, _CONTAINERS)) <= MAX_NESTING
