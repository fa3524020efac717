"""``ResponseQuery``: the lookup of a stored response for one call, which may ask for a new one."""

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any

from aiomodelcache.contrib.asgi_types import Application
from aiomodelcache.contrib.responses.requests import Request
from aiomodelcache.contrib.responses.runs import ApplicationRun
from aiomodelcache.contrib.responses.stored import StoredResponse, current_time
from aiomodelcache.declare.value_declarations import ValueDeclaration
from aiomodelcache.declare.values import BaseValueQuery
from aiomodelcache.durations import parse_duration
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.resilience import is_failure
from aiomodelcache.entries.results import DontCache
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.scopes.request import Scope, context_without_scope

SharedAnswer = StoredResponse | None
"""The answer for all who ask. None if each must ask the application."""


class ResponseCall:
    """One client's request, and the run of the application that computes the response, if this request started it."""

    __slots__ = (
        "_abandoned",
        "_run",
        "accept",
        "application",
        "computed",
        "directives",
        "known",
        "mark",
        "reason",
        "request",
        "stored",
        "tasks",
    )

    def __init__(
        self, request: Request, application: Application, tasks: BackgroundTasks, known: frozenset[bytes], mark: str
    ) -> None:
        self.request = request
        self.application = application
        self.tasks = tasks
        """The owner of the task in which the application runs."""
        self.known = known
        """The fields that are part of the key."""
        self.mark = mark
        """A text for the key."""
        self.directives = request.directives()
        self.accept = request.accepts(self.directives)
        self.computed = False
        """True once the application was called for this request."""
        self.reason: str | None = None
        """The reason for which the computed response is not stored."""
        self.stored: SharedAnswer = None
        """The computed response, if all clients may have it."""
        self._run: ApplicationRun | None = None
        self._abandoned = False

    def hand_over(self, run: ApplicationRun, response: object) -> None:
        """Gives the client the run that has computed its response. ``response``: None for a stream."""
        if not self._abandoned:
            self._run = run
        elif response is None:
            run.cancel()
        else:
            run.detach()

    def take(self) -> ApplicationRun | None:
        """Returns the run whose response the client must send, once."""
        run, self._run = self._run, None
        return run

    def leave(self) -> None:
        """Says that the client waits no more. Cancels a run that was not taken. Idempotent."""
        self._abandoned = True
        run = self.take()
        if run is not None:
            run.cancel()


class ResponseQuery(BaseValueQuery[SharedAnswer]):
    """A lookup of a stored response. A response that is stale, or not good enough for the request, is a miss."""

    __slots__ = ("_call",)

    def __init__(
        self,
        declaration: ValueDeclaration,
        key: Any,
        compute: Callable[[], Awaitable[SharedAnswer | DontCache[SharedAnswer]]],
        call: ResponseCall,
    ) -> None:
        super().__init__(declaration, key, compute)
        self._call = call

    def __await__(self) -> Generator[Any, None, SharedAnswer]:
        # A request's scope has nothing to add, and with one there is no fast path.
        start: Callable[[], Generator[Any, None, SharedAnswer]] = super().__await__
        return context_without_scope().run(start)

    def fast_lookup(self, cache: OpenCache) -> FastLookup:
        return _AcceptingLookup(super().fast_lookup(cache), self)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[SharedAnswer]:
        found: SharedAnswer = yield from super().plan(cache, None)
        if found is None or self.accepts(found):
            return found
        try:
            return (yield from self.refresh_plan(cache))
        except Exception as error:
            if is_failure(error) and self._may_be_stale(found):
                return found
            raise

    def _may_be_stale(self, found: StoredResponse) -> bool:
        """Returns True if a response whose own lifetime is over may answer, because there is no newer one."""
        allowed, now = self._declaration.stale_if_error, current_time()
        if allowed is None or found.expires is None or not found.expires <= now:
            return False
        return now < found.expires + parse_duration(self._declaration.origin, allowed)

    def accepts(self, found: SharedAnswer) -> bool:
        """Returns True if a response may answer the request."""
        if found is None or self._call.computed:
            return True
        now = current_time()
        if found.expires is not None and found.expires <= now:
            return False
        accept = self._call.accept
        return accept is None or accept(found.created, found.expires, now)


class _AcceptingLookup:
    """A lookup without a plan, whose hits must be accepted by the query."""

    __slots__ = ("_lookup", "_query", "collect_keys", "lookup_event", "start_plan")

    def __init__(self, lookup: FastLookup, query: ResponseQuery) -> None:
        self._lookup = lookup
        self._query = query
        self.lookup_event = lookup.lookup_event
        self.collect_keys = lookup.collect_keys
        self.start_plan = lookup.start_plan

    def try_hit(self, context: Any, entries: Mapping[bytes, bytes | None], /) -> Any:
        found = self._lookup.try_hit(context, entries)
        return found if found is NoValue.MISS or self._query.accepts(found) else NoValue.MISS
