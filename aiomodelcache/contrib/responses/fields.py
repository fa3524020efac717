"""Header fields, as RFC 9110 and RFC 9111 define them. Pure: knows bytes, not requests and responses."""

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final

Fields = list[tuple[bytes, bytes]]
"""Header fields as ASGI has them: pairs of a name and a value, in order, with repeated names."""

MAX_DELTA_SECONDS: Final = 2**31
"""Seconds that greater numbers of a field stand for, as in RFC 9111, section 1.2.2."""

_MEMBER: Final = re.compile(rb'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
"""One member of a comma-separated list. Commas in quoted strings separate nothing."""
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?"[^"]*"')


def combined_value(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Returns the value of a field, the values of repeated ones joined by commas, or None without the field."""
    values = [value.strip() for key, value in fields if key.lower() == name]
    return b", ".join(values) if values else None


def list_members(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Returns the members of a field that is a comma-separated list. Empty members do not count."""
    found = [member.strip() for member in _MEMBER.findall(combined_value(fields, name) or b"")]
    return [member for member in found if member]


def names_in(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> frozenset[bytes]:
    """Returns the names in a field that lists names of fields, such as ``Vary``, in lower case."""
    return frozenset([member.lower() for member in list_members(fields, name)])


def directives(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes | None]:
    """Returns the directives of ``Cache-Control``, with their arguments. A repeated one has its least argument."""
    found: dict[bytes, bytes | None] = {}
    for member in list_members(fields, b"cache-control"):
        name, equals, argument = member.partition(b"=")
        name, value = name.strip().lower(), argument.strip().strip(b'"') if equals else None
        if name in found and (delta_seconds(found[name]) or 0) < (delta_seconds(value) or 0):
            continue
        found[name] = value
    return found


def delta_seconds(argument: bytes | None) -> int | None:
    """Returns a number of seconds, or None for anything else."""
    return min(int(argument), MAX_DELTA_SECONDS) if argument and argument.isdigit() else None


def lifetime(argument: bytes | None) -> int:
    """Returns the seconds that a directive grants. An invalid number grants none."""
    return delta_seconds(argument) or 0


def entity_tags(value: bytes) -> list[bytes]:
    """Returns the entity tags of a list, with quotes and with the prefix of weak ones."""
    return _ENTITY_TAG.findall(value)


def opaque_tag(tag: bytes) -> bytes:
    """Returns an entity tag without the prefix of weak ones, for the weak comparison."""
    return tag.removeprefix(b"W/")


def http_date(value: bytes | None) -> float | None:
    """Returns a date in any of the three formats of HTTP as seconds since the Unix epoch, or None if it is none."""
    try:
        return parsedate_to_datetime((value or b"").decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
