"""Knows what the cache must answer: makes every look-up that it can answer, and compares with the database.

>>> async def example(cache: ModelCache) -> None:
...     oracle = Oracle(cache, Event, User)
...     await oracle.warm(slug=["renamed"])              # also what is not there yet
...     await Event.filter(id=7).update(slug="renamed")
...     assert await oracle.forgotten(Event) == {7}      # of exactly this row the entry is gone
...     await oracle.check()                             # and nothing that is left is wrong
"""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from aiomodelcache.entries.base import Nothing
from aiomodelcache.entries.model import Source
from aiomodelcache.open_cache import Session
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend


class Oracle:
    """All look-ups of some models, over the values that are or were in their rows."""

    def __init__(self, cache: ModelCache, *models: type[Model]) -> None:
        self._session = cache.session
        self._bindings = [cache.session.bindings[model] for model in models]
        self._values: dict[tuple[type[Model], str], dict[Any, None]] = {}

    async def warm(self, **also: Iterable[Any]) -> None:
        """Fills the cache with every answer; ``also`` are values of attributes that no row has yet."""
        await self._note(also)
        for _ in range(2):  # rows found by an index are stored by the first
            await self._find()

    async def check(self) -> None:
        """Asserts that each look-up finds what the database has now, at the first and at the second time."""
        await self._note({})
        sources = [source for binding in self._bindings for source in (binding.rows, *binding.indexes)]
        held = {source: await _in_database(source) for source in sources}
        for _ in range(2):
            for (source, values), found in (await self._find()).items():
                matching = [row for row in held[source] if tuple([row[name] for name in source.attributes]) == values]
                where = f"{source.schema.name} by {source.fields} = {values}"
                assert _sorted(source, found) == _sorted(source, matching[: source.limit]), where

    async def forgotten(self, model: type[Model]) -> set[Any]:
        """The primary keys among those that were warmed whose row, or its absence, is not in the cache."""
        rows = self._session.bindings[model].rows
        pks = list(self._values[model, rows.schema.pk])
        epoch, *entries = await _stored(self._session, [rows.epoch_key, *map(rows.key, pks)])
        return {pk for pk, entry in zip(pks, entries, strict=True) if rows.read(entry, epoch) is Nothing.MISS}

    async def _note(self, also: dict[str, Iterable[Any]]) -> None:
        for binding in self._bindings:
            schema = binding.schema
            names = {schema.pk, *(name for index in binding.indexes for name in index.attributes)}
            query: Any = QuerySet(schema.model)
            rows = await query.values(*names)
            for name in names:
                known = self._values.setdefault((schema.model, name), {})
                known.update(dict.fromkeys([row[name] for row in rows]))
                known.update(dict.fromkeys(schema.normalise(name, value) for value in also.get(name, ())))

    async def _find(self) -> dict[tuple[Source, tuple[Any, ...]], list[dict[str, Any]]]:
        queries = {(query.found_by, query.values): query for query in self._lookups()}
        return dict(zip(queries, await asyncio.gather(*queries.values()), strict=True))

    def _lookups(self) -> Iterable["Found"]:
        for binding in self._bindings:
            for source in (binding.rows, *binding.indexes):
                each = [self._values[binding.schema.model, name] for name in source.attributes]
                for values in itertools.product(*each):
                    yield Found(source, values, self._session)


async def _stored(session: Session, keys: Sequence[bytes]) -> list[bytes | None]:
    """What is under these keys; not counted."""
    backend = session.link.backend
    return await (backend.backend if isinstance(backend, CountingBackend) else backend).read(keys)


async def _in_database(source: Source) -> list[dict[str, Any]]:
    """All rows that the model's manager shows, in the order of the key."""
    query = source.schema.queryset(source.schema.client)
    return _plain(source, await (query.order_by(*source.order_by) if source.order_by else query))


def _plain(source: Source, instances: Iterable[Model]) -> list[dict[str, Any]]:
    columns = meta_of(source.schema.model).fields_db_projection
    return [{name: getattr(each, name) for name in columns} for each in instances]


def _sorted(source: Source, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without an order of the key's or the model's own, the database's does not count."""
    ordered = source.order_by or source.schema.ordering
    return rows if ordered else sorted(rows, key=lambda row: str(row[source.schema.pk]))


class Found(LookupQuery[list[dict[str, Any]]]):
    """The rows that any one key leads to, as a list also where it is unique."""

    def __init__(self, source: Source, values: tuple[Any, ...], session: Session) -> None:
        super().__init__(source.schema.model, session)
        self.found_by = source
        self.values = values

    def source(self, session: Session) -> tuple[Source, tuple[Any, ...]]:
        return self.found_by, self.values

    def finish(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        return _plain(self.found_by, found)
