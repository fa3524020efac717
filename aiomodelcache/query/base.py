"""``CacheQuery``: a lazy lookup, awaitable any number of times."""

import asyncio
from asyncio import get_running_loop
from collections.abc import Generator
from functools import partial
from typing import Any, Generic, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.engine.reader import settle
from aiomodelcache.entries.base import Miss, Nothing
from aiomodelcache.open_cache import Session, default_session
from aiomodelcache.plans.requests import Look, Plan
from aiomodelcache.scopes.request import Scope, current_scope

T = TypeVar("T")


class CacheQuery(Generic[T]):
    """A look-up that nobody has made yet. ``await`` it, or put it in a ``BatchCacheQuery``.

    >>> query = Event.cache.get(slug="pycon")       # no I/O
    >>> event = await query                         # one round trip, shared with its tick
    >>> again = await query.resolve()               # the same, as a coroutine
    """

    __slots__ = ("chosen",)

    chosen: Session | None
    """The open cache that is to answer; None: the default one."""

    def __init__(self, session: Session | None = None) -> None:
        self.chosen = session

    async def resolve(self) -> T:
        """Makes the look-up. Raises what it is documented to raise, and ``CacheNotOpen``."""
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        session = self.session()
        client = self.transaction(session)
        if client is not None:
            return session.reader.run_directly(self.plan(session, None), client).__await__()
        off = session.switch.off
        scope = None if off else current_scope()
        if scope is not None:
            known = self.recall(session, scope)
            if known is not None:
                return _at_once(known)
        elif not off and session.link.near.on:
            found = self.nearby(session)
            if found is not Nothing.MISS:
                return _at_once(found)
        look = None if off or scope is not None else self.look(session)
        future: asyncio.Future[T] = session.loop.create_future()
        if look is not None:
            session.reader.start_look(look, session, future)
        else:
            session.reader.start(self.plan(session, scope), partial(settle, future), bypass=off)
        return future.__await__()

    def recall(self, session: Session, scope: Scope) -> T | None:
        """What the request has looked up before, if that is easily told."""
        return None

    def nearby(self, session: Session) -> T | Miss:
        """The answer, if what is kept in this process is all that it takes and it is easily told."""
        return Nothing.MISS

    def look(self, session: Session) -> Look | None:
        """The query as what answers a hit faster than its plan does, if it is one. Raises what ``plan`` does."""
        return None

    def session(self) -> Session:
        """The open cache that answers. Raises ``CacheNotOpen``."""
        session = self.chosen or default_session()
        return session if session.loop is get_running_loop() and not session.closed else session.usable()

    def transaction(self, session: Session) -> BaseDBAsyncClient | None:
        """The open transaction that must answer instead of the cache, or None."""
        raise NotImplementedError

    def plan(self, session: Session, scope: Scope | None) -> Plan[T]:
        """How to answer. Errors are raised when the plan runs."""
        raise NotImplementedError


def _at_once(known: T) -> Generator[Any, None, T]:
    return known
    yield  # never: it makes this a generator
