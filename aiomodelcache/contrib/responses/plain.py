"""Arguments of an endpoint that can be a part of a key as they are. Pure."""

from typing import Any, cast


def is_plain(value: Any) -> bool:
    """Returns True for values of the most common types, whose text tells them apart and can be encoded."""
    kind = cast("Any", type(value))
    return kind is int or kind is bool or value is None or (kind is str and value.isascii())


def are_plain(values: Any) -> bool:
    """Returns True for a list of such values."""
    return cast("Any", type(values)) is list and all(map(is_plain, values))
