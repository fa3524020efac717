"""Encodes rows and lists of primary keys as typed msgpack.

Knows types and values, not models: ``orm.schema`` passes in the type of each column. A row is one msgpack array of its
column values in a fixed order, decoded by a decoder built for their types. Bytes that do not decode to these types
raise ``DecodeError``, which readers count and treat as a miss. A value that would not come back unchanged is not
stored: encoding it raises ``EncodeError``.
"""

import datetime
import decimal
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from types import GenericAlias
from typing import Any, Final, NamedTuple

import msgspec

from aiomodelcache.encoding.codec import NATIVE, DecodeError, EncodeError
from aiomodelcache.encoding.messages import SafeTypeError, described, safe_cause, safe_reason
from aiomodelcache.encoding.values import encoder, read_extension


class Column(NamedTuple):
    """One column of a row.

    ``type`` is the type that msgspec decodes to. ``dump`` converts a value before it is encoded, ``load`` after it is
    decoded; neither is called with None. Both may be a user's own code and may raise anything. ``is_lossless`` returns
    True for values, never None, that come back unchanged if they can be written at all. All others are decoded again
    at once and compared.
    """

    name: str
    type: Any
    dump: Callable[[Any], Any] | None = None
    load: Callable[[Any], Any] | None = None
    is_lossless: Callable[[Any], bool] | None = None
    is_frozen: bool = False
    """True if what ``load`` returns is immutable and depends on its argument alone."""
    zone: datetime.tzinfo | None = None
    """The zone that ``load`` puts in the place of UTC, if it does nothing else to times in UTC."""


class SharedRow:
    """A decoded row of which any number of dicts can be made, at less cost than by decoding it again.

    The dicts share the values that cannot be changed. Each has values of its own in the other columns.
    """

    __slots__ = ("_anew", "_values")

    def __init__(self, values: dict[str, Any], anew: Sequence[tuple[str, Callable[[bytes], Any], bytes]]) -> None:
        self._values = values
        self._anew = anew
        """The columns that are decoded for each dict, with their decoders and their bytes."""

    def copy(self) -> dict[str, Any]:
        """Returns a new dict of all columns. Raises what a user's own ``load`` raises."""
        values = self._values.copy()
        for name, decode, data in self._anew:
            values[name] = decode(data)
        return values

    def add(self, values: dict[str, Any]) -> None:
        """Adds values to every dict that is made from now on."""
        self._values.update(values)

    @property
    def size(self) -> int:
        """The approximate bytes that the row takes in memory."""
        parts = [self._values, *self._values.values(), *[data for _, _, data in self._anew]]
        return sum(map(sys.getsizeof, parts)) + _ANEW_SIZE * len(self._anew)


_ANEW_SIZE: Final = 64
_MAX_PROVEN: Final = 256
"""Maximum number of remembered types of rows of one codec. Beyond it, others are checked value by value."""
_ARRAY_32: Final = b"\xdd"
"""The first byte of a msgpack array whose number of items follows in four bytes."""
_as_dict: Final = msgspec.structs.asdict


class RowCodec:
    """The codec of rows with these columns. A row is a dict of values by column name."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self._names = tuple(column.name for column in columns)
        self._row_of: Callable[[dict[str, Any]], Iterable[Any]] = _items_getter(self._names)
        self._columns = [(column.name, _is_lossless(column), column.dump) for column in columns]
        self._by_value = [each for each in self._columns if not isinstance(each[1], TypePredicate)]
        """The columns of which more than the type of a value says whether it comes back unchanged."""
        self._proven: set[tuple[type, ...]] = set()
        """Types of rows whose other columns come back unchanged."""
        self._dumps = [(at, dump) for at, dump in enumerate(column.dump for column in columns) if dump is not None]
        self._loads = [(column.name, column.load) for column in columns if column.load is not None]
        # A struct becomes a dict at less cost than a tuple: decoding and conversion are one call each.
        row = msgspec.defstruct(
            "Row",
            [(column.name, column.type | None if column.type is not Any else Any) for column in columns],
            array_like=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        self._anew = [(at, column, _decoder_of(column)) for at, column in enumerate(columns) if not _is_frozen(column)]
        self._read: Callable[[bytes], Any] = msgspec.msgpack.Decoder(row, ext_hook=read_extension).decode
        array: Any = GenericAlias(list, (row,))
        self._read_all: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(array, ext_hook=read_extension).decode

    def encode(self, values: dict[str, Any]) -> bytes:
        """Returns the bytes of this codec's columns in ``values``. Raises ``EncodeError``."""
        try:
            row = list(self._row_of(values))
            shape = tuple(map(type, row))
            for at, convert in self._dumps:
                if row[at] is not None:
                    row[at] = convert(row[at])
            data = encoder.encode(row)
            unproven = [
                (name, dump)
                for name, is_lossless, dump in (self._by_value if shape in self._proven else self._columns)
                if (value := values[name]) is not None and not is_lossless(value)
            ]
            if not unproven and len(self._proven) < _MAX_PROVEN:
                self._proven.add(shape)
            elif unproven:
                decoded = self.decode_unsafely(data)
                for name, dump in unproven:
                    _check_round_trip(name, values[name], decoded[name], dump)
        except Exception as error:
            missing = [name for name in self._names if name not in values]
            if missing:
                raise EncodeError(f"it lacks {', '.join(missing)}") from safe_cause(error)
            raise EncodeError(re.sub(r"`\$\[(\d+)\]", self._column_name, safe_reason(error))) from safe_cause(error)
        return data

    def decode(self, data: bytes) -> dict[str, Any]:
        """Returns a new dict of all columns. Raises ``DecodeError``."""
        try:
            return self.decode_unsafely(data)
        except Exception as error:
            raise DecodeError(safe_reason(error)) from safe_cause(error)

    def decode_unsafely(self, data: bytes) -> dict[str, Any]:
        """Decodes like ``decode``, but lets the exceptions of msgspec and of a user's own ``load`` pass."""
        values = _as_dict(self._read(data))
        for name, load in self._loads:
            value = values[name]
            if value is not None:
                values[name] = load(value)
        return values

    def decode_all(self, rows: Sequence[bytes]) -> list[dict[str, Any]]:
        """Decodes rows like ``decode_unsafely``, at less cost for each."""
        decoded = list(map(_as_dict, self._read_all(b"".join((_ARRAY_32, len(rows).to_bytes(4), *rows)))))
        for name, load in self._loads:
            for values in decoded:
                value = values[name]
                if value is not None:
                    values[name] = load(value)
        return decoded

    def decode_shared(self, data: bytes) -> SharedRow:
        """Decodes a row to be handed out many times. Raises the exceptions of ``decode_unsafely``."""
        values = self.decode_unsafely(data)
        columns = [each for each in self._anew if each[1].load is not None or type(values[each[1].name]) not in FROZEN]
        raw = _read_raw(data) if columns else []
        anew = [(column.name, decode, bytes(raw[at])) for at, column, decode in columns if bytes(raw[at]) != _NIL]
        values.update(dict.fromkeys([name for name, _, _ in anew]))
        return SharedRow(values, anew)

    def _column_name(self, position: re.Match[str]) -> str:
        """Returns the name of a column that a message of msgspec names by its position."""
        return f"`{self._names[int(position[1])]}"


def _items_getter(names: Sequence[str]) -> Callable[[dict[str, Any]], Iterable[Any]]:
    """Returns a function that returns the values of a dict under these names, in order."""
    return itemgetter(*names) if len(names) > 1 else lambda values: [values[name] for name in names]


class KeysCodec:
    """The codec of the primary keys that an index entry lists."""

    def __init__(self, column: Column) -> None:
        self._name = column.name
        self._dump = column.dump
        self._load = column.load
        self._is_lossless = _is_lossless(column)
        self.trusts_types = column.load is None and column.type in _HASHABLE_TYPES
        """True if whatever decodes can be hashed, compared and encoded as a key."""
        array: Any = GenericAlias(list, (column.type,))
        self._decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(array, ext_hook=read_extension)

    def encode(self, pks: Sequence[Any]) -> bytes:
        """Returns the bytes of the keys, in order. Raises ``EncodeError``."""
        dump = self._dump
        try:
            data = encoder.encode(pks if dump is None else [_dumped(pk, dump) for pk in pks])
            if not all(map(self._is_lossless, pks)):
                for pk, decoded in zip(pks, self._decode(data), strict=True):
                    _check_round_trip(self._name, pk, decoded, dump)
        except Exception as error:
            raise EncodeError(safe_reason(error)) from safe_cause(error)
        return data

    def decode(self, data: bytes) -> list[Any]:
        """Returns the keys, in order. Raises ``DecodeError``."""
        try:
            return self._decode(data)
        except Exception as error:
            raise DecodeError(safe_reason(error)) from safe_cause(error)

    def _decode(self, data: bytes) -> list[Any]:
        load = self._load
        pks = self._decoder.decode(data)
        if load is not None:
            pks = [load(pk) for pk in pks]
        if not self.trusts_types:
            hash(tuple(pks))  # raises for a list, and for a decimal that signals
        return pks


class TypePredicate:
    """A predicate that is True for values of exactly one type, or for every value if that is None."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type | None) -> None:
        self._kind = kind

    def __call__(self, value: Any) -> bool:
        return self._kind is None or type(value) is self._kind


class _NoType:
    """A type without values."""


def _is_lossless(column: Column) -> Callable[[Any], bool]:
    if column.is_lossless is not None:
        return column.is_lossless
    if column.dump is column.load is None and column.type in _LOSSLESS_TYPES:
        return TypePredicate(column.type)
    return TypePredicate(_NoType)


def _is_frozen(column: Column) -> bool:
    return column.is_frozen or (column.load is None and column.type in NATIVE)


def _decoder_of(column: Column) -> Callable[[bytes], Any]:
    """Returns a function that decodes the bytes of one value, which is not None."""
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(column.type, ext_hook=read_extension).decode
    load = column.load
    return decode if load is None else lambda data: load(decode(data))


_read_raw: Final[Callable[[bytes], list[msgspec.Raw]]] = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_NIL: Final = b"\xc0"
FROZEN: Final = NATIVE | {type(None)}
"""Types whose values cannot be changed."""
_HASHABLE_TYPES: Final = frozenset({int, str, bytes, bool, uuid.UUID, datetime.date, datetime.timedelta})
_LOSSLESS_TYPES: Final = frozenset({int, float, str, bytes, bool, decimal.Decimal, uuid.UUID, datetime.date})
"""Types whose values msgspec either decodes exactly or refuses to encode."""


def _dumped(value: Any, dump: Callable[[Any], Any] | None) -> Any:
    return value if dump is None or value is None else dump(value)


def _check_round_trip(name: str, value: Any, decoded: Any, dump: Callable[[Any], Any] | None) -> None:
    """Raises ``TypeError`` if a value was decoded to a different one.

    SQLite may hold values that are not of their column's type. A custom field may convert one way only, such as a
    password that is hashed when it is stored. NaN counts as equal to itself. Values of a class without equality count
    as equal if they are dumped to equal values. The decoded value may be of a driver's own subclass (asyncpg's UUID)
    where a writer holds a value of the common class.
    """
    if isinstance(decoded, type(value)) and (_equal(value, decoded) or (dump and dump(value) == dump(decoded))):
        return
    raise SafeTypeError(f"{name} is {described(value)}, which would come back as another value ({described(decoded)})")


def _equal(value: Any, decoded: Any) -> bool:
    try:
        return bool(value == decoded or value != value)
    except ValueError:  # an array of a numeric library has no truth value
        return False
