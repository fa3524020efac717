"""Queries by many values of one key: ``get_many``, and ``in_bulk`` for a unique key.

One query object stands for all values. If the cache does not hold all of them, a plan asks the database for the missing
ones in one statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.encoding.together import KeyPairs, ReadPairs, WantedKeys
from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.partitioned import PartitionedRows
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.hydrate import adopt_all
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.indexes import index_hit, rows_by_index
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.plans.rows import rows_by_pk
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import row_key
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


def _field_names(model: type[Model], key: Any) -> tuple[str, ...]:
    """Returns the names of a key of several fields. Raises ``TypeError``."""
    if isinstance(key, tuple | list):
        names = tuple(cast("Sequence[Any]", key))
        if names and all(isinstance(name, str) for name in names):
            return names
    raise TypeError(
        f"{model.__name__}: the key of get_many and in_bulk is the name of a field, or a tuple of names; "
        f"got {described(cast('object', key))}."
    )


class LocatedKeys(NamedTuple):
    """The cache keys of a bulk query in one open cache."""

    cache: OpenCache
    entry_set: EntrySet
    wanted: dict[bytes, Values]
    """The normalised values by cache key, in the order requested."""
    names: list[Any]
    """The keys of the result, in the same order."""
    epochs: Sequence[bytes]
    """The keys of the epochs: of each entry its own if the keys are divided, else the only one."""


class BulkQuery(CacheQuery[dict[Any, M]], Generic[M]):
    """The rows with many values of one key, in the order requested: one MGET, one statement for all misses."""

    __slots__ = ("_fields", "_located", "_model", "_requested", "_single")
    needs_unique: ClassVar[bool] = True
    """True if the key must be unique. Else several rows may have a value, and all of them are part of the result."""

    def __init__(
        self,
        model: type[M],
        wanted: Iterable[Any],
        key: str | tuple[str, ...],
        cache: OpenCache | None = None,
    ) -> None:
        super().__init__(cache)
        if isinstance(wanted, str | bytes) or not issubclass(type(wanted), Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise TypeError(f"{model.__name__}: get_many and in_bulk take a list of values; got {described(wanted)}.")
        self._model = model
        self._fields = (key,) if isinstance(key, str) else _field_names(model, key)
        self._single = len(self._fields) == 1
        self._requested = list(wanted)
        self._located: LocatedKeys | None = None

    def __repr__(self) -> str:
        fields = ", ".join(self._fields)
        return f"<{type(self).__name__} {self._model.__name__}({fields} in {len(self._requested)} values)>"

    def finish(self, keys: Iterable[bytes], names: Iterable[Any], rows: list[M]) -> Any:
        """Returns the result, made of the rows that exist, and the cache key and value by which each was found."""
        return dict(zip(names, rows, strict=True))

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        located = self.locate(cache)
        return located.entry_set, located.wanted

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return cache.entries_of(self._model).schema.transaction()

    def locate(self, cache: OpenCache) -> LocatedKeys:
        """Returns the cache keys, resolved once per open cache. Raises ``CacheNotRegistered`` or ``ValueError``."""
        located = self._located
        if located is None or located.cache is not cache:
            located = self._located = self._locate(cache)
        return located

    def _locate(self, cache: OpenCache) -> LocatedKeys:
        entries = cache.entries_of(self._model)
        kind = "get" if self.needs_unique else entries.kind(self._fields)
        entry_set, order, place = entries.match_key(kind, self._fields)
        if self.needs_unique and not entry_set.unique:
            raise CacheNotRegistered(
                f"{self._model.__name__}: several rows may share ({', '.join(self._fields)}); "
                "in_bulk needs a unique key. Use get_many or filter."
            )
        requested = self._requested
        if isinstance(entry_set, PartitionedRows) and (of_ints := entry_set.keys_of_ints(requested)) is not None:
            int_keys, int_epochs = of_ints
            by_key: dict[bytes, Values] = dict(zip(int_keys, zip(requested, strict=True), strict=True))
            if len(by_key) == len(requested):
                return LocatedKeys(cache, entry_set, by_key, requested, int_epochs)
        if self._single:
            [field] = self._fields
            placed = [place({field: value}) for value in requested]
        else:
            fields = self._fields
            placed = [place(dict(zip(fields, self._combined_values(row), strict=True))) for row in requested]
        wanted: dict[bytes, Values] = {}
        for values, key, _ in placed:
            wanted.setdefault(key, values)
        epochs = entry_set.partitions.epochs
        if entry_set.partitions.divided:
            _, keys, epochs = zip(*placed, strict=True) if placed else ((), (), ())
            if len(keys) > len(wanted):
                epochs = list(dict(zip(keys, epochs, strict=True)).values())
        if self._single:
            return LocatedKeys(cache, entry_set, wanted, [value for (value,) in wanted.values()], epochs)
        positions = list(map(order.index, self._fields))
        names = [tuple([values[at] for at in positions]) for values in wanted.values()]
        return LocatedKeys(cache, entry_set, wanted, names, epochs)

    def _combined_values(self, wanted: Any) -> tuple[Any, ...]:
        if not isinstance(wanted, tuple | list) or len(cast("Sequence[Any]", wanted)) != len(self._fields):
            text = described(cast("object", wanted))
            raise ValueError(f"{self._model.__name__}: {text} is no value of ({', '.join(self._fields)})")
        return tuple(cast("Sequence[Any]", wanted))

    # Hits, which are nearly always all that is requested ---------------------------------------------------

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        return self if self.locate(cache).wanted else None

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, Any], /) -> None:
        _, entry_set, keys, _, epochs = self.locate(cache)
        if entry_set.partitions.divided:
            return self._collect_pairs(cache, wanted)
        for epoch in epochs:
            wanted[epoch] = None
        wanted.update(keys)  # whose values nothing reads
        if not isinstance(entry_set, RowEntries):
            predict = cache.predictions.predict
            wanted.update(dict.fromkeys([row for key in keys for row in predict(key).to_read]))

    def _collect_pairs(self, cache: OpenCache, wanted: dict[bytes, bytes | None]) -> None:
        """Adds the keys of entries with those of their epochs, which share their slots."""
        _, entry_set, keys, _, epochs = self.locate(cache)
        pairs = KeyPairs(list(keys), epochs)
        if isinstance(entry_set, RowEntries) and isinstance(wanted, WantedKeys):
            return wanted.add_pairs(pairs)
        wanted.update(pairs.by_key())
        if not isinstance(entry_set, RowEntries):
            predict = cache.predictions.predict
            for key in keys:
                wanted.update(predict(key).paired)

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> Any | Miss:
        _, entry_set, wanted, names, epochs = self.locate(cache)
        if not entry_set.unique:
            return self._try_lists(cast("IndexEntries", entry_set), wanted, names, cache, found, epochs)
        rows: list[RowValues] | None
        if isinstance(entry_set, PartitionedRows):
            if isinstance(found, ReadPairs) and found.pairs.partners is epochs:
                rows = entry_set.hits_of_pairs(found, names)
            else:
                rows = entry_set.hits_of(map(found.get, wanted), map(found.get, epochs), names)
        elif isinstance(entry_set, RowEntries):
            rows = entry_set.hits(found, wanted, found[epochs[0]], names)
        else:
            predict, rows = cache.predictions.predict, []
            for (key, values), epoch in zip(wanted.items(), _values(found, epochs), strict=False):
                hit = index_hit(entry_set, values, key, epoch, predict(key), found)
                if not hit:
                    return NoValue.MISS
                rows.append(hit[0])
            entry_set.rows.counters.hits += len(rows)
        if rows is None:
            return NoValue.MISS
        answer: list[Any] = adopt_all(entry_set.schema, rows)
        entry_set.counters.hits += len(answer)
        return self.finish(wanted, names, answer)

    def _try_lists(
        self,
        index: IndexEntries,
        wanted: Mapping[bytes, Values],
        names: Iterable[Any],
        cache: OpenCache,
        found: Mapping[bytes, bytes | None],
        epochs: Sequence[bytes],
    ) -> Any | Miss:
        """Returns the result if all entries of a key that several rows may share are hits, else a miss."""
        predict = cache.predictions.predict
        lists: list[list[RowValues]] = []
        for (key, values), epoch in zip(wanted.items(), _values(found, epochs), strict=False):
            rows = index_hit(index, values, key, epoch, predict(key), found)
            if rows is None:
                return NoValue.MISS
            lists.append(rows)
        index.counters.hits += len(lists)
        index.rows.counters.hits += sum(map(len, lists))
        return self._finish_lists(wanted, names, [adopt_all(index.schema, rows) for rows in lists])

    def _finish_lists(self, keys: Iterable[bytes], names: Iterable[Any], lists: Iterable[list[Any]]) -> Any:
        """Returns the result, made of the rows that were found by each key and value."""
        found = [(key, name, row) for key, name, rows in zip(keys, names, lists, strict=True) for row in rows]
        return self.finish([key for key, _, _ in found], [name for _, name, _ in found], [row for _, _, row in found])

    def start_plan(self, cache: OpenCache, /) -> Plan[Any]:
        return self.plan(cache, None)

    # Misses, and lookups in a request's scope ------------------------------------------------------------

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[Any]:
        _, entry_set, wanted, names, _ = self.locate(cache)
        known: dict[bytes, list[Any]] = {}
        generation = 0
        if scope is not None:
            generation = scope.generation
            held = {key: scope.find(key) for key in wanted}
            known = {key: answer for key, answer in held.items() if answer is not None}
        missing = {key: values for key, values in wanted.items() if key not in known}
        if missing and isinstance(entry_set, RowEntries):
            by_key = yield from rows_by_pk(entry_set, {key: pk for key, (pk,) in missing.items()})
            found = {key: [by_key[key]] if key in by_key else [] for key in missing}
        elif missing:
            found = yield from rows_by_index(cast("Any", entry_set), missing, cache.predictions)
        else:
            found = {}
        for key, rows in found.items():
            instances = [instance_of(entry_set, row) if type(row) is dict else row for row in rows]
            if scope is not None:
                instances = scope.keep(key, [(row_key(entry_set, row), row) for row in instances], generation)
            known[key] = instances
        lists = [known[key] for key in wanted]
        if not entry_set.unique:
            return self._finish_lists(wanted, names, lists)
        return self.finish(compress(wanted, lists), compress(names, lists), [rows[0] for rows in lists if rows])


def _values(found: Mapping[bytes, bytes | None], epochs: Sequence[bytes]) -> Iterable[bytes | None]:
    """Returns the epoch of each entry. May be endless, for ``zip``."""
    return repeat(found[epochs[0]]) if len(epochs) == 1 else map(found.__getitem__, epochs)


class ManyQuery(BulkQuery[M], Generic[M]):
    """The rows of a ``BulkQuery`` as a list. Made by ``ModelCacheManager.get_many``."""

    __slots__ = ()
    needs_unique: ClassVar[bool] = False

    def finish(self, keys: Iterable[bytes], names: Iterable[Any], rows: list[M]) -> list[M]:
        return rows


class RowsByKeyQuery(BulkQuery[M], Generic[M]):
    """The rows of a ``BulkQuery`` by their cache keys, which tell values apart as the database does."""

    __slots__ = ()

    def finish(self, keys: Iterable[bytes], names: Iterable[Any], rows: list[M]) -> dict[bytes, M]:
        return dict(zip(keys, rows, strict=True))


class ListsByKeyQuery(BulkQuery[M], Generic[M]):
    """The rows of a ``BulkQuery`` of a key that several rows may share, as lists by their cache keys."""

    __slots__ = ()
    needs_unique: ClassVar[bool] = False

    def finish(self, keys: Iterable[bytes], names: Iterable[Any], rows: list[M]) -> dict[bytes, list[M]]:
        lists: dict[bytes, list[M]] = {}
        for key, row in zip(keys, rows, strict=True):
            lists.setdefault(key, []).append(row)
        return lists
