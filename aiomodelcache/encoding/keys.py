"""Cache keys: an injective encoding of values to bytes that are readable in ``redis-cli``.

Pure: knows Python values, not models. A value becomes one tag letter and its text: ``i7``, ``spycon``, ``n`` for None.

Values that a database holds to be equal share an encoding, because a writer has to name the key that a reader used.
Such are ``Decimal("1.0")`` and ``Decimal("1")``, one instant in two time zones, and ``0.0`` and ``-0.0``. Values of
different types never share an encoding: 1, "1", True and ``Decimal("1")`` differ. ``orm.schema`` converts a value to
its field's type before the value is encoded here.

A released encoding never changes: during a deployment old and new processes must invalidate each other's entries.
"""

import datetime
import decimal
import enum
import hashlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

from aiomodelcache.encoding.messages import SafeTypeError

_MAX_LENGTH: Final = 160
"""Maximum length of the encoded values in a key, in bytes. A longer text is replaced by its digest."""
INT_LIMIT: Final = 2**63
"""Bound of the integers that ``encode_single`` formats at once: their text is always within ``_MAX_LENGTH``."""
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
NARROW_SUFFIX: Final = b":-"
"""The suffix that makes the key of a table's version the key of its narrow version."""


STAMP_MARK: Final = b"amc:s:"
"""A part of the key of each stamp, and hardly of other versions (see ``KeySpace.stamp_key``)."""


def key_prefix(namespace: str, kind: str, *parts: str) -> bytes:
    """Returns the common beginning of all keys of one kind, colon included, e.g. ``amc:r:default:event:``."""
    head = [_escape(namespace.encode(), b"{")] if namespace else []
    return b":".join([*head, b"amc", kind.encode(), *(_escape(part.encode(), b"{") for part in parts), b""])


class KeySpace(NamedTuple):
    """The part that the keys of one cache have in common, or those of one of its tenants."""

    namespace: str = ""
    tenant: bytes | None = None
    """The tenant as ``encode_tenant`` returns it. Empty outside of any tenant, None without tenants."""
    partitions: int = 1
    """The number of parts into which the keys of a model are divided, see ``encoding.partitions``."""

    def prefix(self, kind: str, *parts: str) -> bytes:
        """Returns the common beginning of all keys of one kind, tenant and colon included."""
        return key_prefix(self.namespace, kind, *parts) + (self.tenant or b"")

    def stamp_key(self, connection: str, *parts: str) -> bytes:
        """Returns the key of the stamp of a table or of a class of values."""
        return self.prefix("s", connection, *parts)[:-1]

    def table_key(self, connection: str, table: str) -> bytes:
        """Returns the key of a table's version, which all tenants share."""
        return key_prefix(self.namespace, "t", connection if self.tenant is None else "*", table)[:-1]

    def tag_key(self, tag: str) -> bytes:
        """Returns the key of a tag's version, which all tenants share."""
        return key_prefix(self.namespace, "g", tag)[:-1]

    def epoch_key(self, connection: str, *parts: str) -> bytes:
        """Returns the key of the epoch of a table or of a class of values, which all tenants share."""
        return key_prefix(self.namespace, "e", connection if self.tenant is None else "*", *parts)[:-1]

    def shapes_key(self, connection: str, table: str) -> bytes:
        """Returns the key of the columns of row entries of one table, which all tenants share."""
        return key_prefix(self.namespace, "c", connection if self.tenant is None else "*", table)[:-1]

    def relay_key(self, connection: str, fingerprint: str) -> bytes:
        """Returns the key that lives while a relay covers what this fingerprint stands for. All tenants share it."""
        return key_prefix(self.namespace, "l", connection, fingerprint)[:-1]


def encode_tenant(tenant: str | int | bytes | uuid.UUID) -> bytes:
    """Returns the part of a key that names a tenant, like ``@sacme:``. No encoded value begins like this."""
    return b"@" + encode_single(tenant).replace(b"{", b"%7B") + b":"


def encode_values(values: Iterable[Any]) -> bytes:
    """Returns the last part of a key: the encoded values joined by colons, or a digest of a long text.

    Raises ``TypeError`` for a value of a type that has no encoding.
    """
    return _shortened(b":".join(map(encode_value, values)))


def encode_single(value: Any) -> bytes:
    """Returns the same as ``encode((value,))``, but faster, because every hit calls it."""
    if type(value) is int and -INT_LIMIT < value < INT_LIMIT:
        return b"i%d" % value
    return _shortened(_text(value) if type(value) is str else encode_value(value))


def _shortened(text: bytes) -> bytes:
    if len(text) > _MAX_LENGTH:
        return b"#" + hashlib.blake2b(text, digest_size=20).hexdigest().encode()
    return text


def encode_value(value: Any) -> bytes:
    """Returns the encoding of one value, free of colons. Raises ``TypeError`` if its type has none."""
    encoder = _ENCODERS.get(cast("Any", type(value)))
    return encoder(value) if encoder is not None else _encode_subclass(value)


def _escape(text: bytes, *specials: bytes) -> bytes:
    for special in (b"%", b":", *specials):
        if special in text:
            text = text.replace(special, b"%%%02X" % special[0])
    return text


def _text(value: str) -> bytes:
    text = value.encode("utf-8", "surrogatepass")
    return b"s" + (_escape(text) if b":" in text or b"%" in text else text)


def _int(value: int) -> bytes:
    try:
        return b"i%d" % value
    except ValueError:  # more digits than Python converts to decimal
        return b"i%b" % hex(value).encode()


def _float(value: float) -> bytes:
    return b"f" + repr(float(value) + 0.0).encode()  # -0.0 + 0.0 is 0.0; NumPy floats have their own repr


def _decimal(value: decimal.Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, str):  # NaN, infinity
        return b"d" + str(value).encode()
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant:
        return b"d0"
    return b"d%s%se%d" % (b"-" if sign else b"", significant.encode(), exponent + len(text) - len(significant))


def _datetime(value: datetime.datetime) -> bytes:
    if value.utcoffset() is None:
        return b"t" + _escape(value.replace(tzinfo=None).isoformat().encode())
    return b"T%d" % ((value - _EPOCH) // _MICROSECOND)


def _enum(value: enum.Enum) -> bytes:
    cls = type(value)
    return b"e" + _escape(f"{cls.__module__}.{cls.__qualname__}.{value.name}".encode())


def _sequence(tag: bytes) -> Callable[[Iterable[Any]], bytes]:
    return lambda values: tag + b",".join(map(_item, values))


def _item(value: Any) -> bytes:
    if type(value) is int and -INT_LIMIT < value < INT_LIMIT:
        return b"i%d" % value
    return _escape(encode_value(value), b",")


def _set(values: Iterable[Any]) -> bytes:
    return b"S" + b",".join(sorted([_escape(encode_value(value), b",") for value in values]))


def _mapping(value: dict[Any, Any]) -> bytes:
    return b"m" + _set(list(value.items()))


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    int: _int,
    str: _text,
    type(None): lambda value: b"n",
    bool: lambda value: b"b1" if value else b"b0",
    uuid.UUID: lambda value: b"u" + value.hex.encode(),
    decimal.Decimal: _decimal,
    float: _float,
    bytes: lambda value: b"x" + value.hex().encode(),
    datetime.datetime: _datetime,
    datetime.date: lambda value: b"D" + value.isoformat().encode(),
    datetime.time: lambda value: b"h" + _escape(value.isoformat().encode()),
    datetime.timedelta: lambda value: b"p%d" % (value // _MICROSECOND),
    tuple: _sequence(b"("),
    list: _sequence(b"["),
    set: _set,
    frozenset: _set,
    dict: _mapping,
}


def _encode_subclass(value: Any) -> bytes:
    """Encodes a subclass's value (a driver's own UUID, a ``str`` enum) like the base class's value that it equals."""
    for base in type(value).__mro__[1:]:
        if base in _ENCODERS:
            return _ENCODERS[base](value)
    if isinstance(value, enum.Enum):
        return _enum(value)
    raise SafeTypeError(
        f"A value of type {type(value).__qualname__} cannot be part of a cache key: "
        "use a number, a string, a date, a UUID, an enum member, or a tuple of these. "
        "Or let a `key` of your own return such a value."
    )


def key_text(key: bytes) -> str:
    """Returns a key as ``redis-cli`` shows it."""
    return key.decode("utf-8", "surrogatepass")


def is_text(value: object) -> bool:
    """Returns True if ``value`` is a string that has an encoding in UTF-8, so no lone surrogate."""
    try:
        str.encode(cast("str", value))
    except (TypeError, UnicodeEncodeError):
        return False
    return True
