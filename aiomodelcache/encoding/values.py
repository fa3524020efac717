"""Encodes values without a declared type: computed results, JSON documents, arrays.

msgpack alone confuses some Python types, a tuple and a list for example. Those are wrapped as msgpack extensions.
Never pickle: decoding bytes must not run code.
"""

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import msgspec

from aiomodelcache.encoding.codec import DecodeError

encoder: Final = msgspec.msgpack.Encoder(uuid_format="bytes")


class ValueCodec:
    """Encodes any value made of numbers, text, dates, lists, tuples, sets and dicts: the codec of computed results."""

    def encode(self, value: Any) -> bytes:
        """Returns the bytes. Raises ``TypeError`` naming the type of what cannot be stored."""
        return encoder.encode(to_msgpack(value))

    def decode(self, data: bytes) -> Any:
        """Returns an equal value of the same types, fresh each time. Raises ``DecodeError``."""
        try:
            return _any.decode(data)
        except Exception as error:
            raise DecodeError(str(error)) from error


class InstanceReference(NamedTuple):
    """An instance within a computed result: its model, and its primary key as ``KeysCodec`` writes it.

    The model is named with its app, because its table's name may be another model's in another database.
    """

    model: str
    pk: bytes


# Values of no declared type: JSON documents, arrays, computed results ----------------------------


def to_msgpack(value: Any) -> Any:
    """Returns ``value`` with everything that untyped msgpack would confuse wrapped as an extension.

    Raises ``TypeError`` naming the type of a value that has no encoding: an instance of a subclass, too,
    would come back as another.
    """
    kind = cast("Any", type(value))
    if kind in _PLAIN or (kind is int and -(2**63) <= value < 2**64):
        return value
    if kind is list:
        return [item if type(item) in _PLAIN else to_msgpack(item) for item in value]
    if kind is dict and _TEXT.issuperset(map(type, value)):
        return {key: item if type(item) in _PLAIN else to_msgpack(item) for key, item in value.items()}
    code = _CODES.get(kind)
    if code is None:
        raise TypeError(f"a {kind.__qualname__} cannot be cached: return numbers, text, dates, lists or dicts")
    return msgspec.msgpack.Ext(code, _EXTENSIONS[code][1](value))


def read_extension(code: int, data: memoryview) -> Any:
    """Decodes one msgpack extension."""
    return _EXTENSIONS[code][2](bytes(data))


def _pack_items(items: Any) -> bytes:
    return encoder.encode([to_msgpack(item) for item in items])


_any: Final = msgspec.msgpack.Decoder(ext_hook=read_extension)
_PLAIN: Final = frozenset({type(None), bool, str, float, bytes})
_TEXT: Final = frozenset({str})
_EXTENSIONS: Final[dict[int, tuple[type, Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
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
    8: (tuple, _pack_items, lambda data: tuple(_any.decode(data))),
    9: (set, _pack_items, lambda data: set(_any.decode(data))),
    10: (frozenset, _pack_items, lambda data: frozenset(_any.decode(data))),
    11: (dict, lambda value: _pack_items(map(list, value.items())), lambda data: dict(_any.decode(data))),
    12: (InstanceReference, _pack_items, lambda data: InstanceReference(*_any.decode(data))),
}
_CODES: Final = {kind: code for code, (kind, _, _) in _EXTENSIONS.items()}
