"""Read-only instances: they refuse ``save``, ``delete`` and changes of their attributes.

A mark in the instance says so. ``changes`` looks at it where attributes are set.
"""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, cast

import msgspec
from tortoise.fields.relational import ReverseRelation
from tortoise.models import Model

from aiomodelcache.exceptions import ReadOnlyInstanceError
from aiomodelcache.orm.meta import READ_ONLY_MARK


def freeze(value: Any) -> None:
    """Makes every instance in a value read-only, with the rows that are attached to it."""
    found = [value]
    while found:
        each: Any = found.pop()
        if isinstance(each, Model):
            if READ_ONLY_MARK not in vars(each):
                vars(each)[READ_ONLY_MARK] = True
                found += vars(each).values()
        else:
            found += _items(each)


def _items(value: Any) -> Iterable[Any]:
    kind = cast("Any", type(value))
    if issubclass(kind, ReverseRelation):
        return list(value.related_objects) if value._fetched else []
    if issubclass(kind, dict | list | tuple | set | frozenset):
        return list(value.values() if issubclass(kind, dict) else value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value).values()
    return [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []


def refuse_frozen(instance: Model, action: str) -> None:
    """Raises ``ReadOnlyInstanceError`` for a read-only instance. ``action``: a verb for the message."""
    if READ_ONLY_MARK in vars(instance):
        name = type(instance).__name__
        raise ReadOnlyInstanceError(
            f"This {name} was looked up with options(read_only=True), so {action} is refused: look it up without, or "
            f"load it by {name}.get(...), to change it."
        )
