"""The messages of PostgreSQL's plugin ``pgoutput``, in version 1 of its protocol, as values. Pure: no I/O.

In this version, a transaction is sent when it is committed, and in the order of the COMMITs:

1. ``Begin``, then the transaction's messages, then ``Commit``. No two transactions are mixed.
2. A ``Relation`` describes a table before its first change, and again when the description has changed.
3. A value is a text in the server's format, NULL (None), or ``UNSENT``: a large value that an UPDATE left as it was.
4. The old row of an UPDATE is sent only if a column of the replica identity has changed. With REPLICA IDENTITY FULL it
   is always sent. Columns that are not of the replica identity are NULL in it, whatever they were.

The layout is that of the chapter "Logical Replication Message Formats" of PostgreSQL's documentation.
"""

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from aiomodelcache.encoding.messages import SafeError

PROTOCOL_VERSION: Final = 1
"""The version of the protocol. Later ones send transactions that may still be rolled back."""


class MalformedMessage(SafeError):
    """A message is not one of ``pgoutput``. Its text holds no value."""


class _Unsent(enum.Enum):
    UNSENT = "unsent"


UNSENT: Final = _Unsent.UNSENT
"""The value of a column whose large value an UPDATE has left as it was."""

ReplicatedValues = Sequence[bytes | _Unsent | None]
"""The values of a row, in the order of ``Relation.columns``."""


class Begin(NamedTuple):
    """The begin of a committed transaction."""

    lsn: int
    """The position of its COMMIT in the WAL, by which it is identified."""
    time: float
    """The time of its COMMIT by the server's clock, in seconds since the Unix epoch."""


class Commit(NamedTuple):
    """The end of a transaction."""

    lsn: int
    """The position of the COMMIT in the WAL."""


class RelationColumn(NamedTuple):
    """A column of a table."""

    name: str
    is_identity: bool
    """True if the column is one of the replica identity."""


class Relation(NamedTuple):
    """The description of a table."""

    id: int
    schema: str
    name: str
    columns: tuple[RelationColumn, ...]


class RowChange(NamedTuple):
    """A row that was inserted (``old`` is None), deleted (``new`` is None) or updated."""

    relation: int
    kind: str
    """I, U or D."""
    old: ReplicatedValues | None
    """The old row. None for an UPDATE that has changed no column of the replica identity, unless it is FULL."""
    new: ReplicatedValues | None


class Truncated(NamedTuple):
    """Tables that were emptied."""

    relations: tuple[int, ...]


class Emitted(NamedTuple):
    """A message of ``pg_logical_emit_message``."""

    is_transactional: bool
    prefix: str
    content: bytes


ReplicationMessage = Begin | Commit | Relation | RowChange | Truncated | Emitted


def parse_message(data: bytes) -> ReplicationMessage | None:
    """Returns the message; None for one that says nothing of rows. Raises ``MalformedMessage``."""
    found = _Bytes(data)
    read = _READERS.get(kind := found.letter())
    if read is None:
        raise MalformedMessage(f"a message of the unknown kind {kind!r}")
    message = read(found)
    if found.at != len(data):
        raise MalformedMessage(f"{len(data) - found.at} bytes behind a message of the kind {kind!r}")
    return message


class _Bytes:
    """The bytes of a message, read from left to right."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        found = self._data[self.at : self.at + size]
        if size < 0 or len(found) != size:
            raise MalformedMessage("a message that ends too early")
        self.at += size
        return found

    def number(self, format: struct.Struct) -> int:
        """Returns the next number."""
        [found] = format.unpack(self.take(format.size))
        return int(found)

    def letter(self) -> str:
        """Returns the next byte as a letter."""
        return self.take(1).decode("latin-1")

    def text(self) -> str:
        """Returns the next text, which ends with a zero."""
        end = self._data.find(b"\0", self.at)
        if end < 0:
            raise MalformedMessage("a text without an end")
        return self.take(end - self.at + 1)[:-1].decode("utf-8", "surrogateescape")


_EPOCH: Final = 946_684_800
"""The beginning of PostgreSQL's time, in seconds since the Unix epoch."""
_INT8: Final = struct.Struct("!B")
_INT16: Final = struct.Struct("!h")
_INT32: Final = struct.Struct("!i")
_OID: Final = struct.Struct("!I")
_INT64: Final = struct.Struct("!Q")


def _begin(found: _Bytes) -> Begin:
    lsn, time = found.number(_INT64), found.number(_INT64)
    found.take(_OID.size)  # the number of the transaction
    return Begin(lsn, _EPOCH + time / 1e6)


def _commit(found: _Bytes) -> Commit:
    found.take(_INT8.size)  # flags
    lsn = found.number(_INT64)
    found.take(2 * _INT64.size)  # the end of the COMMIT, and the time
    return Commit(lsn)


def _relation(found: _Bytes) -> Relation:
    number, schema, name = found.number(_OID), found.text(), found.text()
    found.take(_INT8.size)  # the kind of the replica identity: each column says whether it is of it
    columns: list[RelationColumn] = []
    for _ in range(_length(found, _INT16)):
        is_identity = found.number(_INT8) & 1 == 1
        columns.append(RelationColumn(found.text(), is_identity))
        found.take(_OID.size + _INT32.size)  # the type
    return Relation(number, schema, name, tuple(columns))


def _row_change(kind: str) -> Callable[[_Bytes], RowChange]:
    def read(found: _Bytes) -> RowChange:
        relation = found.number(_OID)
        rows: dict[str, ReplicatedValues] = {}
        for letters in _ROWS[kind]:
            letter = found.letter()
            if letter not in letters:
                raise MalformedMessage(f"a row of the kind {letter!r} in a message of the kind {kind!r}")
            rows["N" if letter == "N" else "O"] = _values(found)
            if letter == "N":
                break
        return RowChange(relation, kind, rows.get("O"), rows.get("N"))

    return read


_ROWS: Final = {"I": ("N",), "U": ("KON", "N"), "D": ("KO",)}
"""The rows of a change: letters of the first one, and of the next. N is new; K and O are old."""


def _values(found: _Bytes) -> ReplicatedValues:
    values: list[Any] = []
    for _ in range(_length(found, _INT16)):
        match found.letter():
            case "n":
                values.append(None)
            case "u":
                values.append(UNSENT)
            case "t":
                values.append(found.take(_length(found, _INT32)))
            case kind:
                raise MalformedMessage(f"a value of the unknown kind {kind!r}")
    return values


def _truncated(found: _Bytes) -> Truncated:
    number = _length(found, _INT32)
    found.take(_INT8.size)  # options
    oids = found.take(number * _OID.size)
    return Truncated(tuple(each for (each,) in _OID.iter_unpack(oids)))


def _emitted(found: _Bytes) -> Emitted:
    is_transactional = found.number(_INT8) & 1 == 1
    found.take(_INT64.size)  # its position
    return Emitted(is_transactional, found.text(), found.take(_length(found, _INT32)))


def _origin(found: _Bytes) -> None:
    found.take(_INT64.size)
    found.text()


def _type(found: _Bytes) -> None:
    found.take(_OID.size)
    found.text()
    found.text()


def _length(found: _Bytes, format: struct.Struct) -> int:
    number = found.number(format)
    if number < 0:
        raise MalformedMessage("a negative length")
    return number


_READERS: Final[dict[str, Callable[[_Bytes], ReplicationMessage | None]]] = {
    "B": _begin,
    "C": _commit,
    "O": _origin,
    "R": _relation,
    "Y": _type,
    "I": _row_change("I"),
    "U": _row_change("U"),
    "D": _row_change("D"),
    "T": _truncated,
    "M": _emitted,
}
