"""One open cache with its models, reader and writer, and the process's open caches with the default one.

An ``OpenCache`` is the part of a ``ModelCache`` that lookups and writes use. It lives from open to close.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tortoise.models import Model

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.cascades import CascadeGraph
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet, ModelEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.exceptions import CacheNotOpen, CacheNotRegistered
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.relations import through_table
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.paths import RelationPath
from aiomodelcache.scopes.bypass import BypassFlag


@dataclass(slots=True, eq=False)
class OpenCache:
    """The part of an open ``ModelCache`` that lookups and writes use."""

    config: CacheConfig
    stats: Stats
    guarded: GuardedBackend
    bypass: BypassFlag
    reader: Reader
    writer: Writer
    predictions: Predictions
    tasks: BackgroundTasks
    loop: asyncio.AbstractEventLoop
    models: dict[type[Model], ModelEntries]
    classes: dict[type, EntrySet | ResultEntries | RelationPath]
    """Stand-alone cache classes -> their entries, or the path of relations to their rows."""
    namespace: str
    cascades: CascadeGraph
    many_to_many: list[ManyToManyEntries] = field(default_factory=list[ManyToManyEntries])
    """All many-to-many lists."""
    values: dict[object, ResultEntries] = field(default_factory=dict[object, ResultEntries])
    """Classes and functions whose values depend on no model -> their entries. Filled at first use."""
    managers: dict[type[Model], Any] = field(default_factory=dict[type[Model], Any])
    """Model -> its manager on the default cache. Filled at first use."""
    connections: list[ModelSchema] = field(init=False)
    """The schema of one model of each connection."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.connections = list(
            {entries.schema.connection: entries.schema for entries in self.models.values()}.values()
        )

    def usable(self) -> Self:
        """Returns the cache itself. Raises ``CacheNotOpen`` if it is closed, or was opened in another event loop."""
        if self.closed:
            raise CacheNotOpen(CLOSED_MESSAGE)
        if self.loop is not asyncio.get_running_loop():
            raise CacheNotOpen(
                "This cache was opened in another event loop: close it there and open one in the loop that uses it."
            )
        return self

    def entries_of(self, model: type[Model]) -> ModelEntries:
        """Returns the entries of a model. Raises ``CacheNotRegistered`` if the model is not bound to this cache."""
        try:
            return self.models[model]
        except KeyError:
            raise CacheNotRegistered(
                f"{model.__name__} is not bound to the open cache: make it a CachedModel or give it a "
                "ModelCacheManager, and let Tortoise.init load its module before the cache opens."
            ) from None

    @property
    def in_transaction(self) -> bool:
        """True if the caller has a transaction open, on any connection of the cache's models."""
        return any(schema.transaction() is not None for schema in self.connections)

    def watches_table(self, table: str) -> bool:
        """Returns True if a table is the through table of cached lists, or the table of a cached model."""
        tables = [through.relation.table for through in self.many_to_many]
        return table in tables or any(entries.schema.table == table for entries in self.models.values())

    def list_of(self, model: type[Model], name: str) -> ManyToManyEntries | None:
        """Returns the list over a many-to-many relation, in Tortoise's order, or None if it is not cached."""
        entries = self.models.get(model)
        owned = entries.owned if entries is not None else []
        lists = [through for through in owned if through.relation.name == name and through.limit is None]
        return next((through for through in lists if through.order_by == through.schema.ordering), None)


open_caches: list[OpenCache] = []
"""All open caches of this process. Writes invalidate in each of them."""
_default: OpenCache | None = None
CLOSED_MESSAGE: Final = "This cache is closed: use it inside `async with`, or call open() first."


def bound_caches(model: type[Model]) -> list[tuple[OpenCache, ModelEntries]]:
    """Returns the open caches that the model is bound to, with its entries.

    Raises ``CacheNotOpen`` in another event loop than the cache's.
    """
    return [
        (cache.usable(), cache.models[model])
        for cache in open_caches
        if model in cache.models and not cache.loop.is_closed()
    ]


def caches_cascading_from(model: type[Model]) -> list[OpenCache]:
    """Returns the open caches in which deleting rows of the model changes cached rows of other models.

    Raises ``CacheNotOpen`` in another event loop than the cache's.
    """
    return [cache.usable() for cache in _live_caches() if cache.cascades.affects(model)]


def caches_hiding_rows(
    model: type[Model], bound: Iterable[tuple[OpenCache, ModelEntries]] | None = None
) -> list[OpenCache]:
    """Returns the open caches in which changing a row may bring it back into lists that do not hold it.

    These are the caches in which the model's manager hides rows and the model is at an end of many-to-many lists.
    """
    if bound is None:
        bound = bound_caches(model)
    return [cache for cache, entries in bound if entries.schema.hides_rows and cache.cascades.lists_of(model)]


def lists_over(cache: OpenCache, relation: Any) -> list[tuple[ManyToManyEntries, bool]]:
    """Returns the lists over a relation (Tortoise's field), each with True if the relation's own side owns it."""
    lists = [through for through in cache.many_to_many if through.relation.table == through_table(relation)]
    return [(through, through.relation.own_column == relation.backward_key) for through in lists]


def caches_with_links(relation: Any) -> list[OpenCache]:
    """Returns the open caches that writes to the relation's through table affect.

    Raises ``CacheNotOpen`` in another event loop than the cache's.
    """
    return [cache.usable() for cache in _live_caches() if cache.watches_table(through_table(relation))]


def _live_caches() -> list[OpenCache]:
    """Returns the open caches whose event loop is not closed. A program may end its loop and leave a cache open."""
    return [cache for cache in open_caches if not cache.loop.is_closed()]


def default_cache() -> OpenCache:
    """Returns the process's default cache. Raises ``CacheNotOpen`` if there is none."""
    if _default is None:
        raise CacheNotOpen(
            "The default cache is closed: use the open one by its manager(model)."
            if open_caches
            else "No cache is open: wrap the application in `async with ModelCache(url):` after Tortoise.init."
        )
    return _default


def default_cache_or_none() -> OpenCache | None:
    """Returns the process's default cache, or None if no cache is open."""
    return _default


def register(cache: OpenCache) -> None:
    """Registers an open cache. The first one becomes the default."""
    global _default
    for abandoned in set(open_caches) - set(_live_caches()):
        unregister(abandoned)
    open_caches.append(cache)
    if _default is None:
        _default = cache


def unregister(cache: OpenCache) -> None:
    """Marks a cache as closed, and removes it from the open ones."""
    global _default
    cache.closed = True
    if cache in open_caches:
        open_caches.remove(cache)
    if _default is cache:
        _default = None
