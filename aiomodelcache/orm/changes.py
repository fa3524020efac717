"""Notes which key columns of an instance were changed since it was loaded or saved.

Only a changed instance holds a note, so lookups and loads pay nothing. A note is a hint: an attribute may change
without one, and the row may differ from what was loaded.
"""

import datetime
import uuid
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

from tortoise.models import Model

from aiomodelcache.orm.frozen import refuse_frozen
from aiomodelcache.orm.meta import CHANGED_MARK, READ_ONLY_MARK

SetAttribute = TypeVar("SetAttribute", bound=Callable[..., None])

_WATCHED: Final = "__aiomodelcache_watched__"
_PLAIN: Final = frozenset({int, str, bool, bytes, datetime.date, datetime.datetime, type(None)})
"""Types whose ``==`` is certain not to raise."""
_NOTHING: Final[frozenset[str]] = frozenset()

_noting: Final[WeakSet[Any]] = WeakSet()


def noting(set_attribute: SetAttribute) -> SetAttribute:
    """Makes a model's ``__setattr__`` note changes, and refuse those of read-only instances. Idempotent."""
    if set_attribute in _noting:
        return set_attribute

    @wraps(set_attribute)
    def noting_changes(self: Model, key: str, value: Any) -> None:
        if READ_ONLY_MARK in vars(self) and not _is_harmless(self, key, value):
            refuse_frozen(self, f"setting {key}")
        if key in getattr(self, _WATCHED, _NOTHING):
            _note(self, key, value)
        set_attribute(self, key, value)

    _noting.add(noting_changes)
    return cast("SetAttribute", noting_changes)


def _is_harmless(instance: Model, name: str, value: Any) -> bool:
    """Returns True if setting an attribute attaches a row, leaves the value as it is, or is left to a property."""
    if name.startswith("_") or isinstance(getattr(type(instance), name, None), property):
        return True
    return name in vars(instance) and _is_same(vars(instance)[name], value)


def is_noting(set_attribute: Any) -> bool:
    """Returns True if this ``__setattr__`` is one of ``noting``, and does nothing else for loaded instances."""
    return set_attribute in _noting


def note_changes(model: type[Model], names: Iterable[str]) -> None:
    """Has changes of these attributes noted, besides those that are already."""
    setattr(model, _WATCHED, getattr(model, _WATCHED, _NOTHING) | frozenset(names))


def _note(instance: Model, name: str, value: Any) -> None:
    attributes = vars(instance)
    if attributes.get("_saved_in_db") and not _is_same(attributes.get(name, _noting), value):
        attributes[CHANGED_MARK] = changed_attributes(instance) | {name}


def _is_same(before: Any, value: Any) -> bool:
    if isinstance(before, uuid.UUID) and isinstance(value, uuid.UUID):  # asyncpg has a class of its own
        return before == value
    return before is value or (type(before) is type(value) and type(value) in _PLAIN and before == value)


def changed_attributes(instance: Model) -> frozenset[str]:
    """Returns the watched attributes that were changed since the instance was loaded or saved, as far as noted."""
    changed: frozenset[str] = vars(instance).get(CHANGED_MARK, _NOTHING)
    return changed


def clear_changes(instance: Model) -> None:
    """Drops the note, because the instance holds the values of its row."""
    vars(instance).pop(CHANGED_MARK, None)
