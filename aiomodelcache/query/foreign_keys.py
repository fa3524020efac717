"""Cached foreign keys: ``await event.organizer`` is answered by the cache.

Replaces the property by which Tortoise resolves a foreign key that was not fetched. Only the user's own model classes
change, and only the declared relations. Without an open cache, the property behaves as Tortoise's own.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, ClassVar

from tortoise.models import Model

from aiomodelcache.open_cache import OpenCache, caller_cache
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.requests import Plan
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import FieldsQuery, exactly_one
from aiomodelcache.scopes.request import Scope


class ForeignKeyQuery(FieldsQuery[Any]):
    """The row at the other end of a foreign key, or None. Has the attributes of Tortoise's own query, too."""

    __slots__ = ("_query",)
    kind: ClassVar[str] = "get"

    def __init__(self, model: type[Model], filters: dict[str, Any], query: Any) -> None:
        super().__init__(model, filters)
        self._query = query

    def finish(self, found: Sequence[Any]) -> Any:
        return exactly_one(self._model, found) if found else None

    def __bool__(self) -> bool:
        """Returns True, as Tortoise's query does: ``if event.organizer`` asks whether the relation is set."""
        return True

    def __getattr__(self, name: str) -> Any:
        # Copies have no attributes at first, and no use for the special methods of Tortoise's query.
        if name == "_query" or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            return getattr(self._query, name)
        except AttributeError:
            raise AttributeError(f"{self!r} is a query and has no attribute {name!r}: await it.") from None


class NullForeignKey(CacheQuery[None]):
    """The relation of a foreign key that is null: None, without I/O. It is false, as Tortoise's own object is."""

    __slots__ = ("_model",)

    def __init__(self, model: type[Model]) -> None:
        super().__init__()
        self._model = model

    def __repr__(self) -> str:
        return "<relation of a null foreign key>"

    def __bool__(self) -> bool:
        return False

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()

    def transaction(self, cache: OpenCache) -> None:
        return None

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return cache.entries_of(self._model).rows, ()

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[None]:
        yield from ()


class CachedForeignKey(property):
    """The property that answers a relation from the cache."""


def install_foreign_key(schema: ModelSchema, field: str) -> None:
    """Installs the property on one relation of one model. The default cache answers it. Idempotent."""
    relation = schema.foreign_key(field)
    original = getattr(schema.model, field)
    if relation is None or isinstance(original, CachedForeignKey):
        return
    related, attribute, to_field = relation

    def get(instance: Model) -> Any:
        related_row = original.fget(instance)
        value = getattr(instance, attribute)
        cache = caller_cache()
        if f"_{field}" in instance.__dict__ or cache is None or related not in cache.models:
            return related_row
        return NullForeignKey(related) if value is None else ForeignKeyQuery(related, {to_field: value}, related_row)

    setattr(schema.model, field, CachedForeignKey(get, original.fset, original.fdel))
