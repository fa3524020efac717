"""``CacheQuery``: a lazy lookup, awaitable any number of times."""

import asyncio
import copy
from asyncio import get_running_loop
from collections.abc import Generator
from functools import partial
from typing import Any, Generic, Self, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.engine.run import resolve
from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.orm.meta import field_names
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.tracking import TrackedLookup, tracked
from aiomodelcache.scopes.request import Scope, current_scope
from aiomodelcache.scopes.tracking import Tracker, current_tracker

T = TypeVar("T")


class CacheQuery(Generic[T]):
    """A lookup that is not made until it is awaited. ``await`` it, or put it in a ``BatchCacheQuery``.

    >>> query = Event.cache.get(slug="pycon")       # no I/O
    >>> event = await query                         # one round trip, shared with its tick
    >>> again = await query.resolve()               # the same, as a coroutine
    """

    __slots__ = ("explicit_cache",)

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
        client = self.transaction(cache)
        tracker = current_tracker()
        if tracker is not None:
            tracker = self.tracker_of(cache, tracker, client)
        if client is not None:
            return cache.reader.run_directly(self.plan(cache, None), client).__await__()
        bypassed = cache.bypass.off
        if tracker is not None:
            return self._start_tracked(cache, tracker).__await__()
        scope = None if bypassed else current_scope()
        if scope is not None:
            known = self.recall(cache, scope)
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
            cache.reader.start(plan, partial(resolve, future), bypass=bypassed)
        return future.__await__()

    def tracker_of(self, cache: OpenCache, tracker: Tracker, client: BaseDBAsyncClient | None) -> Tracker | None:
        """Returns the tracker that records this lookup, or None if no entry of its store answers the lookup."""
        if client is not None:
            tracker.unrecorded("it reads in a transaction")
        elif cache.bypass.off:
            tracker.unrecorded("it bypasses the cache")
        elif cache.guarded is not tracker.owner:
            tracker.unrecorded("it reads another cache")
        else:
            return tracker
        return None

    def _start_tracked(self, cache: OpenCache, tracker: Tracker) -> "asyncio.Future[T]":
        """Starts the lookup of a tracked computation. What a request's scope or near entries hold has no token."""
        future: asyncio.Future[T] = cache.loop.create_future()
        future.add_done_callback(partial(_refuse_cancelled, tracker))
        lookup = None if cache.guarded.near.on else self.fast_lookup(cache)
        if lookup is not None:
            cache.reader.hits.start_lookup(TrackedLookup(lookup, tracker, cache.versions), cache, future)
            return future
        plan = cache.reader.of_caller(self.plan(cache, None))
        cache.reader.start(tracked(plan, tracker, cache.versions), partial(resolve, future), near=False)
        return future

    def recall(self, cache: OpenCache, scope: Scope) -> T | None:
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

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        """Returns the plan that makes the lookup. Its errors are raised when the plan runs."""
        raise NotImplementedError


class ResultAttribute:
    """An attribute that queries lack and their results have. Reading it says that the query must be awaited.

    A ``__getattr__`` would do, but with one Python reads every attribute of a query more slowly.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, query: CacheQuery[Any] | None, owner: type) -> Any:
        if query is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        raise AttributeError(f"{query!r} is a query and has no attribute {self._name!r}: await it.")


def explain_result_attributes(model: type[Model]) -> None:
    """Lets queries say, when an attribute of the model's instances is read, that they must be awaited."""
    for name in (*field_names(model), *dir(model)):
        if not name.startswith("_") and name not in vars(CacheQuery):
            setattr(CacheQuery, name, ResultAttribute(name))


def _refuse_cancelled(tracker: Tracker, future: "asyncio.Future[Any]") -> None:
    if future.cancelled():
        tracker.refuse("a lookup was cancelled")


def _without_waiting(known: T) -> Generator[Any, None, T]:
    return known
    yield  # never reached, but makes this function a generator
