"""``BatchCacheQuery``: queries made together, in one round trip for all that the cache can answer."""

import asyncio
import enum
from collections.abc import Generator, Hashable, Mapping
from functools import partial
from typing import Any, Self

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding.messages import described
from aiomodelcache.engine.hits import PendingLookups
from aiomodelcache.engine.run import NotCached
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.tracking import TrackedLookup, tracked
from aiomodelcache.query.base import CacheQuery, ObservedQuery
from aiomodelcache.query.recording import note_unrecorded
from aiomodelcache.query.snapshots import at_one_moment
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.scopes.tracking import current_tracker


class BatchCacheQuery:
    """Queries of any kind, made together, in one round trip for all that the cache can answer.

    >>> batch = BatchCacheQuery({"event": Event.cache.get(slug="pycon")}, users=User.cache.filter(team=3))
    >>> result = await batch.get(none_on_exception=True)    # {"event": ..., "users": [...]}
    """

    __slots__ = ("_queries",)

    def __init__(self, queries: Mapping[Any, CacheQuery[Any]] | None = None, /, **named: CacheQuery[Any]) -> None:
        self._queries: dict[Hashable, CacheQuery[Any]] = {}
        self.push(queries, **named)

    def __repr__(self) -> str:
        return f"<BatchCacheQuery {[*self._queries.values()]!r}>"

    def push(self, queries: Mapping[Any, CacheQuery[Any]] | None = None, /, **named: CacheQuery[Any]) -> Self:
        """Adds queries, as a mapping, by name, or both. Raises ``TypeError`` naming a value that is not a query."""
        if queries is not None and not isinstance(queries, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"BatchCacheQuery takes a dict of queries, or queries by name; got {described(queries)}.")
        added: dict[Any, Any] = {**(queries or {}), **named}
        for number, (name, query) in enumerate(added.items(), 1):
            if not isinstance(query, CacheQuery):
                is_name = isinstance(name, str) and name.isidentifier()  # another key may be a value that is secret
                shown = repr(name) if is_name else f"value {number} of the dict"
                raise TypeError(
                    f"BatchCacheQuery: {shown} is not a query, but of type {type(query).__name__}. "
                    "Pass Model.cache.get(...) and the like without awaiting them."
                )
        self._queries.update(added)
        return self

    def __await__(self) -> Generator[Any, None, dict[Any, Any]]:
        return self.get().__await__()

    async def get(
        self,
        *,
        only_cache: bool = False,
        none_on_exception: bool = False,
        return_exceptions: bool = False,
        snapshot: bool = False,
    ) -> dict[Any, Any]:
        """Makes all lookups, and returns a dict with the same keys.

        ``only_cache``: send nothing to the database, and leave out queries that the cache cannot answer.
        ``none_on_exception``: return None in place of an exception. ``return_exceptions``: return the exception itself.
        With neither, the first exception is raised after all lookups have finished.

        ``snapshot``: all rows of the answer were in the database together, at one moment. Costs one round trip more. If
        rows are written meanwhile, the lookups are made again, at last in one REPEATABLE READ transaction. Inside a
        transaction of the caller, its isolation decides instead. Raises ``ValueError`` with ``only_cache``, and for
        queries of several caches. Raises ``CacheError`` if no moment is found for rows of several connections.
        """
        queries = dict(self._queries)  # queries pushed meanwhile are for the next call
        if open_blocks():
            queries = {name: query.restricted(query.open_cache()) for name, query in queries.items()}
        outcomes = await (_snapshot(queries, only_cache) if snapshot else _collect(queries, only_cache))
        answers, errors = outcomes.answers, outcomes.errors
        for name, error in errors.items():
            if isinstance(error, NotCached):
                del answers[name]
            else:
                answers[name] = error if return_exceptions else None
        if errors and not (none_on_exception or return_exceptions):
            for name in answers:
                if name in errors:
                    raise errors[name]
        return answers


async def _collect(queries: "dict[Hashable, CacheQuery[Any]]", only_cache: bool = False) -> "_Outcomes":
    outcomes = _Outcomes(queries)
    await outcomes.collect(only_cache)
    return outcomes


async def _snapshot(queries: "dict[Hashable, CacheQuery[Any]]", only_cache: bool) -> "_Outcomes":
    if only_cache:
        raise ValueError("BatchCacheQuery: a snapshot may need the database, so it cannot be had with only_cache=True.")
    caches = list(dict.fromkeys(query.open_cache() for query in queries.values()))
    if len({id(cache.guarded) for cache in caches}) > 1:
        raise ValueError("BatchCacheQuery: a snapshot is of one ModelCache: make a batch of the queries of each.")
    if not caches or any(cache.in_transaction or cache.bypass.off for cache in caches):
        return await _collect(queries)
    return await at_one_moment(caches[0], partial(_collect, queries))


class _Pending(enum.Enum):
    """A placeholder for an answer that has not arrived yet."""

    PENDING = enum.auto()


class _Outcomes:
    """The outcome of each query of a batch, by name and in the batch's order. One that fails does not fail others."""

    __slots__ = ("_finished", "_observed", "_queries", "_remaining", "answers", "errors")

    def __init__(self, queries: dict[Hashable, CacheQuery[Any]]) -> None:
        self.answers: dict[Any, Any] = dict.fromkeys(queries, _Pending.PENDING)
        self.errors: dict[Any, BaseException] = {}
        self._queries = queries
        self._observed: dict[Any, ObservedQuery[Any]] = {}
        self._remaining = len(queries)
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resolve(self, name: Hashable, answer: Any, error: BaseException | None) -> None:
        """Stores the answer or the exception of one query. Idempotent."""
        if self.answers[name] is not _Pending.PENDING:
            return
        self.answers[name] = answer
        if error is not None:
            self.errors[name] = error
        if name in self._observed:
            self._observed[name].stop()
        self._remaining -= 1
        if not self._remaining and not self._finished.done():
            self._finished.set_result(None)

    async def collect(self, only_cache: bool) -> None:
        """Makes all lookups, and returns when each has an outcome."""
        if not self._remaining:
            return
        tracker = current_tracker()
        if tracker is not None:
            tracker.unfinished += 1  # for good, if the batch is cancelled
        try:
            for name, query, cache, client in self._start(only_cache):
                try:
                    if only_cache:
                        raise NotCached
                    plan = query.plan(cache, None)
                    self.resolve(name, await cache.reader.direct.run(plan, client, query.lookup_event), None)
                except Exception as error:
                    self.resolve(name, None, error)
            await self._finished
        except BaseException as error:
            self._end(error)
            raise
        if tracker is not None:
            tracker.unfinished -= 1
        if self._observed:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """Tells observers that the lookups have ended, in the caller's context. ``error``: of those without outcome."""
        for name, query in self._observed.items():
            query.end(error if self.answers[name] is _Pending.PENDING else self.errors.get(name))

    def _start(self, only_cache: bool) -> list[tuple[Hashable, CacheQuery[Any], OpenCache, BaseDBAsyncClient]]:
        """Starts the lookups that the cache may answer. Returns those that an open transaction must answer."""
        scope, caller_tracker = current_scope(), current_tracker()
        fast: list[PendingLookups] = []
        transactional: list[tuple[Hashable, CacheQuery[Any], OpenCache, BaseDBAsyncClient]] = []
        cache: OpenCache | None = None
        explicit_cache: OpenCache | None = None
        bypassed = in_transaction = False
        for name, query in self._queries.items():
            if cache is None or query.explicit_cache is not explicit_cache:
                try:
                    cache, explicit_cache = query.open_cache(), query.explicit_cache
                except Exception as error:
                    self.resolve(name, None, error)
                    continue
                bypassed, in_transaction = cache.bypass.off, cache.in_transaction
                fast.append(PendingLookups(cache, self.resolve, only_cache=only_cache))
            if cache.guarded.observers is not None:
                query = self._observed[name] = ObservedQuery(query, cache)
                query.begin()
            try:
                client = query.transaction(cache) if in_transaction else None
                tracker = caller_tracker
                if tracker is not None and (client is not None or bypassed or cache.guarded is not tracker.owner):
                    note_unrecorded(tracker, client, bypassed=bypassed)
                    tracker = None
                direct = scope is None if tracker is None else not cache.guarded.near.on
                lookup = query.fast_lookup(cache) if direct and client is None and not bypassed else None
                if lookup is not None and tracker is not None:
                    lookup = TrackedLookup(lookup, tracker, cache.versions)
            except Exception as error:
                self.resolve(name, None, error)
                continue
            if lookup is not None:
                fast[-1].lookups.append(lookup)
                fast[-1].waiters.append(name)
            elif client is None:
                plan = cache.reader.of_caller(query.plan(cache, None if bypassed or tracker is not None else scope))
                if tracker is not None:
                    plan = tracked(plan, tracker, cache.versions)
                done, near = partial(self.resolve, name), tracker is None
                operation = query.lookup_event
                cache.reader.start(plan, done, only_cache=only_cache, bypass=bypassed, near=near, operation=operation)
            else:
                transactional.append((name, query, cache, client))
        for pending in fast:
            if pending.lookups:
                pending.context.reader.hits.start_lookups(pending)
        return transactional
