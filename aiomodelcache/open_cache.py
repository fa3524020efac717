"""One open cache: the models bound to it, its reader, its writer; and which open cache is the default.

A ``OpenCache`` is what lookups and writes see of a ``ModelCache``. It lives from open to close.
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
    """An open cache's inner half."""

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
    """Stand-alone cache classes -> their key, what they compute, or the way to their rows."""
    namespace: str
    cascades: CascadeGraph
    many_to_many: list[ManyToManyEntries] = field(default_factory=list[ManyToManyEntries])
    """Every many-to-many list."""
    values: dict[object, ResultEntries] = field(default_factory=dict[object, ResultEntries])
    """Classes and functions whose values depend on no model, as far as they were used."""
    managers: dict[type[Model], Any] = field(default_factory=dict[type[Model], Any])
    """Model -> its manager on the default cache, made when it is first asked for."""
    connections: list[ModelSchema] = field(init=False)
    """A model of each connection."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.connections = list({each.schema.connection: each.schema for each in self.models.values()}.values())

    def usable(self) -> Self:
        """Returns itself. Raises ``CacheNotOpen`` if it is closed, or was opened in another event loop."""
        if self.closed:
            raise CacheNotOpen(CLOSED)
        if self.loop is not asyncio.get_running_loop():
            raise CacheNotOpen(
                "This cache was opened in another event loop: close it there and open one in the loop that uses it."
            )
        return self

    def entries_of(self, model: type[Model]) -> ModelEntries:
        """Returns what is known of a model. Raises ``CacheNotRegistered`` if it is not bound to this cache."""
        try:
            return self.models[model]
        except KeyError:
            raise CacheNotRegistered(
                f"{model.__name__} is not bound to the open cache: make it a CachedModel or give it a "
                "ModelCacheManager, and let Tortoise.init load its module before the cache opens."
            ) from None

    @property
    def in_transaction(self) -> bool:
        """Whether the caller has a transaction open, on whatever connection the cache's models use."""
        return any(schema.transaction() is not None for schema in self.connections)

    def links(self, table: str) -> bool:
        """Whether a table holds links of lists that are cached, or is itself that of a cached model."""
        tables = [each.relation.table for each in self.many_to_many]
        return table in tables or any(entries.schema.table == table for entries in self.models.values())

    def list_of(self, model: type[Model], name: str) -> ManyToManyEntries | None:
        """The list over a many-to-many relation, as Tortoise orders it; None if it is not cached."""
        entries = self.models.get(model)
        owned = entries.owned if entries is not None else []
        found = [each for each in owned if each.relation.name == name and each.limit is None]
        return next((each for each in found if each.order_by == each.schema.ordering), None)


open_caches: list[OpenCache] = []
"""Every open cache of this process; writes invalidate in all of them."""
_default: OpenCache | None = None
CLOSED: Final = "This cache is closed: use it inside `async with`, or call open() first."


def bound_caches(model: type[Model]) -> list[tuple[OpenCache, ModelEntries]]:
    """Every open cache that the model is bound to. Raises ``CacheNotOpen`` in another event loop than the cache's."""
    return [
        (cache.usable(), cache.models[model])
        for cache in open_caches
        if model in cache.models and not cache.loop.is_closed()
    ]


def caches_cascading_from(model: type[Model]) -> list[OpenCache]:
    """Every open cache in which deleting rows of the model changes cached rows of others.

    Raises ``CacheNotOpen`` in another event loop than the cache's.
    """
    return [cache.usable() for cache in _alive() if cache.cascades.affects(model)]


def caches_hiding_rows(
    model: type[Model], bound: Iterable[tuple[OpenCache, ModelEntries]] | None = None
) -> list[OpenCache]:
    """The open caches in which a change of a row may bring it back into many-to-many lists that do not know it."""
    if bound is None:
        bound = bound_caches(model)
    return [cache for cache, entries in bound if entries.schema.hides_rows and cache.cascades.lists_of(model)]


def lists_over(cache: OpenCache, relation: Any) -> list[tuple[ManyToManyEntries, bool]]:
    """The lists over the links of a relation (Tortoise's field): each, and whether it is by the relation's own side."""
    found = [each for each in cache.many_to_many if each.relation.table == through_table(relation)]
    return [(each, each.relation.own_column == relation.backward_key) for each in found]


def caches_with_links(relation: Any) -> list[OpenCache]:
    """Every open cache that the links of a relation matter to. Raises ``CacheNotOpen`` in another event loop."""
    return [cache.usable() for cache in _alive() if cache.links(through_table(relation))]


def _alive() -> list[OpenCache]:
    """The open caches, without those whose program ended their event loop and did not close them."""
    return [cache for cache in open_caches if not cache.loop.is_closed()]


def default_cache() -> OpenCache:
    """Returns the process's default cache. Raises ``CacheNotOpen`` if there is none."""
    if _default is None:
        raise CacheNotOpen(
            "The default cache is closed: reach the one that is open by its manager(model)."
            if open_caches
            else "No cache is open: wrap the application in `async with ModelCache(url):` after Tortoise.init."
        )
    return _default


def default_cache_or_none() -> OpenCache | None:
    """Returns the process's default cache, if one is open."""
    return _default


def register(cache: OpenCache) -> None:
    """Registers an open cache; the first one becomes the default."""
    global _default
    for forgotten in set(open_caches) - set(_alive()):
        unregister(forgotten)
    open_caches.append(cache)
    if _default is None:
        _default = cache


def unregister(cache: OpenCache) -> None:
    """Forgets a cache."""
    global _default
    cache.closed = True
    if cache in open_caches:
        open_caches.remove(cache)
    if _default is cache:
        _default = None
