"""Cached foreign keys: ``await event.organizer`` asks the cache.

Replaces, on the user's own model class and for the declared relations only, the property by which
Tortoise resolves a foreign key that was not fetched. Without an open cache it behaves as before.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from tortoise.models import Model

from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.query.lookups import FieldsQuery, exactly_one


class ForeignKeyQuery(FieldsQuery[Any]):
    """The row at the other end of a foreign key, or None; also offers what Tortoise's own query offers."""

    __slots__ = ("_query",)
    kind: ClassVar[str] = "get"

    def __init__(self, model: type[Model], given: dict[str, Any], query: Any) -> None:
        super().__init__(model, given)
        self._query = query

    def finish(self, found: Sequence[Any]) -> Any:
        return exactly_one(self._model, found) if found else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._query, name)


class CachedForeignKey(property):
    """The property that answers a relation from the cache."""


def install(schema: ModelSchema, field: str) -> None:
    """Makes one relation of one model answered by whatever cache is open. A second time does nothing."""
    relation = schema.foreign_key(field)
    original = getattr(schema.model, field)
    if relation is None or isinstance(original, CachedForeignKey):
        return
    related, attribute, to_field = relation

    def get(instance: Model) -> Any:
        found = original.fget(instance)
        value = getattr(instance, attribute)
        cache = default_cache_or_none()
        if value is None or f"_{field}" in instance.__dict__ or cache is None or related not in cache.models:
            return found
        return ForeignKeyQuery(related, {to_field: value}, found)

    setattr(schema.model, field, CachedForeignKey(get, original.fset, original.fdel))
