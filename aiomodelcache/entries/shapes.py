"""Row entries of other releases, whose models have other columns.

A row entry of another release answers if it has all columns of the own model, with the same types: the others are left
out. That is sound because writers of all releases invalidate the same key. An entry that lacks a column is a miss, even
if the column has a default. A process that does not know the column may have stored the entry after a newer process has
written another value. Pure: sends no requests.
"""

import ast
from collections.abc import Callable
from typing import Any, Final

import msgspec

from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.layout import ABSENT, EPOCH, FINGERPRINT, VALUE, DamagedEntry, pack_entry, unpack_entry
from aiomodelcache.encoding.rows import Column, RowCodec
from aiomodelcache.entries.base import ANY_EPOCH, Absent, NoValue, fingerprint, now_ms
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.orm.schema import ModelSchema

MAX_SHAPES: Final = 8
"""Maximum number of releases of one table whose columns are kept in the store. Beyond it, the oldest are forgotten."""
_MAX_SIZE: Final = 64 * 1024
"""Maximum size of the columns of one release, in bytes. Larger ones are not believed."""
_GUARD: Final = bytes(8) + ANY_EPOCH


class StoredShapes:
    """The columns of row entries in one table, by the fingerprint of the entries.

    The store keeps them under ``key``, as each release names them.
    """

    def __init__(self, schema: ModelSchema, version: object, key: bytes) -> None:
        self.key = key
        self.ask: Callable[[], None] = lambda: None
        """Called when an entry has a fingerprint that is not known. Reads the shapes in the store."""
        self._schema = schema
        self._version = version
        self._codecs: dict[bytes, RowCodec | None] = {fingerprint("row", schema.fingerprint, version): None}
        """The codec of the entries with each known fingerprint. None if they lack a column, or are the own ones."""
        self._names = schema.column_names

    def answer(self, entry: bytes, epoch: bytes) -> RowValues | Absent | None:
        """Returns the row or the absence that an entry of another release holds, or None if it cannot answer."""
        if entry[:1] not in (VALUE, ABSENT) or entry[EPOCH] != epoch[1:]:
            return None
        codec = self._codecs.get(entry[FINGERPRINT])
        if codec is None:
            if entry[FINGERPRINT] not in self._codecs:
                self.ask()
            return None
        try:
            payload = unpack_entry(entry)
            if entry[:1] == ABSENT:
                return NoValue.ABSENT
            values = codec.decode(payload)
        except (DamagedEntry, DecodeError):
            return None
        return {name: values[name] for name in self._names}

    def learn(self, stored: bytes | None) -> bytes | None:
        """Learns the shapes that the store holds. Returns those to store instead, or None if the own one is there."""
        shapes = _decoded(stored)
        for shape in shapes:
            found = fingerprint("row", shape, self._version)
            if found not in self._codecs:
                self._codecs[found] = self._codec_of(shape)
        own = self._schema.fingerprint
        return None if own in shapes else msgspec.msgpack.encode([own, *shapes[: MAX_SHAPES - 1]])

    def _codec_of(self, shape: bytes) -> RowCodec | None:
        """Returns the codec of rows with these columns, or None if they lack one of the own columns."""
        try:
            identity, *columns = ast.literal_eval(shape.decode())
            theirs = {column[0]: column for column in columns}
        except Exception:  # of another version of the program, or hostile
            return None
        if identity != self._schema.identity or any(
            theirs.get(name) != column for name, column in self._schema.shapes.items()
        ):
            return None
        own = {column.name: column for column in self._schema.codec.columns}
        return RowCodec([own.get(name) or Column(name, Any) for name in theirs])


def stored_shapes(token: bytes, shapes: bytes) -> bytes:
    """Returns the entry that keeps encoded shapes in the store."""
    return pack_entry(VALUE, token, _GUARD, now_ms(), shapes)


def _decoded(stored: bytes | None) -> list[bytes]:
    if stored is None or stored[:1] != VALUE:
        return []
    try:
        shapes = msgspec.msgpack.decode(unpack_entry(stored), type=list[bytes])
    except (DamagedEntry, msgspec.MsgspecError):
        return []
    return [shape for shape in shapes[:MAX_SHAPES] if len(shape) <= _MAX_SIZE]
