"""``ModelCache``: puts the parts together when it opens and takes them apart when it closes."""

import asyncio
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from redis.asyncio import Redis, RedisCluster
from tortoise.models import Model

from aiomodelcache.backends.breaker import Link
from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.binding.binder import bind
from aiomodelcache.config import CacheConfig, Settings
from aiomodelcache.declare.manager import ModelCacheManager, manager_of
from aiomodelcache.declare.model import CachedModel
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.tasks import Tasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.predictions import Guesses
from aiomodelcache.exceptions import CacheConfigurationError, CacheError, CacheNotOpen
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import CLOSED, Session, closed, opened
from aiomodelcache.orm.connections import bound_models, read_from_primaries
from aiomodelcache.query import foreign_keys as foreignkeys
from aiomodelcache.scopes.bypass import Disabled, Switch
from aiomodelcache.scopes.request import context_without_scope
from aiomodelcache.write import many_to_many as relations
from aiomodelcache.write import querysets
from aiomodelcache.write import saves as signals
from aiomodelcache.write.cascades import Cascades
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
        self._switch = Switch(enabled=self.config.enabled)
        self._session: Session | None = None
        self._owned: Backend | None = None

    def __repr__(self) -> str:
        if self._session is None:
            return "<ModelCache, closed>"
        return f"<ModelCache of {len(self._session.bindings)} models on {self.backend!r}>"

    @property
    def stats(self) -> Stats:
        """What this cache did since it opened. Raises ``CacheNotOpen``."""
        return self.session.stats

    @property
    def backend(self) -> Backend:
        """The store in use. Raises ``CacheNotOpen``."""
        return self.session.link.backend

    @property
    def session(self) -> Session:
        """The open cache's inner half. Raises ``CacheNotOpen``."""
        if self._session is None:
            raise CacheNotOpen(CLOSED)
        return self._session

    async def open(self) -> Self:
        """Binds the models and connects.

        Raises ``CacheConfigurationError`` for any wrong declaration or URL and ``BackendError`` if the
        server does not answer.
        """
        if self._session is not None:
            raise CacheError("This ModelCache is open already: close it first, or make another one.")
        stats = Stats()
        near = Near(self.config.near_memory_limit, self.config.near_lag)
        stats.near = near.counters
        bindings = bind(self.config, self.namespace, stats, near)
        backend = self._make_backend()
        link = Link(backend, stats, cooldown=self.config.breaker_cooldown, enabled=self.config.enabled, near=near)
        link.keep_near()
        await backend.open()
        tasks = Tasks(context_without_scope())
        tasks.context.run(read_from_primaries, bound_models())
        reader = Reader(link, self.config, tasks, self._switch, bindings.lifetimes)
        guesses = Guesses(self.config.guess_size)
        session = Session(
            config=self.config,
            stats=stats,
            link=link,
            switch=self._switch,
            reader=reader,
            writer=Writer(link, self.config, tasks, reader, guesses),
            guesses=guesses,
            tasks=tasks,
            loop=asyncio.get_running_loop(),
            bindings=bindings.models,
            declared=bindings.classes,
            namespace=self.namespace,
            lists=bindings.many_to_many,
            cascades=Cascades(bindings.models, bound_models(), self.config.bulk_limit),
        )
        for model in bound_models():
            if model in session.bindings or session.cascades.concerns(model):
                signals.listen(model)
                querysets.track(model)
                if not issubclass(model, CachedModel):
                    signals.announce(model)
        for model in bound_models():
            relations.install(model, session)
        for model, field in bindings.foreign_keys:
            foreignkeys.install(session.bindings[model].schema, field)
        self._session = session
        opened(session)
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
        """Waits for look-ups and invalidations under way and disconnects. Does nothing on a closed cache.

        Look-ups that take longer than ``lease_ttl`` fail with ``CacheNotOpen``.
        """
        session, self._session = self._session, None
        owned, self._owned = self._owned, None
        if session is None:
            return
        closed(session)
        session.writer.stop()
        try:
            await session.tasks.finish(session.config.lease_ttl)
            await session.writer.close()
        finally:
            session.link.end_near()
            session.reader.close()
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
        self.session.binding(model)
        return manager_of(model, self.session)

    def disabled(self) -> Disabled:
        """A block in which reads go straight to the database, as with ``enabled=False``; writes still invalidate.

        For this cache, in this task, in those that are started inside and in what is computed for them: ``with`` and
        ``async with``. What a ``local_cache()`` around remembers is not used either.

        >>> with cache.disabled():
        ...     event = await Event.cache.get(slug="pycon")    # one statement, no request to the store
        """
        return Disabled(self._switch)

    async def clear(self, *models: type[Model]) -> None:
        """Forgets everything about these models, in O(1), in all processes. Raises ``BackendError``.

        Inside a transaction on a model's connection it takes effect at COMMIT, and what the cache could not be told
        is kept and sent later.
        """
        await clear_models(self.session.usable(), models)

    async def clear_all(self) -> None:
        """Forgets everything about every bound model, like ``clear``. Raises ``BackendError``."""
        session = self.session.usable()
        await clear_models(session, session.bindings)
