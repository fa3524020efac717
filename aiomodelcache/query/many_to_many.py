"""Queries of many-to-many lists, by one owner or by many owners at once."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.indexes import rows_by_index
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import LocatedKey, LookupQuery, row_key
from aiomodelcache.scopes.request import Scope


class ManyToManyQuery(LookupQuery[list[Any]]):
    """The rows that a many-to-many relation of one row links to."""

    __slots__ = ("_pk", "_through")
    _has_fast_path: ClassVar[bool] = False

    def __init__(self, through: ManyToManyEntries, pk: Any, cache: OpenCache) -> None:
        super().__init__(through.schema.model, cache)
        self._through = through
        self._pk = pk

    def __repr__(self) -> str:
        return f"<ManyToManyQuery {self._through.owner.name}({described(self._pk)}).{self._through.relation.name}>"

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, list[Any]]:
        return self._through, [self._pk]

    def locate(self, cache: OpenCache) -> LocatedKey:
        values = (self._through.owner_value(self._pk),)
        return LocatedKey(cache, self._through, values, self._through.key(values))

    def finish(self, found: Sequence[Any]) -> list[Any]:
        return list(found)


class ManyToManyBatchQuery(CacheQuery[dict[bytes, list[Any]]]):
    """The lists of one many-to-many relation by their cache keys: one MGET, one statement for all misses."""

    __slots__ = ("_through", "_wanted")

    def __init__(self, through: ManyToManyEntries, pks: Iterable[Any], cache: OpenCache) -> None:
        super().__init__(cache)
        self._through = through
        wanted = [(through.owner_value(pk),) for pk in pks]
        self._wanted = {through.key(values): values for values in wanted}

    def subjects(self) -> set[object]:
        return {self._through.schema.model}

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return self._through, self._wanted

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._through.schema.transaction()

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[dict[bytes, list[Any]]]:
        through = self._through
        generation = scope.generation if scope is not None else 0
        known = {key: scope.find(key) for key in self._wanted} if scope is not None else {}
        answers = {key: list(answer) for key, answer in known.items() if answer is not None}
        missing = {key: values for key, values in self._wanted.items() if key not in answers}
        found = (yield from rows_by_index(through, missing, cache.predictions)) if missing else {}
        for key, rows in found.items():
            instances = [instance_of(through, row) for row in rows]
            if scope is not None:
                instances = scope.keep(key, [(row_key(through, row), row) for row in instances], generation)
            answers[key] = instances
        return answers
