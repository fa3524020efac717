"""``SentryObserver``: the spans of a cache, by the schema of Sentry's page about caches."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from aiomodelcache.contrib.registration import required
from aiomodelcache.observe.events import Computation, Lookup, Observer, Operation, RoundTrip, Statement

if TYPE_CHECKING:
    from sentry_sdk.tracing import Span

ORIGIN: Final = "auto.cache.aiomodelcache"
HITS: Final = frozenset({"hit", "absent", "stale", "near", "scope", "waited"})
"""The outcomes of lookups for which the database was not needed."""


class SentryObserver(Observer):
    """Spans of lookups, of their statements and computations, and of writes, in the caller's transaction.

    >>> from aiomodelcache.contrib.sentry import SentryObserver
    >>> cache = ModelCache("redis://localhost:6379/0", observers=[SentryObserver()])

    A lookup is a ``cache.get`` with ``cache.hit``, ``cache.key``, ``cache.item_size`` and ``network.peer.address``. A
    fill is a ``cache.put``, and the announcement of a write a ``cache.remove``. A statement is a ``db`` inside the
    lookup. While it runs, and while a value is computed, its span is current, so spans of other integrations are inside
    it.
    ``statements=False`` leaves statements to an integration of the database driver.

    Keys have a digest in place of their values, so no span holds the value of a column. A lookup outside of any
    transaction has no span. Raises ``ImportError`` without sentry-sdk.
    """

    def __init__(self, *, statements: bool = True) -> None:
        self._sdk: Any = required("sentry_sdk", "sentry")
        self._statements = statements
        self._spans: WeakKeyDictionary[Operation, Span] = WeakKeyDictionary()
        self._scopes: dict[Operation, AbstractContextManager[Any]] = {}

    def begin(self, operation: Operation) -> None:
        """Starts a span, if the caller has one."""
        if isinstance(operation, Lookup):
            if not operation.background:
                self._start(operation, self._sdk.get_current_span(), "cache.get", operation.key)
        elif isinstance(operation, RoundTrip):
            self._begin_trip(operation)
        elif isinstance(operation, Statement | Computation):
            parents = [span for lookup in operation.lookups if (span := self._spans.get(lookup)) is not None]
            self._begin_work(operation, parents[0] if parents else None)

    def _begin_trip(self, trip: RoundTrip) -> None:
        """Names the server in the spans of a request's lookups. Fills and announcements have spans of their own."""
        spans = [span for lookup in trip.lookups if (span := self._spans.get(lookup)) is not None]
        own: Span | None = None
        if trip.command == "fill" and spans:
            own = self._start(trip, spans[0], "cache.put", ", ".join(lookup.key for lookup in trip.lookups))
            _set(own, "cache.key", [lookup.key for lookup in trip.lookups])
        elif trip.command == "mark":
            own = self._start(trip, trip.context.run(self._sdk.get_current_span), "cache.remove", f"{trip.keys} keys")
        host, port = trip.peer
        for span in [*spans, own]:
            _set(span, "network.peer.address", host or None)
            _set(span, "network.peer.port", port)

    def _begin_work(self, operation: Statement | Computation, parent: "Span | None") -> None:
        if parent is None:
            return
        current: Span | None = parent
        if isinstance(operation, Computation):
            current = self._start(operation, parent, "function", operation.cache)
        elif self._statements:
            current = self._start(operation, parent, "db", f"SELECT {operation.table}")
        scope: AbstractContextManager[Any] = self._sdk.new_scope()
        scope.__enter__().span = current
        self._scopes[operation] = scope

    def _start(self, operation: Operation, parent: "Span | None", op: str, name: str) -> "Span | None":
        if parent is None:
            return None
        span = parent.start_child(op=op, name=name, origin=ORIGIN)
        self._spans[operation] = span
        return span

    def end(self, operation: Operation) -> None:
        """Ends the span."""
        scope = self._scopes.pop(operation, None)
        if scope is not None:
            scope.__exit__(None, None, None)
        span = self._spans.get(operation)
        if span is None:
            return
        if isinstance(operation, Lookup):
            hit = operation.outcome in HITS
            _set(span, "cache.hit", hit)
            _set(span, "cache.key", [operation.key])
            _set(span, "cache.item_size", operation.size if hit else None)
            _set(span, "aiomodelcache.cache", operation.cache)
            _set(span, "aiomodelcache.outcome", operation.outcome)
            _set(span, "aiomodelcache.reason", operation.reason)
        elif isinstance(operation, Statement):
            _set(span, "db.system", "postgresql" if operation.dialect == "postgres" else operation.dialect)
            _set(span, "db.operation", "SELECT")
        elif isinstance(operation, RoundTrip) and operation.error is not None:
            span.set_status("internal_error")
        span.finish()


def _set(span: Any, name: str, value: Any) -> None:
    if span is not None and value is not None:
        span.set_data(name, value)
