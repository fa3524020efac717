"""``ModelCache``: builds the parts of a cache when it opens, and closes them in order."""

from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from tortoise.models import Model

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.backends.signed import SignedBackend
from aiomodelcache.binding.binder import bind
from aiomodelcache.config import CacheConfig, Settings, unknown_setting
from aiomodelcache.declare.manager import ModelCacheManager, manager_of
from aiomodelcache.declare.model import CachedModel
from aiomodelcache.declare.targets import Target, targets_of
from aiomodelcache.encoding.keys import is_text
from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheConfigurationError, CacheError, CacheNotOpen, shown
from aiomodelcache.garbage import LongLived
from aiomodelcache.observe.fleet import Fleet, Worker
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import CLOSED_MESSAGE, OpenCache, process_lock, refuse_shared, register, unregister
from aiomodelcache.orm.catalogue import inspect_columns
from aiomodelcache.orm.changes import note_changes
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.orm.unchanged_rows import refuse_other_types
from aiomodelcache.query import foreign_keys
from aiomodelcache.query.attributes import explain_result_attributes
from aiomodelcache.requirements import secrets_of
from aiomodelcache.scopes.bypass import BypassBlock, BypassFlag, Restriction
from aiomodelcache.views import Views
from aiomodelcache.write import listeners, many_to_many, methods, querysets
from aiomodelcache.write.manual import clear_models, invalidate_tags

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

    from aiomodelcache.relay import Relay

M = TypeVar("M", bound=Model)


class ModelCache:
    """A cache for the models of ``Tortoise.init``.

    ``backend`` is a URL (``memory://``, ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``,
    ``redis+sentinel://``), a ready redis-py asyncio client, or a ``Backend``. A client or ``Backend`` that you pass in
    is not closed. ``namespace`` separates applications that share a server. Settings are those of ``CacheConfig``.

    >>> async with ModelCache("redis://localhost:6379/0", timeout=600):
    ...     event = await Event.cache.get(slug="pycon")

    The first cache opened in an event loop answers ``Event.cache`` in every task of the loop. Use another one through
    ``cache.manager(Event)``. Each thread with an event loop, and each process after a fork, opens a cache of its own.
    Writes invalidate in all open caches of the process, also in those of other threads.
    """

    def __init__(
        self,
        backend: "str | Backend | Redis | RedisCluster",
        *,
        namespace: str = "",
        config: CacheConfig | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        for name in settings.keys() - Settings.__annotations__.keys():
            raise CacheConfigurationError(unknown_setting("ModelCache", name))
        if not is_text(namespace):
            raise CacheConfigurationError(f"ModelCache: namespace is {shown(namespace)}: it must be a string.")
        if config is not None and not isinstance(config, CacheConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CacheConfigurationError(f"ModelCache: config is {described(config)}: it must be a CacheConfig.")
        self.config = replace(config or CacheConfig(), **cast("Any", settings))
        self.namespace = namespace
        self._backend_argument: Any = backend
        self._bypass_flag = BypassFlag(enabled=self.config.enabled)
        self._open_cache: OpenCache | None = None
        self._owned_backend: Backend | None = None
        self._opening = False
        self._long_lived = LongLived(freeze=self.config.freeze_gc)
        self._publishes = self.config.publish_stats
        self._views: Views

    def __repr__(self) -> str:
        if self._open_cache is None:
            return "<ModelCache, closed>"
        return f"<ModelCache of {len(self._open_cache.models)} models on {self.backend!r}>"

    @property
    def stats(self) -> Stats:
        """The counters of this cache since it opened. Raises ``CacheNotOpen``."""
        return self.open_cache.stats

    @property
    def worker(self) -> Worker:
        """The worker that this process is, with a copy of its counters, as in ``fleet``. Raises ``CacheNotOpen``."""
        if self._open_cache is None:
            raise CacheNotOpen(CLOSED_MESSAGE)
        return self._views.publisher.worker()

    async def fleet(self) -> Fleet:
        """Returns the counters of all processes that publish them, by ``publish_stats`` or for Prometheus.

        >>> fleet = await cache.fleet()
        >>> print(sum(worker.stats.statements for worker in fleet.workers))

        Takes one round trip, and one more if this process publishes. Raises ``CacheNotOpen``.
        """
        self.open_cache.check_open()
        return await self._views.publisher.fleet()

    def publish_stats(self) -> None:
        """Publishes the counters of this process, as the setting of this name does. Idempotent.

        A closed cache publishes once it is open. Can be called from any thread.
        """
        self._publishes = True
        if self._open_cache is not None and not self._open_cache.abandoned:
            self._open_cache.loop.call_soon_threadsafe(self._views.publisher.start)

    @property
    def relay(self) -> "Relay | None":
        """The relay that this cache runs, for its health, or None without ``relay=True``. Raises ``CacheNotOpen``."""
        self.open_cache.check_open()
        return self._views.relay

    @property
    def backend(self) -> Backend:
        """The store in use. Raises ``CacheNotOpen``."""
        return self.open_cache.guarded.backend

    @property
    def open_cache(self) -> OpenCache:
        """The part of the open cache that lookups and writes use. Raises ``CacheNotOpen``."""
        if self._open_cache is None:
            raise CacheNotOpen(CLOSED_MESSAGE)
        return self._open_cache

    async def open(self) -> Self:
        """Binds the models and connects.

        Raises ``CacheConfigurationError`` for a wrong declaration or URL. Raises ``BackendError`` if the server does
        not answer and ``require_backend`` is set.
        """
        if self._open_cache is not None and not self._open_cache.abandoned:
            raise CacheError("This ModelCache is already open: close it first, or make another one.")
        if self._opening:
            raise CacheError("This ModelCache is being opened by another task: open it once, or make another one.")
        self._opening = True
        try:
            with process_lock:
                opened = self._make_open_cache()
            try:
                if self.config.inspect_columns:
                    await inspect_columns([entries.schema for entries in opened.models.values()])
                refuse_other_types(entries.rows.unchanged for entries in opened.models.values())
                opened.guarded.start_tracking()
                _check_write_through(opened)
                await opened.guarded.open(required=self.config.require_backend)
                await self._views.start()
            except BaseException:
                opened.guarded.stop_tracking()
                raise
        finally:
            self._opening = False
        self._open_cache = opened
        register(opened)
        if self._publishes:
            self._views.publisher.start()
        self._long_lived.freeze()
        return self

    def _make_open_cache(self) -> OpenCache:
        stats = Stats()
        near = Near(self.config.near_memory_limit, self.config.near_lag)
        stats.near = near.counters
        backend, argument = self._make_backend(), self._backend_argument
        refuse_shared(backend)
        store = argument if isinstance(argument, str) and argument != "memory://" else backend
        if self.config.secret is not None:
            backend = SignedBackend(backend, secrets_of(self.config.secret))
        guarded = GuardedBackend(
            backend,
            stats,
            cooldown=self.config.breaker_cooldown,
            enabled=self.config.enabled,
            near=near,
            observers=self.config.observers,
        )
        self._views = Views(self.config, self.namespace, store, guarded, self._bypass_flag, bind)
        opened = self._views.root
        for model in bound_models():
            if model in opened.written or opened.cascades.affects(model) or opened.versions.deleted_with(model):
                querysets.track_querysets(model)
                if not issubclass(model, CachedModel):  # which does the same itself
                    listeners.listen_to_signals(model)
                    methods.wrap_methods(model)
                if model in opened.written:
                    for entries in opened.written[model].exact:
                        unchanged = () if entries.rows.unchanged is None else entries.rows.unchanged.columns
                        watched = (name for index in entries.indexes for name in index.watched)
                        note_changes(model, [*unchanged, *watched])
        for model in bound_models():
            many_to_many.install_relations(model, opened)
        for model in opened.models:
            explain_result_attributes(model)
        for model, field in self._views.foreign_keys:
            foreign_keys.install_foreign_key(opened.models[model].schema, field)
        return opened

    def _make_backend(self) -> Backend:
        argument = self._backend_argument
        if isinstance(argument, str) and argument == "memory://":
            self._owned_backend = MemoryBackend(limit=self.config.memory_limit)
        elif isinstance(argument, str) or hasattr(argument, "execute_command"):
            self._owned_backend = self._make_redis(argument)
        elif hasattr(argument, "lease") and hasattr(argument, "mark") and not isinstance(argument, type):
            self._owned_backend = None
            return cast("Backend", argument)
        else:
            raise CacheConfigurationError(
                f"ModelCache: {described(argument)} is no backend: pass a URL like redis://localhost:6379/0 or "
                "memory://, a redis.asyncio client, or a Backend."
            )
        return self._owned_backend

    def _make_redis(self, url_or_client: Any) -> Backend:
        from aiomodelcache.backends.redis.backend import RedisBackend  # redis-py takes long to import

        names = "socket_timeout", "batch_size", "wait_replicas"
        try:
            return RedisBackend(url_or_client, **{name: getattr(self.config, name) for name in names})
        except CacheConfigurationError as error:
            if isinstance(url_or_client, str):
                raise CacheConfigurationError(f"{error} A store in this process is memory:// alone.") from error
            raise

    async def close(self) -> None:
        """Waits for lookups and invalidations in flight, and disconnects. Idempotent.

        Lookups that take longer than ``lease_ttl`` fail with ``CacheNotOpen``. If the caller is cancelled, ``close``
        stops waiting for lookups, but still delivers invalidations and disconnects, also in a cancelled AnyIO scope.
        Any task of the event loop may close the cache, not only the one that opened it. In another loop that fails with
        ``CacheNotOpen``, unless the cache's own loop has ended. Nothing is sent then, nor in a forked child.
        """
        if self._open_cache is not None and not self._open_cache.abandoned:
            self._open_cache.check_open()
        opened, self._open_cache = self._open_cache, None
        owned, self._owned_backend = self._owned_backend, None
        if opened is None:
            return
        self._long_lived.unfreeze()
        unregister(opened)
        if opened.abandoned:
            return
        try:
            await self._views.close()
        finally:
            opened.guarded.stop_tracking()
            if owned is not None:
                await owned.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def manager(self, model: type[M]) -> ModelCacheManager[M]:
        """Returns the model's manager on this cache, even if another cache is the default. Raises ``CacheNotOpen``."""
        self.open_cache.entries_of(model)
        return manager_of(model, self.open_cache)

    def disabled(self, *targets: Target) -> BypassBlock:
        """Returns a block in which reads bypass the cache, as with ``enabled=False``. Writes still invalidate.

        Use it by ``with`` or ``async with``. It applies to this cache, in this task, in tasks started inside the block,
        and in computations for them. Results that a surrounding ``local_cache()`` holds are not used either.

        >>> with cache.disabled():
        ...     event = await Event.cache.get(slug="pycon")    # one statement, no request to the store
        >>> with cache.disabled(Event):
        ...     user = await User.cache.get(username="kim")    # from the cache

        With ``targets``, it applies to lookups of these models, cache classes and cached functions alone, and to all
        lookups inside their computations. Raises ``TypeError`` for any other target.
        """
        if not targets:
            return BypassBlock(self._bypass_flag)
        return BypassBlock(Restriction(self._bypass_flag, targets_of("disabled", targets), bypass=True))

    def without_fill(self, *targets: Target) -> BypassBlock:
        """Returns a block in which lookups read the cache and store nothing. Writes still invalidate.

        For reports and jobs whose rows no other caller looks up. A lookup that misses takes one statement and
        leaves no entry. Takes the targets of ``disabled``; without any, it applies to all lookups.

        >>> with cache.without_fill():
        ...     events = await Event.cache.get_many(range(100_000))
        """
        found = targets_of("without_fill", targets) if targets else None
        return BypassBlock(Restriction(self._bypass_flag, found, bypass=False))

    async def clear(self, *models: type[Model]) -> None:
        """Invalidates everything about these models, in O(1) and in all processes. Raises ``BackendError``.

        Inside a transaction on a model's connection, the invalidation takes effect at COMMIT. If the store does not
        answer then, the invalidation is kept and sent later. Without a model, ``TypeError`` is raised.
        """
        if not models:
            raise TypeError("ModelCache.clear takes classes of models: name them, or use clear_all().")
        await clear_models(self.open_cache.writable(), models)

    async def invalidate_tags(self, *tags: str) -> None:
        """Invalidates all values that have one of these tags, in O(1) and in all processes.

        >>> @cached(tags=("rates", lambda base: f"rate:{base}"), invalidation=InvalidationType.OFF)
        ... async def rate(base: str) -> Decimal:
        ...     return await ask_the_exchange(base)
        >>> await cache.invalidate_tags("rate:USD")

        Inside a transaction it takes effect at COMMIT. If the store does not answer, the invalidation is kept and sent
        later. Raises ``TypeError`` for a tag that is not a string.
        """
        for tag in tags:
            if not is_text(tag):
                raise TypeError(f"ModelCache.invalidate_tags takes names of tags; got {described(tag)}.")
        await invalidate_tags(self.open_cache.writable(), tags)

    async def clear_all(self) -> None:
        """Invalidates everything about all bound models, like ``clear``. Raises ``BackendError``."""
        opened = self.open_cache.writable()
        await clear_models(opened, opened.models)


def _check_write_through(opened: OpenCache) -> None:
    """Raises ``CacheConfigurationError`` if writers cannot store rows in the backend and are told to."""
    if hasattr(opened.guarded.backend, "clear_and_save"):
        return
    for entries in opened.models.values():
        if entries.rows.stored is not None:
            raise CacheConfigurationError(
                f"{entries.schema.name}: write_through needs a backend with mark_for_save and clear_and_save, which "
                f"{opened.guarded.backend!r} has not: add them, or remove write_through."
            )
