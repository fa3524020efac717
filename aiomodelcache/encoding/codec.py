"""Codecs: the protocol that users implement, and the errors that all codecs raise."""

import datetime
import decimal
import uuid
from typing import Any, Final, Protocol

NATIVE: Final = frozenset(
    {
        int,
        float,
        str,
        bytes,
        bool,
        decimal.Decimal,
        uuid.UUID,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
    }
)
"""Types that msgspec writes and reads back exactly, given the type."""


class DecodeError(ValueError):
    """These bytes are not what this program would have stored."""


class EncodeError(ValueError):
    """This value cannot be stored so that it comes back the same."""


class Codec(Protocol):
    """Turns any value that a cache class computes into bytes and back.

    >>> class PointCodec:
    ...     def encode(self, value: Point) -> bytes:
    ...         return struct.pack("dd", value.x, value.y)
    ...
    ...     def decode(self, data: bytes) -> Point:
    ...         return Point(*struct.unpack("dd", data))
    >>> class Position(ValueCache[Point]):
    ...     codec = PointCodec()
    """

    def encode(self, value: Any) -> bytes:
        """Returns the bytes. Raises ``TypeError`` for a value that it cannot encode."""
        ...

    def decode(self, data: bytes) -> Any:
        """Returns an equal value of the same type, fresh each time. Raises ``DecodeError``."""
        ...
