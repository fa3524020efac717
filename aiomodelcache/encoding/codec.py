"""Codecs: the protocol that users implement, and the errors that all codecs raise."""

import datetime
import decimal
import uuid
from typing import Any, Final, Protocol

from aiomodelcache.encoding.messages import SafeError

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
"""Types that msgspec decodes to an equal value when it knows the type."""


class DecodeError(SafeError):
    """The error for bytes that this program would not have stored. Its text is logged, and must not hold a value."""


class EncodeError(SafeError):
    """The error for a value that would not come back the same. Its text is logged, and must not hold the value."""


class Codec(Protocol):
    """A converter between the values that a cache class computes and bytes.

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
        """Returns the bytes of ``value``. Raises ``TypeError`` for a value that the codec cannot encode."""
        ...

    def decode(self, data: bytes) -> Any:
        """Returns an equal value of the same type, a new object on each call. Raises ``DecodeError``."""
        ...
