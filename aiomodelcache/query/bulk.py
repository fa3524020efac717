"""Queries by many values of one unique key: ``get_many`` and ``in_bulk``.

One query object stands for all values. If the cache does not hold all of them, a plan asks the database for the missing
ones in one statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Generic, NamedTuple, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered, abbreviated
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.indexes import index_hit, rows_by_index
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.plans.rows import rows_by_pk
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import row_key
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class LocatedKeys(NamedTuple):
    """The cache keys of a bulk query in one open cache."""

    cache: OpenCache
    entry_set: EntrySet
    keys: dict[Values, bytes]
    """The cache keys by normalised values, in the order requested."""
    names: list[Any]
    """The keys of the result, in the same order."""


class BulkQuery(CacheQuery[dict[Any, M]], Generic[M]):
    """The rows with many values of one unique key, in the order requested: one MGET, one statement for all misses."""

    __slots__ = ("_fields", "_located", "_model", "_requested", "_single")

    def __init__(
        self,
        model: type[M],
        wanted: Iterable[Any],
        key: str | tuple[str, ...],
        cache: OpenCache | None = None,
    ) -> None:
        super().__init__(cache)
        if isinstance(wanted, str | bytes):
            raise TypeError(f"{model.__name__}: get_many and in_bulk take a list of values; got {abbreviated(wanted)}.")
        self._model = model
        self._fields = (key,) if isinstance(key, str) else tuple(key)
        self._single = len(self._fields) == 1
        self._requested = list(wanted)
        self._located: LocatedKeys | None = None

    def __repr__(self) -> str:
        fields = ", ".join(self._fields)
        return f"<{type(self).__name__} {self._model.__name__}({fields} in {abbreviated(self._requested)})>"

    def finish(self, found: dict[Any, M]) -> Any:
        """Returns the result, made of the rows by value."""
        return found

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return cache.entries_of(self._model).schema.transaction()

    def locate(self, cache: OpenCache) -> LocatedKeys:
        """Returns the cache keys, resolved once per open cache. Raises ``CacheNotRegistered`` or ``ValueError``."""
        located = self._located
        if located is None or located.cache is not cache:
            located = self._located = self._locate(cache)
        return located

    def _locate(self, cache: OpenCache) -> LocatedKeys:
        entry_set, order, place = cache.entries_of(self._model).find("get", self._fields)
        if not entry_set.unique:
            raise CacheNotRegistered(
                f"{self._model.__name__}: several rows may share ({', '.join(self._fields)}); "
                "get_many and in_bulk need a unique key. Use filter."
            )
        if self._single:
            [field] = self._fields
            keys = dict([place({field: wanted}) for wanted in self._requested])
            return LocatedKeys(cache, entry_set, keys, [value for (value,) in keys])
        keys = dict(
            [place(dict(zip(self._fields, self._combined_values(wanted), strict=True))) for wanted in self._requested]
        )
        positions = list(map(order.index, self._fields))
        return LocatedKeys(cache, entry_set, keys, [tuple([values[at] for at in positions]) for values in keys])

    def _combined_values(self, wanted: Any) -> tuple[Any, ...]:
        if not isinstance(wanted, tuple | list) or len(cast("Sequence[Any]", wanted)) != len(self._fields):
            text = abbreviated(cast("object", wanted))
            raise ValueError(f"{self._model.__name__}: {text} is no value of ({', '.join(self._fields)})")
        return tuple(cast("Sequence[Any]", wanted))

    # Hits, which are nearly always all that is requested ---------------------------------------------------

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        return self if self.locate(cache).keys else None

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, None], /) -> None:
        _, entry_set, keys, _ = self.locate(cache)
        wanted[entry_set.epoch_key] = None
        wanted.update(dict.fromkeys(keys.values()))
        if not isinstance(entry_set, RowEntries):
            predict = cache.predictions.predict
            wanted.update(dict.fromkeys([row for key in keys.values() for row in predict(key).keys]))

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> Any | Miss:
        _, entry_set, keys, names = self.locate(cache)
        hits: Iterable[RowValues | None]
        if isinstance(entry_set, RowEntries):
            entries, epoch = map(found.__getitem__, keys.values()), found[entry_set.epoch_key]
            hits = map(entry_set.hit, entries, repeat(epoch), names)
        else:
            predict = cache.predictions.predict
            found_rows = [index_hit(entry_set, values, key, predict(key), found) for values, key in keys.items()]
            hits = [rows[0] if rows else None for rows in found_rows]
        answer: dict[Any, Any] = {}
        for name, row in zip(names, hits, strict=True):
            if row is None:
                return NoValue.MISS
            answer[name] = entry_set.schema.instance(row)
        entry_set.counters.hits += len(answer)
        if entry_set is not entry_set.rows:
            entry_set.rows.counters.hits += len(answer)
        return self.finish(answer)

    def start_plan(self, cache: OpenCache, /) -> Plan[Any]:
        return self.plan(cache, None)

    # Misses, and lookups in a request's scope ------------------------------------------------------------

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[Any]:
        _, entry_set, keys, names = self.locate(cache)
        known: dict[Values, list[Any]] = {}
        generation = 0
        if scope is not None:
            generation = scope.generation
            recalled = {values: scope.recall(key) for values, key in keys.items()}
            known = {values: answer for values, answer in recalled.items() if answer is not None}
        missing = [values for values in keys if values not in known]
        if missing and isinstance(entry_set, RowEntries):
            by_pk = yield from rows_by_pk(entry_set, [pk for (pk,) in missing])
            found = {(pk,): [by_pk[pk]] if pk in by_pk else [] for (pk,) in missing}
        elif missing:
            found = yield from rows_by_index(cast("Any", entry_set), missing, cache.predictions)
        else:
            found = {}
        for values, rows in found.items():
            instances = [instance_of(entry_set, row) for row in rows]
            if scope is not None:
                instances = scope.keep(keys[values], [(row_key(entry_set, row), row) for row in instances], generation)
            known[values] = instances
        return self.finish({name: known[values][0] for values, name in zip(keys, names, strict=True) if known[values]})


class ManyQuery(BulkQuery[M], Generic[M]):
    """The rows of a ``BulkQuery`` as a list. Made by ``ModelCacheManager.get_many``."""

    __slots__ = ()

    def finish(self, found: dict[Any, M]) -> list[M]:
        return list(found.values())
