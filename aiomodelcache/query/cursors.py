"""Cursors: the position of a row in a list, as text that a client keeps and sends back.

A cursor holds the row's primary key and its values of the ordering columns. So it marks the position even if the row is
deleted or moved. It comes back from clients, so nothing in it is believed: decoding runs no code, and the values are
checked like those of a lookup.
"""

import base64
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any, Final

from aiomodelcache.encoding.messages import SafeError, safe_cause, safe_reason
from aiomodelcache.encoding.values import ValueCodec
from aiomodelcache.orm.keyset import columns_of_order
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.orm.schema import ModelSchema

_CHECKSUM_SIZE: Final = 6
"""Bytes of the checksum, which tells the cursors of one order from those of others, and from other text."""
MAX_LENGTH: Final = 10_000
"""Maximum number of characters of a cursor. A longer one is refused before it is decoded."""
_codec: Final = ValueCodec()


def cursor_of(schema: ModelSchema, order_by: Sequence[str], row: RowValues) -> str | None:
    """Returns the cursor of a row, or None if a value that the row is ordered by cannot be part of one."""
    names = _names(schema, order_by)
    try:
        payload = _codec.encode([_plain(schema.key_value(name, row[name])) for name in names])
    except (TypeError, KeyError):
        return None
    text = base64.urlsafe_b64encode(_checksum(schema, order_by, payload) + payload)
    return text.rstrip(b"=").decode()


def decode_cursor(schema: ModelSchema, order_by: Sequence[str], cursor: str) -> dict[str, Any]:
    """Returns the values that a cursor holds, by attribute, the primary key included. Raises ``ValueError``."""
    names = _names(schema, order_by)
    try:
        if len(cursor) > MAX_LENGTH:
            raise SafeError("it is too long")
        data = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        checksum, payload = data[:_CHECKSUM_SIZE], data[_CHECKSUM_SIZE:]
        if checksum != _checksum(schema, order_by, payload):
            raise SafeError("its checksum is wrong")
        values: list[Any] = _codec.decode(payload)
        position = {name: schema.normalise(name, value) for name, value in zip(names, values, strict=True)}
        nullable = {name: value for name, value in position.items() if value is not None or name == schema.pk}
        if not schema.can_hold(tuple(nullable), tuple(nullable.values())):
            raise SafeError("no row can have its values")
    except Exception as error:
        raise ValueError(
            f"This text is no cursor of a list of {schema.name} in the order ({', '.join(order_by)}): "
            f"{safe_reason(error)}. Pass the cursor of a page of the same list, or None for the first page."
        ) from safe_cause(error)
    return position


def _names(schema: ModelSchema, order_by: Sequence[str]) -> list[str]:
    """Returns the attributes that a cursor holds, the primary key first."""
    return list(dict.fromkeys([schema.pk, *(name for name, _ in columns_of_order(schema.model, order_by))]))


def _checksum(schema: ModelSchema, order_by: Sequence[str], payload: bytes) -> bytes:
    order = "\0".join([schema.table, *order_by]).encode()
    return hashlib.blake2b(order + b"\0\0" + payload, digest_size=_CHECKSUM_SIZE).digest()


def _plain(value: Any) -> Any:
    """Returns a UUID of a driver's own class as one of Python's."""
    return uuid.UUID(int=value.int) if isinstance(value, uuid.UUID) else value
