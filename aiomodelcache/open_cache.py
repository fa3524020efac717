"""One open cache with its models, reader and writer, and the process's open caches with the default ones.

An ``OpenCache`` is the part of a ``ModelCache`` that lookups and writes use. It lives from open to close. Only the
event loop that opened it reads from it. Writes of other loops, in other threads, invalidate in it, too. A forked child
has none of its parent's caches.
"""

import asyncio
import os
import threading
from asyncio import get_running_loop
from collections.abc import Callable
from functools import cache as once
from typing import Any, Final, Protocol

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.messages import described
from aiomodelcache.engine.derivation import Derivations
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.cascades import CascadeGraph
from aiomodelcache.entries.decoded import Decoded
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency
from aiomodelcache.entries.many_to_many import ManyToManyEntries, ThroughModelDependency
from aiomodelcache.entries.model import EntrySet, ModelEntries
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.tables import WrittenEntries
from aiomodelcache.entries.versions import TableVersions
from aiomodelcache.exceptions import CacheConfigurationError, CacheError, CacheNotOpen, CacheNotRegistered, TenantError
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.paths import RelationPath
from aiomodelcache.scopes.bypass import BypassFlag


class Bindings(msgspec.Struct):
    """The models, cache classes and relations that are bound to one open cache."""

    models: dict[type[Model], ModelEntries] = msgspec.field(default_factory=dict[type[Model], ModelEntries])
    classes: dict[type, EntrySet | ResultEntries | RelationPath] = msgspec.field(
        default_factory=dict[type, EntrySet | ResultEntries | RelationPath]
    )
    foreign_keys: list[tuple[type[Model], str]] = msgspec.field(default_factory=list[tuple[type[Model], str]])
    many_to_many: list[ManyToManyEntries] = msgspec.field(default_factory=list[ManyToManyEntries])
    lifetimes: list[Lifetimes] = msgspec.field(default_factory=list[Lifetimes])


class OpenCache(msgspec.Struct, eq=False, kw_only=True):
    """The part of an open ``ModelCache`` that lookups and writes use."""

    config: CacheConfig
    stats: Stats
    guarded: GuardedBackend
    bypass: BypassFlag
    reader: Reader
    writer: Writer
    predictions: Predictions
    decoded: Decoded
    tasks: BackgroundTasks
    loop: asyncio.AbstractEventLoop
    models: dict[type[Model], ModelEntries]
    classes: dict[type, EntrySet | ResultEntries | RelationPath]
    """Stand-alone cache classes -> their entries, or the path of relations to their rows."""
    space: KeySpace
    written: dict[type[Model], WrittenEntries]
    """Model -> the entries that a write through it affects, for all models of the tables of cached ones."""
    cascades: CascadeGraph
    versions: TableVersions
    derivations: Derivations
    store: object
    """The URL of the store, or the backend if it has none. Caches with the same one share their entries."""
    many_to_many: list[ManyToManyEntries] = msgspec.field(default_factory=list[ManyToManyEntries])
    """All many-to-many lists."""
    values: dict[str, tuple[Any, ResultEntries]] = msgspec.field(default_factory=dict[str, tuple[Any, ResultEntries]])
    """Names of classes and functions whose values depend on no model -> the declaration's reference, and the entries.

    Filled at first use.
    """
    queries: dict[type[Model], ResultEntries] = msgspec.field(default_factory=dict[type[Model], ResultEntries])
    """Model -> the entries of its ad-hoc queries. Filled at first use."""
    managers: dict[type[Model], Any] = msgspec.field(default_factory=dict[type[Model], Any])
    """Model -> its manager on the default cache. Filled at first use."""
    connections: list[ModelSchema] = msgspec.field(default_factory=list[ModelSchema])
    """The schema of one model of each connection."""
    prefixes: frozenset[bytes] = frozenset()
    """The beginnings of the keys of all entries that depend on models."""
    inherited: bool = False
    """True in a forked child, for a cache that its parent has opened."""
    views: "dict[str, OpenCache]" = msgspec.field(default_factory=dict[str, "OpenCache"])
    """The views of other connections, by the connection's name."""
    make_view: "Callable[[BaseDBAsyncClient], OpenCache] | None" = None
    """Opens a view of another connection. None for such a view itself."""
    find_tenant: "Callable[[], OpenCache | None] | None" = None
    """Returns the view of the caller's tenant, or None if the caller has no tenant. None if the cache has no tenants.
    """
    closed: bool = False
    direct: bool = True
    """True if every caller of the event loop may use the cache itself: it is open and has no tenants."""

    def __repr__(self) -> str:
        return f"<OpenCache of {len(self.models)} models>"  # not the store, whose URL may hold a password

    def __hash__(self) -> int:
        return hash(self.writer)

    def __eq__(self, other: object) -> bool:
        """Returns True if one intent announces the writes of both: for a cache and its views of other connections."""
        return isinstance(other, OpenCache) and self.writer is other.writer

    def __post_init__(self) -> None:
        entry_sets = [
            entry_set
            for entries in self.models.values()
            for entry_set in (entries.rows, *entries.indexes, *entries.results)
            if not isinstance(entry_set, ThroughModelDependency | ExactListDependency | GroupVersions)
        ]
        self.prefixes = frozenset(entry_set.prefix for entry_set in (*entry_sets, *self.many_to_many))
        self.connections = list(
            {entries.schema.connection: entries.schema for entries in self.models.values()}.values()
        )

    def usable(self) -> "OpenCache":
        """Returns the cache for lookups of this caller: itself, or the view of the caller's tenant.

        Raises ``CacheNotOpen`` if it is closed, or was opened in another event loop, and ``TenantError`` if the caller
        has no tenant.
        """
        found = self.writable()
        if found.tenanted:
            raise TenantError(
                "This caller has no tenant, because the function ModelCache(tenant=...) returned None or raised a "
                "LookupError: look up in the context of a tenant, or let the function return a value for such callers."
            )
        return found

    @property
    def tenanted(self) -> bool:
        """True if the cache has a view for each tenant."""
        return self.find_tenant is not None

    def writable(self) -> "OpenCache":
        """Returns the cache for writes of this caller: as ``usable``, or itself if the caller has no tenant.

        Such a write invalidates everything about its model, for all tenants.
        """
        self.check_open()
        return self if self.find_tenant is None else self.find_tenant() or self

    def using(self, client: BaseDBAsyncClient) -> "OpenCache":
        """Returns the view in which all models are bound to another connection."""
        name = client.connection_name
        view = self.views.get(name)
        if view is None:
            if self.make_view is None:
                raise CacheError(f"This is a view of one connection already, and not of {name}.")
            view = self.views[name] = self.make_view(client)
        return view

    def check_open(self) -> None:
        """Raises ``CacheNotOpen`` if the cache is closed, or was opened in another event loop."""
        if self.closed:
            raise CacheNotOpen(FORKED_MESSAGE if self.inherited else CLOSED_MESSAGE)
        if self.loop is not get_running_loop():
            raise CacheNotOpen(
                "This cache was opened in another event loop: open a ModelCache in each loop that uses the cache, and "
                "close it there."
            )

    @property
    def abandoned(self) -> bool:
        """True if the cache can be neither used nor closed: its event loop has ended, or belongs to the parent."""
        return self.inherited or self.loop.is_closed()

    def covers(self, other: "OpenCache") -> bool:
        """Returns True if whatever invalidates entries of this cache invalidates them in the other one, too."""
        return self.store == other.store and self.config == other.config and self.prefixes >= other.prefixes

    def entries_of(self, model: type[Model]) -> ModelEntries:
        """Returns the entries of a model. Raises ``CacheNotRegistered`` if the model is not bound to this cache."""
        try:
            return self.models[model]
        except Exception:  # KeyError, or that of something unhashable
            name = getattr(model, "__name__", None) or described(model)
            raise CacheNotRegistered(
                f"{name} is not bound to the open cache: make it a CachedModel or give it a "
                "ModelCacheManager, and let Tortoise.init load its module before the cache opens."
            ) from None

    def end(self) -> None:
        """Marks the cache as closed, and ends the repeated deliveries of its writer."""
        self.closed, self.direct = True, False
        self.writer.stop()
        for view in self.views.values():
            view.end()

    @property
    def busy(self) -> bool:
        """True if a lookup, an invalidation or a task is in flight."""
        return self.reader.busy or self.writer.busy or self.tasks.busy

    @property
    def in_transaction(self) -> bool:
        """True if the caller has a transaction open, on any connection of the cache's models."""
        return any(schema.transaction() is not None for schema in self.connections)

    def watches_table(self, table: str) -> bool:
        """Returns True if a table has a version, is the through table of cached lists, or that of a cached model."""
        tables = [*self.versions.names, *[through.relation.table for through in self.many_to_many]]
        return table in tables or any(entries.schema.table == table for entries in self.models.values())

    def list_of(self, model: type[Model], name: str) -> ManyToManyEntries | None:
        """Returns the list over a many-to-many relation, in Tortoise's order, or None if it is not cached."""
        entries = self.models.get(model)
        owned = entries.owned if entries is not None else []
        lists = [through for through in owned if through.relation.name == name and through.limit is None]
        return next((through for through in lists if through.order_by == through.schema.ordering), None)


class HasOpenCache(Protocol):
    """A ``ModelCache``, as modules below ``client`` know it."""

    @property
    def open_cache(self) -> OpenCache:
        """The open cache. Raises ``CacheNotOpen``."""
        ...


open_caches: list[OpenCache] = []
"""All open caches of this process. Other threads may change the list at any time: iterate over a copy."""
process_lock: Final = threading.RLock()
"""Held while a cache is opened, registered or unregistered. Opening changes the user's model classes."""
_default: OpenCache | None = None
_other_defaults: dict[asyncio.AbstractEventLoop, OpenCache] = {}
"""The default cache of each event loop that has one, other than the process's default."""
_inherited: list[OpenCache] = []
"""The parent's caches. Kept because the parent's event loop would notice if their connections were collected here."""
CLOSED_MESSAGE: Final = "This cache is closed: use it inside `async with`, or call open() first."
FORKED_MESSAGE: Final = (
    "This cache was opened before fork(), and its connections belong to the parent process: open a ModelCache in each "
    "process."
)


def default_cache() -> OpenCache:
    """Returns the default cache. Raises ``CacheNotOpen`` if there is none."""
    cache = _default_of_loop() if _other_defaults else _default
    if cache is None:
        if open_caches:
            raise CacheNotOpen("The default cache is closed: use the open one by its manager(model).")
        raise CacheNotOpen(
            FORKED_MESSAGE
            if _inherited
            else "No cache is open: wrap the application in `async with ModelCache(url):` after Tortoise.init."
        )
    return cache


def default_cache_or_none() -> OpenCache | None:
    """Returns the default cache, or None if no cache is open."""
    return _default_of_loop() if _other_defaults else _default


def _default_of_loop() -> OpenCache | None:
    """Returns the default cache of this event loop, or the process's if the loop has none."""
    try:
        return _other_defaults.get(get_running_loop(), _default)
    except RuntimeError:  # no loop runs in this thread
        return _default


def refuse_shared(backend: object) -> None:
    """Raises ``CacheConfigurationError`` if a cache of another event loop uses this very backend."""
    here = get_running_loop()
    if any(cache.store is backend and cache.loop is not here for cache in _live_caches()):
        raise CacheConfigurationError(
            f"ModelCache: a cache of another event loop uses {backend!r}: pass a URL, or a backend for each loop."
        )


def _live_caches() -> list[OpenCache]:
    return [cache for cache in open_caches.copy() if not cache.loop.is_closed()]


def caller_cache() -> OpenCache | None:
    """Returns the default cache for this caller, or None if none is open or the caller is outside of any tenant.

    For relations, which Tortoise can answer as well.
    """
    cache = _default_of_loop() if _other_defaults else _default
    if cache is None or cache.find_tenant is None or cache.loop is not get_running_loop():
        return cache
    return cache.find_tenant()


def register(cache: OpenCache) -> None:
    """Registers an open cache. The first one of its event loop becomes the default there.

    The first one of all is also the default where no loop runs, and in loops without a cache, which refuse to use it.
    """
    global _default
    _watch_forks()
    with process_lock:
        for abandoned in set(open_caches) - set(_live_caches()):
            unregister(abandoned)
        open_caches.append(cache)
        if _default is None and cache.loop not in _other_defaults:
            _default = cache
        elif _default is None or _default.loop is not cache.loop:
            _other_defaults.setdefault(cache.loop, cache)


def unregister(cache: OpenCache) -> None:
    """Marks a cache as closed, and removes it from the open ones."""
    global _default
    with process_lock:
        cache.end()
        if cache in open_caches:
            open_caches.remove(cache)
        if _default is cache:
            _default = None
        if _other_defaults.get(cache.loop) is cache:
            del _other_defaults[cache.loop]


@once
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(
            before=process_lock.acquire, after_in_parent=process_lock.release, after_in_child=_leave_to_parent
        )


def _leave_to_parent() -> None:
    """Forgets, in a forked child, the caches of its parent: using a connection would confuse the parent's replies."""
    for cache in open_caches.copy():
        cache.inherited = True
        unregister(cache)
        _inherited.append(cache)
    process_lock.release()
