"""Lookups of the rows of one model by one key: ``get``, ``filter``, ``exists``, ``count``.

A query knows its key, and makes its result of the rows. ``plans`` knows how rows are found, and ``engine`` knows when
requests are sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.partitioned import PartitionedRows
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache, default_cache_or_none
from aiomodelcache.orm.hydrate import adopt, adopt_all
from aiomodelcache.orm.meta import Values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.indexes import index_hit, rows_at
from aiomodelcache.plans.lists import part_of_list
from aiomodelcache.plans.paths import RelationPath
from aiomodelcache.plans.requests import FastLookup, Missed, Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.plans.rows import row_by_pk
from aiomodelcache.query.base import CacheQuery, T
from aiomodelcache.query.lists import OrderableList
from aiomodelcache.query.parts import LocatedList, Slice
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class LocatedKey(NamedTuple):
    """The key of a query in one open cache."""

    cache: OpenCache
    entry_set: EntrySet
    values: Values
    key: bytes


class LookupQuery(CacheQuery[T]):
    """A lookup of the rows of one model by one key."""

    __slots__ = ("_cache", "_entry_set", "_epoch_key", "_key", "_model", "_values")

    builds_instances: ClassVar[bool] = True
    """True if the result holds model instances, False if only the number of rows matters."""
    _has_fast_path: ClassVar[bool] = True
    """True if ``try_hit`` answers a hit as ``plan`` would. False for a subclass that overrides ``plan``."""
    _has_own_plan: ClassVar[bool] = False
    """True for a subclass that overrides ``plan``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._has_own_plan = cast("Any", cls).plan is not cast("Any", LookupQuery).plan
        if cls._has_own_plan and "_has_fast_path" not in cls.__dict__:
            cls._has_fast_path = False

    _cache: OpenCache | None
    """The open cache that the entry set, the values and the keys belong to, or None before the first use."""

    def __init__(self, model: type[Model], cache: OpenCache | None = None) -> None:
        super().__init__(cache)
        self._model = model
        self._cache = None

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, list[Any]]:
        """Returns the entries that the key belongs to, and the key's raw values. Raises ``CacheNotRegistered``."""
        raise NotImplementedError

    def finish(self, found: Sequence[Any]) -> T:
        """Returns the result, made of the rows found."""
        raise NotImplementedError

    def locate(self, cache: OpenCache) -> LocatedKey:
        """Returns the key, with fields and values resolved once per open cache.

        Raises ``CacheNotRegistered`` for fields without a cache and ``ValueError`` for a bad value.
        """
        if self._cache is not cache:
            self._locate(cache)
        return LocatedKey(cache, self._entry_set, self._values, self._key)

    def located_list(self, cache: OpenCache) -> LocatedList | None:
        """Returns the entry of the list, or None if the lookup is no list with an entry of its own."""
        located = self.locate(cache)
        if isinstance(located.entry_set, IndexEntries) and self.relation_path(cache) is None:
            return LocatedList(located.entry_set, located.values, located.key)
        return None

    def list_schema(self, cache: OpenCache) -> ModelSchema | None:
        """Returns the schema of the rows, or None if the result is computed."""
        entry_set = cast("Any", self.locate(cache).entry_set)
        return None if isinstance(entry_set, ResultEntries) else entry_set.schema

    def relation_path(self, cache: OpenCache) -> RelationPath | None:
        """Returns the relations that the lookup follows from the rows with its key, or None if it follows none."""
        return None

    def _locate(self, cache: OpenCache) -> None:
        entry_set, raw = self.entry_set(cache)
        values: Values = tuple(map(entry_set.schema.normalise, entry_set.attributes, raw))
        self._entry_set, self._values, self._key = entry_set, values, entry_set.key_of(values)
        self._epoch_key = entry_set.epoch_of(self._key)
        self._cache = cache

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        located = self.locate(cache)
        return located.entry_set, (located.key,)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        if self._cache is cache:
            return self._entry_set.schema.transaction()
        return cache.entries_of(self._model).schema.transaction()

    def scope_result(self, cache: OpenCache, scope: Scope) -> T | None:
        if not self._has_fast_path:
            return None
        if self._cache is not cache:
            self._locate(cache)
        known = scope.find(self._key)
        return self.finish(known) if known else None  # for an absence, the plan raises the right exception

    def nearby(self, cache: OpenCache) -> T | Miss:
        if not self._has_fast_path:
            return NoValue.MISS
        if self._cache is not cache:
            self._locate(cache)
        entry_set, hits = self._entry_set, cache.reader.hits
        if not entry_set.near:
            return NoValue.MISS
        if isinstance(entry_set, RowEntries):
            row = hits.find_near_row(entry_set, self._epoch_key, self._key, self._values[0])
            if row is not None:
                entry_set.counters.hits += 1
                return self.finish((adopt(entry_set.schema, row) if self.builds_instances else row,))
        return cast("T | Miss", hits.find_near(self, cache))

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        if not self._has_fast_path:
            return None
        if self._cache is not cache:
            self._locate(cache)
        return self

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, Any], /) -> None:
        if self._cache is not cache:
            self._locate(cache)
        key = self._key
        wanted[self._epoch_key] = wanted[key] = None
        if self._entry_set.__class__ is not RowEntries:
            if self._entry_set.__class__ is PartitionedRows:
                wanted[key] = self._epoch_key  # which shares the slot of the row
                return
            for predicted in cache.predictions.predict(key).to_read:
                wanted[predicted] = None

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> T | Miss:
        if self._cache is not cache:
            self._locate(cache)
        entry_set, key = self._entry_set, self._key
        if isinstance(entry_set, RowEntries):
            row = entry_set.hit(found[key], found[self._epoch_key], self._values[0])
            if row is None:
                return NoValue.MISS
            entry_set.counters.hits += 1
            return self.finish((adopt(entry_set.schema, row) if self.builds_instances else row,))
        rows = index_hit(entry_set, self._values, key, found[self._epoch_key], cache.predictions.predict(key), found)
        if not rows:
            return NoValue.MISS
        entry_set.counters.hits += 1
        entry_set.rows.counters.hits += len(rows)
        return self.finish(adopt_all(entry_set.schema, rows) if self.builds_instances else rows)

    def missed(self, found: Mapping[bytes, bytes | None]) -> Missed | None:
        """Returns the key if its entry is absent and the plan does no more than to find its rows, else None.

        ``found``: what was read, by key.
        """
        entry_set, key, cache = self._entry_set, self._key, self._cache
        if self._has_own_plan or found[key] is not None or entry_set.rows.epoch_key is None or cache is None:
            return None
        return Missed(entry_set, key, self._values, cache.predictions, self.finish)

    def start_plan(self, cache: OpenCache, /) -> Plan[T]:
        return self.plan(cache, None)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        _, entry_set, values, key = self.locate(cache)
        known = scope.find(key) if scope is not None else None
        if known is not None:
            return self.finish(known)
        generation = scope.generation if scope is not None else 0
        if isinstance(entry_set, RowEntries):
            found = yield from row_by_pk(entry_set, values[0], key)
        else:
            found = yield from rows_at(entry_set, values, key, cache.predictions)
        if not self.builds_instances and scope is None:
            return self.finish(found)
        instances = [instance_of(entry_set, row) for row in found]
        if scope is not None:
            instances = scope.keep(key, [(row_key(entry_set, row), row) for row in instances], generation)
        return self.finish(instances)


def row_key(entry_set: EntrySet, instance: Model) -> bytes:
    """Returns the key of the row entry of an instance."""
    return entry_set.rows.key(instance.pk)


class FieldsQuery(LookupQuery[T]):
    """A lookup by field names, made by the methods of a manager.

    If a cache is open, the constructor raises ``CacheNotRegistered``. Bad values raise when the query is awaited.
    """

    __slots__ = ("_filters",)

    kind: ClassVar[str] = "get"

    def __init__(self, model: type[Model], filters: Mapping[str, Any], cache: OpenCache | None = None) -> None:
        # Assigns what the base constructors assign: every lookup runs this code, and two calls would slow it down.
        self.explicit_cache = cache
        self._model = model
        self._cache = None
        self._filters = filters
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
        filters = self._filters
        entry_set, _, place = entries.matches.get((self.kind, *filters)) or entries.match_key(self.kind, filters)
        self._values, self._key, self._epoch_key = place(filters)
        self._entry_set, self._cache = entry_set, cache

    def __repr__(self) -> str:
        filters = ", ".join(f"{name}={described(value)}" for name, value in self._filters.items())
        return f"<{type(self).__name__} {self._model.__name__}({filters})>"


class GetQuery(FieldsQuery[M], Generic[M]):
    """The one row with these values. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> M:
        row: M = found[0] if len(found) == 1 else exactly_one(self._model, found)
        return row


class GetOr404Query(GetQuery[M], Generic[M]):
    """The one row with these values. Raises the error of ``CacheConfig.not_found``, or ``MultipleObjectsReturned``."""

    __slots__ = ()
    _has_fast_path: ClassVar[bool] = True

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


class FilterQuery(OrderableList[M], FieldsQuery[list[M]], Generic[M]):
    """All rows with these values, in the list's order. A new list each time."""

    __slots__ = ()
    kind: ClassVar[str] = "filter"

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


class NumberQuery(FieldsQuery[T]):
    """A result that only the number of rows matters for. The entry of an exact list tells it without any row."""

    __slots__ = ()
    kind: ClassVar[str] = "either"
    builds_instances: ClassVar[bool] = False
    _has_fast_path: ClassVar[bool] = True

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        return None if self._is_exact(cache) else super().fast_lookup(cache)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        if scope is not None or not self._is_exact(cache):
            return (yield from super().plan(cache, scope))
        index, values, key = cast("LocatedList", self.located_list(cache))
        part = yield from part_of_list(index, values, key, cache.predictions, Slice(0, 0))
        return self.finish(range(part.total if part is not None else 0))

    def _is_exact(self, cache: OpenCache) -> bool:
        entry_set = self.locate(cache).entry_set
        return isinstance(entry_set, IndexEntries) and entry_set.exact


class ExistsQuery(NumberQuery[bool]):
    """True if a row has these values."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> bool:
        return bool(found)


class CountQuery(NumberQuery[int]):
    """The number of rows with these values."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> int:
        return len(found)


def exactly_one(model: type[Model], found: Sequence[Any]) -> Any:
    """Returns the only row. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""
    if len(found) == 1:
        return found[0]
    raise (MultipleObjectsReturned if found else DoesNotExist)(model)
