"""Queries that are made together: one round trip for all that the cache can answer."""

import asyncio
import enum
from collections.abc import Generator, Hashable, Mapping
from functools import partial
from typing import Any, Self

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.engine.hits import PendingLookups
from aiomodelcache.engine.run import NotCached
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.scopes.request import current_scope


class BatchCacheQuery:
    """Queries of any kind, made together: one round trip for all that the cache can answer.

    >>> batch = BatchCacheQuery({"event": Event.cache.get(slug="pycon")}, users=User.cache.filter(team=3))
    >>> result = await batch.get(none_on_exception=True)    # {"event": ..., "users": [...]}
    """

    __slots__ = ("_queries",)

    def __init__(self, queries: Mapping[Any, CacheQuery[Any]] | None = None, /, **named: CacheQuery[Any]) -> None:
        self._queries: dict[Hashable, CacheQuery[Any]] = {}
        self.push(queries, **named)

    def __repr__(self) -> str:
        return f"<BatchCacheQuery {self._queries!r}>"

    def push(self, queries: Mapping[Any, CacheQuery[Any]] | None = None, /, **named: CacheQuery[Any]) -> Self:
        """Adds queries, as a mapping, by name, or both. Raises ``TypeError`` naming what is not a query."""
        if queries is not None and not isinstance(queries, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"BatchCacheQuery takes a dict of queries, or queries by name; got {queries!r}.")
        given: dict[Any, Any] = {**(queries or {}), **named}
        for name, query in given.items():
            if not isinstance(query, CacheQuery):
                raise TypeError(
                    f"BatchCacheQuery: {name!r} is not a query, but of type {type(query).__name__}. "
                    "Pass Model.cache.get(...) and the like without awaiting them."
                )
        self._queries.update(given)
        return self

    def __await__(self) -> Generator[Any, None, dict[Any, Any]]:
        return self.get().__await__()

    async def get(
        self, *, only_cache: bool = False, none_on_exception: bool = False, return_exceptions: bool = False
    ) -> dict[Any, Any]:
        """Makes all lookups and returns a dict with the same keys.

        ``only_cache``: ask no database; what is not cached is left out. ``none_on_exception``: None in place
        of an exception; ``return_exceptions``: the exception itself; neither: the first one raises, after
        all have finished.
        """
        outcomes = _Outcomes(dict(self._queries))  # what is pushed meanwhile is for the next time
        await outcomes.find(only_cache)
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


class _Unknown(enum.Enum):
    """Stands for an answer that is not there yet."""

    UNKNOWN = enum.auto()


class _Outcomes:
    """What came of each query of a batch, by its name, in the order of the batch. None fails the others."""

    __slots__ = ("_finished", "_left", "_queries", "answers", "errors")

    def __init__(self, queries: dict[Hashable, CacheQuery[Any]]) -> None:
        self.answers: dict[Any, Any] = dict.fromkeys(queries, _Unknown.UNKNOWN)
        self.errors: dict[Any, BaseException] = {}
        self._queries = queries
        self._left = len(queries)
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resolve(self, name: Hashable, answer: Any, error: BaseException | None) -> None:
        """Notes the answer of one query, or what it raised."""
        if self.answers[name] is not _Unknown.UNKNOWN:
            return
        self.answers[name] = answer
        if error is not None:
            self.errors[name] = error
        self._left -= 1
        if not self._left and not self._finished.done():
            self._finished.set_result(None)

    async def find(self, only_cache: bool) -> None:
        """Makes all lookups, and returns when each has an outcome."""
        if not self._left:
            return
        for name, cache, client in self._start(only_cache):
            try:
                if only_cache:
                    raise NotCached
                plan = self._queries[name].plan(cache, None)
                self.resolve(name, await cache.reader.run_directly(plan, client), None)
            except Exception as error:
                self.resolve(name, None, error)
        await self._finished

    def _start(self, only_cache: bool) -> list[tuple[Hashable, OpenCache, BaseDBAsyncClient]]:
        """Begins what the cache may answer, and returns what must be asked in an open transaction."""
        scope = current_scope()
        quick: list[PendingLookups] = []
        inside: list[tuple[Hashable, OpenCache, BaseDBAsyncClient]] = []
        cache: OpenCache | None = None
        explicit_cache: OpenCache | None = None
        off = in_transaction = False
        for name, query in self._queries.items():
            if cache is None or query.explicit_cache is not explicit_cache:
                cache, explicit_cache = query.open_cache(), query.explicit_cache
                off, in_transaction = cache.bypass.off, cache.in_transaction
                quick.append(PendingLookups(cache, self.resolve, only_cache=only_cache))
            try:
                client = query.transaction(cache) if in_transaction else None
                look = query.fast_lookup(cache) if client is None and scope is None and not off else None
            except Exception as error:
                self.resolve(name, None, error)
                continue
            if look is not None:
                quick[-1].lookups.append(look)
                quick[-1].waiters.append(name)
            elif client is None:
                plan, done = query.plan(cache, None if off else scope), partial(self.resolve, name)
                cache.reader.start(plan, done, only_cache=only_cache, bypass=off)
            else:
                inside.append((name, cache, client))
        for pending in quick:
            if pending.lookups:
                pending.context.reader.hits.start_lookups(pending)
        return inside
