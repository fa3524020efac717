"""Models for writes: integer keys, ordered lists, a custom primary key, database defaults, a separate manager.

The keys are integers because no database compares them by a loose collation.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tortoise import fields
from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache import CachedModel, ModelCacheManager


class Author(CachedModel):
    number = fields.IntField(primary_key=True, generated=False)
    name = fields.CharField(max_length=64, unique=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]
        negative_timeout = 60  # caches absences despite a loose collation


class Book(CachedModel):
    id = fields.IntField(primary_key=True)
    isbn = fields.BigIntField(unique=True)
    shelf = fields.IntField(default=1)
    place = fields.IntField(default=0)
    number: fields.Field[int | None] = fields.IntField(null=True)
    title = fields.CharField(max_length=64, default="")
    author: fields.ForeignKeyNullableRelation[Author] = fields.ForeignKeyField(
        "app.Author", related_name="books", null=True
    )

    class Meta:
        ordering = ["place", "id"]
        unique_together = [("shelf", "number")]

    class CacheMeta:
        get_key_fields_list = [("isbn",), ("shelf", "number")]
        filter_key_fields_list = [("shelf",), ("author",), ("shelf", "place")]
        cached_foreignkeys = ["author"]


class Loan(CachedModel):
    id = fields.IntField(primary_key=True)
    weeks = fields.IntField(db_default=3)
    reader = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("weeks",), ("weeks", "reader")]


class Note(Model):
    """A plain model with a separate manager."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    page = fields.IntField(default=1)
    text = fields.CharField(max_length=16, default="")


class NoteCaches(ModelCacheManager[Note]):
    model = Note
    get_key_fields_list = [("number",)]
    filter_key_fields_list = [("page", "number")]


class Scrap(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)


Listener = Callable[..., Awaitable[None]]


@contextmanager
def listening(model: type[Model], signal: Signals, listener: Listener, *, first: bool = False) -> Iterator[None]:
    """Registers a listener for the block, before all others if ``first``, otherwise after them."""
    listeners: list[Any] = Model._listeners[signal].setdefault(model, [])  # type: ignore[index]
    listeners.insert(0 if first else len(listeners), listener)
    try:
        yield
    finally:
        listeners.remove(listener)
