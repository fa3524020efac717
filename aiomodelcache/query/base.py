"""``CacheQuery``: a lazy lookup, awaitable any number of times."""

import asyncio
import copy
from asyncio import get_running_loop
from collections.abc import Generator, Iterable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.durations import Duration, parse_optional_duration
from aiomodelcache.engine.observing import ObservedLookup, note_bypass, note_end
from aiomodelcache.engine.run import resolve_future
from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.observe.events import Lookup
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.orm.frozen import freeze
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.steps import bypassing, storing
from aiomodelcache.query.recording import answer_of, future_of_tracked, note_unrecorded, start_tracked
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.scopes.request import Scope, current_scope, latest_scope
from aiomodelcache.scopes.tracking import current_tracker, latest_tracker

T = TypeVar("T")


class CacheQuery(Generic[T]):
    """A lookup that is not made until it is awaited. ``await`` it, or put it in a ``BatchCacheQuery``.

    >>> query = Event.cache.get(slug="pycon")       # no I/O
    >>> event = await query                         # one round trip, shared with its tick
    >>> again = await query.resolve()               # the same, as a coroutine
    """

    __slots__ = ("explicit_cache",)
    lookup_event: Lookup | None = None
    """The lookup as observers are told of it. An ``ObservedQuery`` has one, also as a ``FastLookup``."""

    explicit_cache: OpenCache | None
    """The open cache that answers. None stands for the default one."""

    def __init__(self, cache: OpenCache | None = None) -> None:
        self.explicit_cache = cache

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is a query, neither true nor false: await it.")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # a query never changes, and what it refers to cannot be copied

    async def resolve(self) -> T:
        """Makes the lookup. Raises the exceptions documented for this query, and ``CacheNotOpen``."""
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        cache = self.open_cache()
        if cache.guarded.observers is not None and self.lookup_event is None:
            return ObservedQuery(self, cache).__await__()
        client, blocks = self.transaction(cache), open_blocks()
        # ``off_in``, ``current_tracker`` and ``current_scope`` are written out: calls take a tenth of a local hit.
        flag, tracker, scope = cache.bypass, latest_tracker(), latest_scope()
        bypassed = not flag.enabled or flag in blocks
        if tracker is not None:
            if tracker.over:
                tracker = None
            elif client is not None or bypassed or cache.guarded is not tracker.owner:
                note_unrecorded(tracker, client, bypassed=bypassed)
                tracker = None
        if client is not None:
            return cache.reader.direct.run(self.plan(cache, None), client, self.lookup_event).__await__()
        if blocks and not bypassed and (restricted := self.restricted(cache)) is not self:
            return restricted.__await__()
        if tracker is not None:
            return answer_of(start_tracked(self, cache, tracker), tracker)
        if scope is not None and (bypassed or scope.over):
            scope = None if bypassed else current_scope()
        if scope is not None:
            known = self.scope_result(cache, scope)
            if known is not None:
                return _without_waiting(known)
        elif not bypassed and cache.guarded.near.on:
            found = self.nearby(cache)
            if found is not NoValue.MISS:
                return _without_waiting(found)
        lookup = None if bypassed or scope is not None else self.fast_lookup(cache)
        future: asyncio.Future[T] = cache.loop.create_future()
        if lookup is not None:
            cache.reader.hits.start_lookup(lookup, cache, future)
        else:
            plan = cache.reader.of_caller(self.plan(cache, scope))
            cache.reader.start(plan, partial(resolve_future, future), bypass=bypassed, operation=self.lookup_event)
        return future.__await__()

    def start(self) -> "asyncio.Future[T]":
        """Starts the lookup now, in the context of the caller, and returns a future with its outcome.

        >>> events = await asyncio.gather(*[Event.cache.get(id=pk).start() for pk in pks])

        ``gather`` and the like make a task of each query, which takes as long as the lookup itself. They take a future
        as it is. Each call starts a lookup of its own, whose exceptions are those of the future. Raises
        ``RuntimeError`` if no event loop runs.
        """
        loop = get_running_loop()
        try:
            started = self._start()
        except Exception as error:
            started = loop.create_future()
            started.set_exception(error)
        return loop.create_task(self.resolve()) if started is None else started

    def _start(self) -> "asyncio.Future[T] | None":
        """Starts the lookup as ``__await__`` does, and returns its future, or None if a task must make it."""
        cache, kind = self.open_cache(), cast("Any", type(self))
        client, bypassed = self.transaction(cache), cache.bypass.off
        by_task = kind.__await__ is not _await or (open_blocks() and not bypassed)
        if by_task or client is not None or cache.guarded.observers is not None:
            return None
        tracker = current_tracker()
        if tracker is not None and (client is not None or bypassed or cache.guarded is not tracker.owner):
            note_unrecorded(tracker, client, bypassed=bypassed)
            tracker = None
        if tracker is not None:
            return future_of_tracked(self, cache, tracker)
        future: asyncio.Future[T] = cache.loop.create_future()
        scope = None if bypassed else current_scope()
        if scope is not None and (known := self.scope_result(cache, scope)) is not None:
            future.set_result(known)
            return future
        lookup = None if bypassed or scope is not None else self.fast_lookup(cache)
        if lookup is not None:
            cache.reader.hits.start_lookup(lookup, cache, future)
        else:
            plan = cache.reader.of_caller(self.plan(cache, scope))
            cache.reader.start(plan, partial(resolve_future, future), bypass=bypassed)
        return future

    def options(
        self, *, timeout: Duration | None = None, fill: bool = True, cache: bool = True, read_only: bool = False
    ) -> "OptionsQuery[T]":
        """Returns a query for the same lookup with settings of its own.

        >>> event = await Event.cache.get(slug="pycon").options(fill=False)

        ``timeout``: entries that the lookup stores live no longer than this. ``fill=False``: it reads the cache, and
        stores nothing; lookups inside a cached function follow their own settings. ``cache=False``: it does not use the
        cache, like in a ``disabled()`` block. ``read_only``: its instances refuse to be changed, saved and deleted, by
        ``ReadOnlyInstanceError``. Raises ``CacheConfigurationError`` for a timeout that is out of
        range.
        """
        seconds = parse_optional_duration(f"{self!r}.options: timeout", timeout)
        max_ttl_ms = None if seconds is None else max(1, int(seconds * 1000))
        return OptionsQuery(self, CallOptions(max_ttl_ms, fill, cache, read_only))

    def subjects(self) -> set[object]:
        """Returns what blocks may name this lookup by: its classes, its model, its declaration."""
        own: set[object] = {getattr(self, "_model", None), getattr(self, "_declaration", None)}
        return own.union(type(self).__mro__)

    def restricted(self, cache: OpenCache) -> "CacheQuery[T]":
        """Returns the query for the same lookup as the blocks around the caller restrict it."""
        found = cache.bypass.restrictions(open_blocks(), self.subjects())
        if not found:
            return self
        return OptionsQuery(self, CallOptions(fill=False, cache=not any(each.bypass for each in found)))

    def scope_result(self, cache: OpenCache, scope: Scope) -> T | None:
        """Returns the result that the request's scope holds, or None if only the plan can tell."""
        return None

    def nearby(self, cache: OpenCache) -> T | Miss:
        """Returns the result if near entries alone determine it, or a miss if only a request or the plan can tell."""
        return NoValue.MISS

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        """Returns an object that answers a hit faster than the plan, or None. Raises the exceptions of ``plan``."""
        return None

    def open_cache(self) -> OpenCache:
        """Returns the open cache that answers. Raises ``CacheNotOpen``."""
        cache = self.explicit_cache or default_cache()
        return cache if cache.loop is get_running_loop() and cache.direct else cache.usable()

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        """Returns the open transaction that must answer instead of the cache, or None."""
        raise NotImplementedError

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        """Returns the entry set and the keys of the lookup, for observers. Raises the exceptions of ``plan``."""
        raise NotImplementedError

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        """Returns the plan that makes the lookup. Its errors are raised when the plan runs."""
        raise NotImplementedError


_await: Final = cast("Any", CacheQuery).__await__


class CallOptions(NamedTuple):
    """Settings of one lookup. See ``CacheQuery.options``."""

    max_ttl_ms: int | None = None
    fill: bool = True
    cache: bool = True
    read_only: bool = False


class OptionsQuery(CacheQuery[T]):
    """A lookup with settings of its own. Made by ``CacheQuery.options``."""

    __slots__ = ("_options", "_query")

    def __init__(self, query: CacheQuery[T], options: CallOptions) -> None:
        super().__init__(query.explicit_cache)
        self._query = query
        self._options = options

    def __repr__(self) -> str:
        return f"<{self._query!r} with options>"

    @property
    def kind(self) -> str:
        """The name of the class of the query without its settings."""
        return type(self._query).__name__

    @property
    def uses_cache(self) -> bool:
        """True if the settings do not forbid the cache."""
        return self._options.cache

    def restricted(self, cache: OpenCache) -> CacheQuery[T]:
        restricted = self._query.restricted(cache)
        if not isinstance(restricted, OptionsQuery):
            return self
        both = CallOptions(
            self._options.max_ttl_ms,
            fill=self._options.fill and restricted._options.fill,
            cache=self._options.cache and restricted._options.cache,
            read_only=self._options.read_only,
        )
        return self if both == self._options else OptionsQuery(self._query, both)

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return self._query.located(cache)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._query.transaction(cache)

    def open_cache(self) -> OpenCache:
        return self._query.open_cache()

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        max_ttl_ms, fill, use_cache, read_only = self._options
        if not use_cache:
            plan = bypassing(self._query.plan(cache, None), cache.bypass)
        else:  # others may change the instances that a request's scope shares
            plan = self._query.plan(cache, None if read_only else scope)
            plan = storing(plan, fill=fill, max_ttl_ms=max_ttl_ms)
        result = yield from plan
        if read_only:
            freeze(result)
        return result


class ObservedQuery(CacheQuery[T]):
    """One await of a query that observers are told of."""

    __slots__ = ("_lookup", "_observers", "_query", "lookup_event")

    def __init__(self, query: CacheQuery[T], cache: OpenCache) -> None:
        assert cache.guarded.observers is not None, "there are no observers"
        self.explicit_cache = query.explicit_cache
        self._query = query
        self._observers = cache.guarded.observers
        name, prefix = "", b""
        keys: Iterable[bytes] = ()
        with suppress(Exception):  # the lookup itself raises it
            entry_set, keys = query.located(cache)
            name, prefix = entry_set.counters.name, entry_set.prefix.removesuffix(cache.space.tenant or b"")
        kind = query.kind if isinstance(query, OptionsQuery) else type(query).__name__.removeprefix("_")
        self._lookup = self.lookup_event = Lookup(cache=name, kind=kind, keys=tuple(keys), prefix=prefix)

    def __await__(self) -> Generator[Any, None, T]:
        self.begin()
        try:
            result: T = yield from super().__await__()
        except BaseException as error:
            self.end(error)
            raise
        self.end(None)
        return result

    def begin(self) -> None:
        """Tells the observers that the lookup begins."""
        self._observers.begin(self._lookup)

    def stop(self) -> None:
        """Takes the time at which the lookup has its answer, before the observers are told."""
        self._lookup.duration = perf_counter() - self._lookup.started

    def end(self, error: BaseException | None) -> None:
        """Tells the observers that the lookup has ended."""
        note_end(self._lookup, error)
        self._observers.end(self._lookup, error)

    def restricted(self, cache: OpenCache) -> CacheQuery[T]:
        self._query = self._query.restricted(cache)
        return self

    def open_cache(self) -> OpenCache:
        return self._query.open_cache()

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        client = self._query.transaction(cache)
        if client is not None:
            note_bypass(self._lookup, "transaction")
        return client

    def scope_result(self, cache: OpenCache, scope: Scope) -> T | None:
        known = self._query.scope_result(cache, scope)
        if known is not None:
            self._lookup.outcome = "scope"
        return known

    def nearby(self, cache: OpenCache) -> T | Miss:
        found = self._query.nearby(cache)
        if found is not NoValue.MISS:
            self._lookup.outcome = "near"
        return found

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        lookup = self._query.fast_lookup(cache)
        return None if lookup is None else ObservedLookup(lookup, self._lookup)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        if isinstance(self._query, OptionsQuery) and not self._query.uses_cache:
            note_bypass(self._lookup, "disabled")
        result = yield from self._query.plan(cache, scope)
        if self._lookup.outcome is None:  # it has asked for nothing
            self._lookup.outcome = "scope" if scope is not None else "hit"
        return result


def _without_waiting(known: T) -> Generator[Any, None, T]:
    return known
    yield  # never reached, but makes this function a generator
