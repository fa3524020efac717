"""Lookups of the rows of one model by one key: ``get``, ``filter``, ``exists``, ``count``.

A query knows its key and makes its result of the rows; ``plans`` knows how rows are found, ``engine`` when requests
are sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.models import Model

from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.results import Compute, ResultEntries, map_nested
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache, default_cache_or_none
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import index_hit, rows_at
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.results import instance_of, result_at
from aiomodelcache.plans.rows import row_by_pk
from aiomodelcache.query.base import CacheQuery, T
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class Located(NamedTuple):
    """A query's place in one open cache."""

    cache: OpenCache
    entry_set: EntrySet
    values: Values
    key: bytes


class LookupQuery(CacheQuery[T]):
    """A lookup of the rows of one model by one key."""

    __slots__ = ("_cache", "_entry_set", "_key", "_model", "_values")

    instances: ClassVar[bool] = True
    """Whether the result holds the rows themselves, not just how many there are."""
    _quick: ClassVar[bool] = True
    """Whether ``try_hit`` says the same as ``plan`` about a hit."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cast("Any", cls).plan is not cast("Any", LookupQuery).plan and "_quick" not in cls.__dict__:
            cls._quick = False

    _cache: OpenCache | None
    """In which open cache it is located: where ``_entry_set``, ``_values`` and ``_key`` are of."""

    def __init__(self, model: type[Model], cache: OpenCache | None = None) -> None:
        super().__init__(cache)
        self._model = model
        self._cache = None

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, list[Any]]:
        """The key and the raw values asked for. Raises ``CacheNotRegistered``."""
        raise NotImplementedError

    def finish(self, found: Sequence[Any]) -> T:
        """Makes the result of the rows found."""
        raise NotImplementedError

    def locate(self, cache: OpenCache) -> Located:
        """Resolves fields and values, once per open cache.

        Raises ``CacheNotRegistered`` for fields without a cache and ``ValueError`` for a bad value.
        """
        if self._cache is not cache:
            self._locate(cache)
        return Located(cache, self._entry_set, self._values, self._key)

    def _locate(self, cache: OpenCache) -> None:
        entry_set, raw = self.entry_set(cache)
        values: Values = tuple(map(entry_set.schema.normalise, entry_set.attributes, raw))
        self._entry_set, self._values, self._key = entry_set, values, entry_set.key_of(values)
        self._cache = cache

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        if self._cache is cache:
            return self._entry_set.schema.transaction()
        return cache.entries_of(self._model).schema.transaction()

    def recall(self, cache: OpenCache, scope: Scope) -> T | None:
        if not self._quick:
            return None
        if self._cache is not cache:
            self._locate(cache)
        known = scope.recall(self._key)
        return self.finish(known) if known else None  # what an absence raises is said by the plan

    def nearby(self, cache: OpenCache) -> T | Miss:
        if not self._quick:
            return NoValue.MISS
        if self._cache is not cache:
            self._locate(cache)
        if not self._entry_set.near:
            return NoValue.MISS
        found: T | Miss = cache.reader.hits.find_near(self, cache)
        return found

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        if not self._quick:
            return None
        if self._cache is not cache:
            self._locate(cache)
        return self

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, None], /) -> None:
        if self._cache is not cache:
            self._locate(cache)
        entry_set, key = self._entry_set, self._key
        wanted[entry_set.epoch_key] = wanted[key] = None
        if entry_set.__class__ is not RowEntries:
            for predicted in cache.predictions.predict(key).keys:
                wanted[predicted] = None

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> T | Miss:
        if self._cache is not cache:
            self._locate(cache)
        entry_set, key = self._entry_set, self._key
        if isinstance(entry_set, RowEntries):
            row = entry_set.hit(found[key], found[entry_set.epoch_key], self._values[0])
            if row is None:
                return NoValue.MISS
            entry_set.counters.hits += 1
            return self.finish((entry_set.schema.instance(row) if self.instances else row,))
        rows = index_hit(entry_set, self._values, key, cache.predictions.predict(key), found)
        if not rows:
            return NoValue.MISS
        entry_set.counters.hits += 1
        entry_set.rows.counters.hits += len(rows)
        return self.finish([entry_set.schema.instance(row) for row in rows] if self.instances else rows)

    def start_plan(self, cache: OpenCache, /) -> Plan[T]:
        return self.plan(cache, None)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        _, entry_set, values, key = self.locate(cache)
        generation = 0
        if scope is not None:
            known = scope.recall(key)
            if known is not None:
                return self.finish(known)
            generation = scope.generation
        if isinstance(entry_set, RowEntries):
            found = yield from row_by_pk(entry_set, values[0], key)
        else:
            found = yield from rows_at(entry_set, values, key, cache.predictions)
        if not self.instances and scope is None:
            return self.finish(found)
        made = [instance_of(entry_set, row) for row in found]
        if scope is not None:
            made = scope.keep(key, [(row_key(entry_set, row), row) for row in made], generation)
        return self.finish(made)


def row_key(entry_set: EntrySet, instance: Model) -> bytes:
    """The key of the row entry of an instance."""
    return entry_set.rows.key(instance.pk)


class FieldsQuery(LookupQuery[T]):
    """A lookup by field names, as the manager's methods make.

    Where a cache is open it raises ``CacheNotRegistered`` at once; bad values wait until it is awaited.
    """

    __slots__ = ("_given",)

    kind: ClassVar[str] = "get"

    def __init__(self, model: type[Model], given: Mapping[str, Any], cache: OpenCache | None = None) -> None:
        # All that the classes above do: the way of every lookup.
        self.chosen = cache
        self._model = model
        self._cache = None
        self._given = given
        known = cache or default_cache_or_none()
        if known is not None:
            try:
                self._locate(known)
            except CacheNotRegistered:
                raise
            except (ValueError, TypeError):
                pass

    def _locate(self, cache: OpenCache) -> None:
        entries = cache.models.get(self._model) or cache.entries_of(self._model)
        found = entries.find(self.kind, self._given)
        self._values, self._key = found.place(self._given)
        self._entry_set, self._cache = found.entry_set, cache

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"<{type(self).__name__} {self._model.__name__}({given})>"


class GetQuery(FieldsQuery[M], Generic[M]):
    """The one row with these values. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> M:
        row: M = found[0] if len(found) == 1 else exactly_one(self._model, found)
        return row


class GetOr404Query(GetQuery[M], Generic[M]):
    """The one row with these values. Raises what ``CacheConfig.not_found`` says, or ``MultipleObjectsReturned``."""

    __slots__ = ()
    _quick: ClassVar[bool] = True

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[M]:
        try:
            return (yield from super().plan(cache, scope))
        except DoesNotExist as error:
            raise cache.config.no_row(self._model) from error


class GetOrNoneQuery(FieldsQuery[M | None], Generic[M]):
    """The one row with these values, or None. Raises ``MultipleObjectsReturned``."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> M | None:
        return exactly_one(self._model, found) if found else None


class FilterQuery(FieldsQuery[list[M]], Generic[M]):
    """All rows with these values, in the list's order. A new list each time."""

    __slots__ = ()
    kind: ClassVar[str] = "filter"

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


class ExistsQuery(FieldsQuery[bool]):
    """Whether there is a row with these values."""

    __slots__ = ()
    kind: ClassVar[str] = "either"
    instances: ClassVar[bool] = False

    def finish(self, found: Sequence[Any]) -> bool:
        return bool(found)


class CountQuery(FieldsQuery[int]):
    """How many rows have these values."""

    __slots__ = ()
    kind: ClassVar[str] = "either"
    instances: ClassVar[bool] = False

    def finish(self, found: Sequence[Any]) -> int:
        return len(found)


def computed(cache: OpenCache, result: ResultEntries, key: bytes, compute: Compute, scope: Scope | None) -> Plan[Any]:
    """How a computed result is answered: by the request's scope, by the cache, or by computing it."""
    if scope is None:
        return (yield from result_at(result, key, compute, cache.predictions))
    known = scope.recall(key)
    if known is not None:
        return known[0]
    generation = scope.generation
    value = yield from result_at(result, key, compute, cache.predictions)
    row_keys: list[bytes] = []

    def own(instance: Model) -> Model:
        entries = cache.models.get(type(instance))
        if entries is None:
            return instance
        row_keys.append(entries.rows.key(instance.pk))
        return cast("Model", scope.own(row_keys[-1], instance, generation))

    value = map_nested(value, Model, own)
    scope.keep_result(key, value, row_keys, generation)
    return value


def exactly_one(model: type[Model], found: Sequence[Any]) -> Any:
    """Returns the one row. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""
    if len(found) == 1:
        return found[0]
    raise (MultipleObjectsReturned if found else DoesNotExist)(model)
