"""An oracle for the cache: makes every lookup that the cache can answer, and compares it with the database.

>>> async def example(cache: ModelCache) -> None:
...     oracle = Oracle(cache, Event, User)
...     await oracle.warm(slug=["renamed"])              # also values of no row
...     await Event.filter(id=7).update(slug="renamed")
...     assert await oracle.invalidated(Event) == {7}    # exactly this row's entry
...     await oracle.check()                             # the rest is correct
"""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend


class Oracle:
    """All lookups of some models, by every value that their rows have or had."""

    def __init__(self, cache: ModelCache, *models: type[Model]) -> None:
        self._cache = cache.open_cache
        self._models = [cache.open_cache.models[model] for model in models]
        self._values: dict[tuple[type[Model], str], dict[Any, None]] = {}

    async def warm(self, **new_values: Iterable[Any]) -> None:
        """Fills the cache with every result. ``new_values`` are values by attribute that no row has yet."""
        await self._learn_values(new_values)
        for _ in range(2):  # the first round stores rows found by an index
            await self._results()

    async def check(self) -> None:
        """Asserts that each lookup agrees with the database, before and after it is cached."""
        await self._learn_values({})
        entry_sets = [entry_set for entries in self._models for entry_set in (entries.rows, *entries.indexes)]
        stored_rows = {entry_set: await _in_database(entry_set) for entry_set in entry_sets}
        for _ in range(2):
            for (entry_set, values), found in (await self._results()).items():
                matching = [
                    row
                    for row in stored_rows[entry_set]
                    if tuple([row[name] for name in entry_set.attributes]) == values
                ]
                lookup = f"{entry_set.schema.name} by {entry_set.fields} = {values}"
                assert _sorted(entry_set, found) == _sorted(entry_set, matching[: entry_set.limit]), lookup

    async def invalidated(self, model: type[Model]) -> set[Any]:
        """Returns the primary keys whose row, or absence, is no longer cached since ``warm``."""
        rows = self._cache.models[model].rows
        pks = list(self._values[model, rows.schema.pk])
        epoch, *entries = await _stored(self._cache, [rows.partitions.epochs[0], *map(rows.key, pks)])
        return {pk for pk, entry in zip(pks, entries, strict=True) if rows.read(entry, epoch) is NoValue.MISS}

    async def _learn_values(self, new_values: dict[str, Iterable[Any]]) -> None:
        for entries in self._models:
            schema = entries.schema
            names = {schema.pk, *(name for index in entries.indexes for name in index.attributes)}
            query: Any = QuerySet(schema.model)
            rows = await query.values(*names)
            for name in names:
                known = self._values.setdefault((schema.model, name), {})
                known.update(dict.fromkeys([row[name] for row in rows]))
                known.update(dict.fromkeys(schema.normalise(name, value) for value in new_values.get(name, ())))

    async def _results(self) -> dict[tuple[EntrySet, tuple[Any, ...]], list[dict[str, Any]]]:
        queries = {(query.found_by, query.values): query for query in self._lookups()}
        return dict(zip(queries, await asyncio.gather(*queries.values()), strict=True))

    def _lookups(self) -> Iterable["MatchingRows"]:
        for entries in self._models:
            for entry_set in (entries.rows, *entries.indexes):
                columns = [self._values[entries.schema.model, name] for name in entry_set.attributes]
                for values in itertools.product(*columns):
                    yield MatchingRows(entry_set, values, self._cache)


async def _stored(cache: OpenCache, keys: Sequence[bytes]) -> list[bytes | None]:
    """Reads entries without counting the round trip."""
    backend = cache.guarded.backend
    return await (backend.backend if isinstance(backend, CountingBackend) else backend).read(keys)


async def _in_database(entry_set: EntrySet) -> list[dict[str, Any]]:
    """Returns all rows that the model's manager shows, in the order of the key."""
    query = entry_set.schema.queryset(entry_set.schema.client)
    return _columns(entry_set, await (query.order_by(*entry_set.order_by) if entry_set.order_by else query))


def _columns(entry_set: EntrySet, instances: Iterable[Model]) -> list[dict[str, Any]]:
    columns = meta_of(entry_set.schema.model).fields_db_projection
    return [{name: getattr(each, name) for name in columns} for each in instances]


def _sorted(entry_set: EntrySet, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts by primary key if neither the key nor the model has an order, since the database's order is arbitrary."""
    ordered = entry_set.order_by or entry_set.schema.ordering
    return rows if ordered else sorted(rows, key=lambda row: str(row[entry_set.schema.pk]))


class MatchingRows(LookupQuery[list[dict[str, Any]]]):
    """A lookup of the rows with one key, as a list even if the key is unique."""

    def __init__(self, entry_set: EntrySet, values: tuple[Any, ...], cache: OpenCache) -> None:
        super().__init__(entry_set.schema.model, cache)
        self.found_by = entry_set
        self.values = values

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, tuple[Any, ...]]:
        return self.found_by, self.values

    def finish(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        return _columns(self.found_by, found)
