"""Encodes rows and lists of primary keys as typed msgpack.

Knows types and values, not models; ``orm.schema`` says which type each column has. A row is one msgpack array of its
column values in a fixed order, decoded by a decoder that was built for these types. Bytes that do not decode to them
raise ``DecodeError``, which readers count and treat as a miss. A value that would not come back as it was is not
stored: ``EncodeError``.
"""

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any, Final, NamedTuple

import msgspec

from aiomodelcache.encoding.codec import DecodeError, EncodeError
from aiomodelcache.encoding.values import encoder, read_extension


class Column(NamedTuple):
    """One column of a row.

    ``type`` is what msgspec reads; ``dump`` and ``load`` convert what is not None before and after. Both may be
    a user's own code, and may raise anything. ``is_lossless`` tells, of what is not None, values that come back as they
    were if they can be written at all; any other is read back at once, to see.
    """

    name: str
    type: Any
    dump: Callable[[Any], Any] | None = None
    load: Callable[[Any], Any] | None = None
    is_lossless: Callable[[Any], bool] | None = None


_as_dict: Final = msgspec.structs.asdict


class RowCodec:
    """Encodes the values of some columns and decodes them to a dict by column name."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._names = tuple(column.name for column in columns)
        self._columns = [(column.name, _is_lossless(column), column.dump) for column in columns]
        self._dumps = [(at, dump) for at, dump in enumerate(column.dump for column in columns) if dump is not None]
        self._loads = [(column.name, column.load) for column in columns if column.load is not None]
        # On its way to a dict a struct costs less than a tuple does: both steps are one call.
        row = msgspec.defstruct(
            "Row",
            [(column.name, column.type | None if column.type is not Any else Any) for column in columns],
            array_like=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        self._read: Callable[[bytes], Any] = msgspec.msgpack.Decoder(row, ext_hook=read_extension).decode

    def encode(self, values: dict[str, Any]) -> bytes:
        """Returns the bytes of the columns found in ``values``. Raises ``EncodeError``."""
        try:
            row = [values[name] for name in self._names]
            for at, convert in self._dumps:
                if row[at] is not None:
                    row[at] = convert(row[at])
            data = encoder.encode(row)
            doubtful = [
                (name, dump)
                for name, is_lossless, dump in self._columns
                if (value := values[name]) is not None and not is_lossless(value)
            ]
            if doubtful:
                again = self.decode_unsafely(data)
                for name, dump in doubtful:
                    _check(name, values[name], again[name], dump)
        except Exception as error:
            raise EncodeError(re.sub(r"`\$\[(\d+)\]", self._named, str(error))) from error
        return data

    def decode(self, data: bytes) -> dict[str, Any]:
        """Returns a new dict of all columns. Raises ``DecodeError``."""
        try:
            return self.decode_unsafely(data)
        except Exception as error:
            raise DecodeError(str(error)) from error

    def decode_unsafely(self, data: bytes) -> dict[str, Any]:
        """The same, but raises whatever msgspec and a user's own ``load`` do."""
        values = _as_dict(self._read(data))
        for name, load in self._loads:
            value = values[name]
            if value is not None:
                values[name] = load(value)
        return values

    def _named(self, place: re.Match[str]) -> str:
        """msgspec tells where it stumbled by number."""
        return f"`{self._names[int(place[1])]}"


class KeysCodec:
    """Encodes the primary keys that an index entry lists."""

    def __init__(self, column: Column) -> None:
        self._name = column.name
        self._dump = column.dump
        self._load = column.load
        self._is_lossless = _is_lossless(column)
        array: Any = GenericAlias(list, (column.type,))
        self._decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(array, ext_hook=read_extension)

    def encode(self, pks: Sequence[Any]) -> bytes:
        """Returns the bytes of the keys, in order. Raises ``EncodeError``."""
        dump = self._dump
        try:
            data = encoder.encode(pks if dump is None else [_dumped(pk, dump) for pk in pks])
            if not all(map(self._is_lossless, pks)):
                for pk, again in zip(pks, self._decode(data), strict=True):
                    _check(self._name, pk, again, dump)
        except Exception as error:
            raise EncodeError(str(error)) from error
        return data

    def decode(self, data: bytes) -> list[Any]:
        """Returns the keys, in order. Raises ``DecodeError``."""
        try:
            return self._decode(data)
        except Exception as error:
            raise DecodeError(str(error)) from error

    def _decode(self, data: bytes) -> list[Any]:
        load = self._load
        pks = self._decoder.decode(data)
        return pks if load is None else [load(pk) for pk in pks]


def is_a(kind: type) -> Callable[[Any], bool]:
    """Returns what tells values of exactly this type."""
    return lambda value: type(value) is kind


def _is_lossless(column: Column) -> Callable[[Any], bool]:
    if column.is_lossless is not None:
        return column.is_lossless
    if column.dump is column.load is None and column.type in _PROVEN:
        return is_a(column.type)
    return lambda value: False


_PROVEN: Final = frozenset({int, float, str, bytes, bool, decimal.Decimal, uuid.UUID, datetime.date})
"""Types of which msgspec refuses to write what it would not read back exactly."""


def _dumped(value: Any, dump: Callable[[Any], Any] | None) -> Any:
    return value if dump is None or value is None else dump(value)


def _check(name: str, value: Any, again: Any, dump: Callable[[Any], Any] | None) -> None:
    """Raises ``TypeError`` if a value came back as another.

    A database may hold what its column's type does not say (SQLite), and a custom field need not undo
    what it does (a password that is hashed on its way in). NaN is itself; values of classes that know
    no equality are the same if they are stored as the same. What comes back may be of a driver's own
    subclass, where a writer knows the value as the common one (asyncpg's UUID).
    """
    if isinstance(again, type(value)) and (_equal(value, again) or (dump and dump(value) == dump(again))):
        return
    raise TypeError(f"{name} is {value!r}, which would come back as {again!r}")


def _equal(value: Any, again: Any) -> bool:
    try:
        return bool(value == again or value != value)
    except ValueError:  # an array of a numeric library has no truth
        return False
