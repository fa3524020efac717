"""``ModelCache``: puts the parts together when it opens and takes them apart when it closes."""

import asyncio
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from redis.asyncio import Redis, RedisCluster
from tortoise.models import Model

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.binding.binder import bind
from aiomodelcache.config import CacheConfig, Settings
from aiomodelcache.declare.manager import ModelCacheManager, manager_of
from aiomodelcache.declare.model import CachedModel
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.cascades import CascadeGraph
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.exceptions import CacheConfigurationError, CacheError, CacheNotOpen
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import CLOSED, OpenCache, register, unregister
from aiomodelcache.orm.connections import bound_models, read_from_primaries
from aiomodelcache.query import foreign_keys
from aiomodelcache.scopes.bypass import BypassBlock, BypassFlag
from aiomodelcache.scopes.request import context_without_scope
from aiomodelcache.write import many_to_many, querysets, saves
from aiomodelcache.write.manual import clear_models

M = TypeVar("M", bound=Model)


class ModelCache:
    """A cache for the models of ``Tortoise.init``.

    ``backend`` is a URL (``memory://``, ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``,
    ``redis+sentinel://``), a ready redis-py asyncio client, or a ``Backend``. What was passed ready-made is
    not closed. ``namespace`` keeps applications apart that share a server. Settings are those of
    ``CacheConfig``.

    >>> async with ModelCache("redis://localhost:6379/0", timeout=600):
    ...     event = await Event.cache.get(slug="pycon")

    The first cache opened in a process answers ``Event.cache`` in every task; another one is used through
    ``cache.manager(Event)``. Writes invalidate in all open caches.
    """

    def __init__(
        self,
        backend: str | Backend | Redis | RedisCluster,
        *,
        namespace: str = "",
        config: CacheConfig | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        for name in settings.keys() - Settings.__annotations__.keys():
            known = ", ".join(Settings.__annotations__)
            raise CacheConfigurationError(f"ModelCache has no setting {name!r}. Its settings: {known}.")
        if not isinstance(namespace, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all typed
            raise CacheConfigurationError(f"ModelCache: namespace is {namespace!r}: it must be a string.")
        self.config = replace(config or CacheConfig(), **settings)
        self.namespace = namespace
        self._given: Any = backend
        self._bypass_flag = BypassFlag(enabled=self.config.enabled)
        self._open_cache: OpenCache | None = None
        self._owned: Backend | None = None

    def __repr__(self) -> str:
        if self._open_cache is None:
            return "<ModelCache, closed>"
        return f"<ModelCache of {len(self._open_cache.models)} models on {self.backend!r}>"

    @property
    def stats(self) -> Stats:
        """What this cache did since it opened. Raises ``CacheNotOpen``."""
        return self.open_cache.stats

    @property
    def backend(self) -> Backend:
        """The store in use. Raises ``CacheNotOpen``."""
        return self.open_cache.guarded.backend

    @property
    def open_cache(self) -> OpenCache:
        """The open cache's inner half. Raises ``CacheNotOpen``."""
        if self._open_cache is None:
            raise CacheNotOpen(CLOSED)
        return self._open_cache

    async def open(self) -> Self:
        """Binds the models and connects.

        Raises ``CacheConfigurationError`` for any wrong declaration or URL and ``BackendError`` if the
        server does not answer.
        """
        if self._open_cache is not None:
            raise CacheError("This ModelCache is open already: close it first, or make another one.")
        stats = Stats()
        near = Near(self.config.near_memory_limit, self.config.near_lag)
        stats.near = near.counters
        bindings = bind(self.config, self.namespace, stats, near)
        backend = self._make_backend()
        guarded = GuardedBackend(
            backend, stats, cooldown=self.config.breaker_cooldown, enabled=self.config.enabled, near=near
        )
        guarded.start_tracking()
        await backend.open()
        tasks = BackgroundTasks(context_without_scope())
        tasks.context.run(read_from_primaries, bound_models())
        reader = Reader(guarded, self.config, tasks, self._bypass_flag, bindings.lifetimes)
        predictions = Predictions(self.config.guess_size)
        opened = OpenCache(
            config=self.config,
            stats=stats,
            guarded=guarded,
            bypass=self._bypass_flag,
            reader=reader,
            writer=Writer(guarded, self.config, tasks, reader.background, predictions),
            predictions=predictions,
            tasks=tasks,
            loop=asyncio.get_running_loop(),
            models=bindings.models,
            classes=bindings.classes,
            namespace=self.namespace,
            many_to_many=bindings.many_to_many,
            cascades=CascadeGraph(bindings.models, bound_models(), self.config.bulk_limit),
        )
        for model in bound_models():
            if model in opened.models or opened.cascades.affects(model):
                saves.listen(model)
                querysets.track(model)
                if not issubclass(model, CachedModel):
                    saves.wrap_methods(model)
        for model in bound_models():
            many_to_many.install(model, opened)
        for model, field in bindings.foreign_keys:
            foreign_keys.install(opened.models[model].schema, field)
        self._open_cache = opened
        register(opened)
        return self

    def _make_backend(self) -> Backend:
        given = self._given
        if isinstance(given, str) and given.startswith("memory://"):
            self._owned = MemoryBackend(limit=self.config.memory_limit)
        elif isinstance(given, str) or hasattr(given, "execute_command"):
            self._owned = self._make_redis(given)
        elif hasattr(given, "lease") and hasattr(given, "mark") and not isinstance(given, type):
            self._owned = None
            return cast("Backend", given)
        else:
            raise CacheConfigurationError(
                f"ModelCache: {given!r} is no backend: pass a URL like redis://localhost:6379/0 or memory://, "
                "a redis.asyncio client, or a Backend."
            )
        return self._owned

    def _make_redis(self, given: Any) -> RedisBackend:
        config = self.config
        try:
            return RedisBackend(given, socket_timeout=config.socket_timeout, batch_size=config.batch_size)
        except CacheConfigurationError as error:
            if isinstance(given, str):
                raise CacheConfigurationError(f"{error} For a store in this process, it is memory://.") from error
            raise

    async def close(self) -> None:
        """Waits for lookups and invalidations under way and disconnects. Does nothing on a closed cache.

        Lookups that take longer than ``lease_ttl`` fail with ``CacheNotOpen``. If the caller is cancelled, ``close``
        stops waiting for lookups, but still delivers invalidations and disconnects, also in a cancelled AnyIO scope.
        Any task of the event loop may close the cache, not only the one that opened it.
        """
        opened, self._open_cache = self._open_cache, None
        owned, self._owned = self._owned, None
        if opened is None:
            return
        unregister(opened)
        opened.writer.stop()
        try:
            try:
                await opened.tasks.finish(opened.config.lease_ttl)
            finally:
                opened.reader.close()
                await opened.writer.close()
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
        """The model's manager on this cache, also where this is not the default. Raises ``CacheNotOpen``."""
        self.open_cache.entries_of(model)
        return manager_of(model, self.open_cache)

    def disabled(self) -> BypassBlock:
        """A block in which reads go straight to the database, as with ``enabled=False``; writes still invalidate.

        For this cache, in this task, in those that are started inside and in what is computed for them: ``with`` and
        ``async with``. What a ``local_cache()`` around remembers is not used either.

        >>> with cache.disabled():
        ...     event = await Event.cache.get(slug="pycon")    # one statement, no request to the store
        """
        return BypassBlock(self._bypass_flag)

    async def clear(self, *models: type[Model]) -> None:
        """Forgets everything about these models, in O(1), in all processes. Raises ``BackendError``.

        Inside a transaction on a model's connection it takes effect at COMMIT, and what the cache could not be told
        is kept and sent later.
        """
        await clear_models(self.open_cache.usable(), models)

    async def clear_all(self) -> None:
        """Forgets everything about every bound model, like ``clear``. Raises ``BackendError``."""
        opened = self.open_cache.usable()
        await clear_models(opened, opened.models)
