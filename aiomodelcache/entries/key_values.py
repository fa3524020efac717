"""The way back from a key to the entries that it belongs to, and to the values that it was made of.

A key of long values holds only a digest, which tells no values.
"""

import datetime
import decimal
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

from aiomodelcache.encoding.partitions import TAG_SIZE
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import Values

T = TypeVar("T")


def find_by_prefix(by_prefix: Mapping[bytes, T], key: bytes) -> T | None:
    """Returns what has the longest prefix that the key begins with and that ends at one of its colons, or None."""
    at = key.rfind(b":")
    while at > 0:
        found = by_prefix.get(key[: at + 1])
        if found is not None:
            return found
        at = key.rfind(b":", 0, at)
    return None


def values_in(entry_set: RowEntries | IndexEntries, key: bytes) -> Values | None:
    """Returns the values that a key of a row, an index or a list was made of, or None if the key lacks them.

    Values are decoded by their letters, and believed only if they make the same key again.
    """
    rest = key[len(entry_set.prefix) + (TAG_SIZE + 1 if entry_set.partitions.divided else 0) :]
    if rest.startswith((b"#", b"@")):
        return None
    parts = rest.decode("utf-8", "surrogatepass").split(":") if entry_set.attributes else []
    schema, attributes = entry_set.schema, entry_set.attributes
    if isinstance(entry_set, ManyToManyEntries):
        schema, attributes = entry_set.owner, (entry_set.owner.pk,)
    try:
        decoded = [schema.normalise(name, _decoded(part)) for name, part in zip(attributes, parts, strict=True)]
        values = tuple(decoded)
        return values if entry_set.key_of(values) == key else None
    except Exception:  # another type of value, or of a user's own field
        return None


def _decoded(part: str) -> Any:
    """Returns the value of an encoded part of a key. Raises ``ValueError`` for a type that is not decoded."""
    text = part[1:].replace("%3A", ":").replace("%25", "%")
    match part[:1]:
        case "i":
            return int(text)
        case "s":
            return text
        case "n":
            return None
        case "b":
            return text == "1"
        case "u":
            return uuid.UUID(hex=text)
        case "x":
            return bytes.fromhex(text)
        case "D":
            return datetime.date.fromisoformat(text)
        case "t":
            return datetime.datetime.fromisoformat(text)
        case "T":
            seconds, micro = divmod(int(text), 1_000_000)
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC) + datetime.timedelta(microseconds=micro)
        case "d":
            digits, _, exponent = text.partition("e")
            return decimal.Decimal(digits).scaleb(int(exponent or 0))
        case "f":
            return float(text)
        case _:
            raise ValueError("a value of this type is not decoded")
