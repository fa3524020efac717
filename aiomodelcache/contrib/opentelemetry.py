"""``OpenTelemetryObserver``: spans and metrics of a cache, by OpenTelemetry's conventions."""

from contextvars import Context
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from tortoise.exceptions import DoesNotExist

from aiomodelcache.contrib.registration import required
from aiomodelcache.observe.events import (
    Breaker,
    Computation,
    Fill,
    Lookup,
    NearChange,
    Note,
    Observer,
    Operation,
    RoundTrip,
    Statement,
    Verification,
    Write,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

SCOPE_NAME: Final = "aiomodelcache"
SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""The bounds of the buckets of durations that the conventions advise for databases."""
KEY_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The bounds of the buckets of numbers of keys."""
Attributes = dict[str, str | int | bool]
SYSTEMS: Final = {"postgres": "postgresql", "mssql": "microsoft.sql_server", "oracle": "oracle.db"}
"""The conventions' names of databases, where they differ from Tortoise's dialects."""


class OpenTelemetryObserver(Observer):
    """Spans under the caller's span, and metrics.

    >>> from aiomodelcache.contrib.opentelemetry import OpenTelemetryObserver
    >>> cache = ModelCache("redis://localhost:6379/0", observers=[OpenTelemetryObserver()])

    A lookup has a span, with those of its requests, statements and computations inside it. Work for several lookups is
    a child of the first one's span and is linked to the others'. While a statement or a computation runs, its span is
    current, so the span of an instrumented database driver is inside it.

    ``statements=False`` makes neither spans nor ``db.client.operation.duration`` for statements, for drivers that are
    instrumented; the driver's spans are then inside those of the lookups. The providers are the global ones by default.

    No attribute holds the value of a column. Raises ``ImportError`` without OpenTelemetry.
    """

    def __init__(
        self,
        *,
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
        statements: bool = True,
    ) -> None:
        self._trace: Any = required("opentelemetry.trace", "otel", "opentelemetry")
        self._context: Any = required("opentelemetry.context", "otel", "opentelemetry")
        metrics: Any = required("opentelemetry.metrics", "otel", "opentelemetry")
        self._tracer: Any = self._trace.get_tracer(SCOPE_NAME, tracer_provider=tracer_provider)
        self._statements = statements
        self._spans: WeakKeyDictionary[Operation, Span] = WeakKeyDictionary()
        self._attributes: WeakKeyDictionary[Operation, Attributes] = WeakKeyDictionary()
        """The attributes of the operations in progress, because their metrics need them, too."""
        self._tokens: dict[Operation, Any] = {}
        meter: Any = metrics.get_meter(SCOPE_NAME, meter_provider=meter_provider)

        def durations(name: str, text: str) -> "Histogram":
            made: Histogram = meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=SECONDS)
            return made

        self._operations = durations("db.client.operation.duration", "Duration of database client operations.")
        self._durations: dict[type[Operation], Histogram] = {
            Lookup: durations(f"{SCOPE_NAME}.lookup.duration", "Duration of lookups."),
            RoundTrip: durations(f"{SCOPE_NAME}.round_trip.duration", "Duration of requests to the store."),
            Statement: durations(
                f"{SCOPE_NAME}.statement.duration", "Duration of SQL statements of lookups that missed."
            ),
            Computation: durations(f"{SCOPE_NAME}.computation.duration", "Duration of computations of cached values."),
        }
        self._keys: Histogram = meter.create_histogram(
            f"{SCOPE_NAME}.round_trip.keys",
            "{key}",
            "Keys per request.",
            explicit_bucket_boundaries_advisory=KEY_BUCKETS,
        )
        self._lookups: Any = meter.create_counter(f"{SCOPE_NAME}.lookups", "{lookup}", "Lookups by class and outcome.")
        self._fills: Any = meter.create_counter(f"{SCOPE_NAME}.fills", "{fill}", "Entries stored, and refused.")
        self._writes: Any = meter.create_counter(f"{SCOPE_NAME}.writes", "{write}", "Steps of invalidations.")
        self._near: Any = meter.create_counter(f"{SCOPE_NAME}.near.removals", "{entry}", "Near entries removed.")
        self._verifications: Any = meter.create_counter(
            f"{SCOPE_NAME}.verifications", "{verification}", "Entries compared with the database."
        )
        self._breaker: Any = meter.create_up_down_counter(
            f"{SCOPE_NAME}.breaker.open", "{breaker}", "1 while it is open."
        )

    # Spans -------------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> None:
        """Starts a span."""
        lookups: tuple[Lookup, ...] = getattr(operation, "lookups", ())
        name, attributes = _described(operation)
        self._attributes[operation] = attributes
        if isinstance(operation, Statement) and not self._statements:
            for parent in map(self._spans.get, lookups[:1]):
                self._make_current(operation, parent)
            return
        kind = self._trace.SpanKind.CLIENT if "db.system.name" in attributes else self._trace.SpanKind.INTERNAL
        links = [
            self._trace.Link(span.get_span_context())
            for lookup in lookups[1:]
            if (span := self._spans.get(lookup)) is not None
        ]
        span = self._tracer.start_span(name, self._parent(operation, lookups), kind, attributes, links)
        self._spans[operation] = span
        if isinstance(operation, Statement | Computation):
            self._make_current(operation, span)

    def _make_current(self, operation: Operation, span: Any) -> None:
        self._tokens[operation] = self._context.attach(self._trace.set_span_in_context(span))

    def _parent(self, operation: Operation, lookups: tuple[Lookup, ...]) -> Any:
        """Returns the context of the first lookup's span, of the caller's, or an empty one for the background."""
        if lookups and (span := self._spans.get(lookups[0])) is not None:
            return self._trace.set_span_in_context(span, self._context.Context())
        if isinstance(operation, Lookup) and operation.background:
            return self._context.Context()
        caller: Context = operation.context
        return caller.run(self._context.get_current)

    def end(self, operation: Operation) -> None:
        """Ends the span, and records metrics."""
        token = self._tokens.pop(operation, None)
        if token is not None:
            self._context.detach(token)
        span = self._spans.get(operation)
        error = _error_type(operation)
        if span is not None:
            if isinstance(operation, Lookup):
                span.set_attributes(_outcome(operation))
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(self._trace.StatusCode.ERROR, error)
            span.end()
        self._measure(operation, {} if error is None else {"error.type": error})

    # Metrics -----------------------------------------------------------------------------------------------

    def _measure(self, operation: Operation, error: dict[str, str]) -> None:
        seconds = operation.duration or 0.0
        attributes = self._attributes.pop(operation, {})
        own = {name: value for name, value in attributes.items() if name in _LABELS} | error
        if isinstance(operation, Lookup):
            own = {f"{SCOPE_NAME}.cache": operation.cache, f"{SCOPE_NAME}.outcome": operation.outcome or ""}
            own |= {f"{SCOPE_NAME}.background": True} if operation.background else {}
            self._lookups.add(1, own)
        elif isinstance(operation, RoundTrip):
            self._keys.record(operation.keys, own)
        self._durations[type(operation)].record(seconds, own)
        database = {name: value for name, value in attributes.items() if name in _DATABASE} | error
        if "db.system.name" in database and (self._statements or not isinstance(operation, Statement)):
            self._operations.record(seconds, database)

    def note(self, note: Note) -> None:
        """Records metrics."""
        if isinstance(note, Fill):
            self._fills.add(1, {f"{SCOPE_NAME}.cache": note.cache, f"{SCOPE_NAME}.result": note.reason or "accepted"})
        elif isinstance(note, Write):
            self._writes.add(1, {f"{SCOPE_NAME}.stage": note.stage})
        elif isinstance(note, Breaker):
            self._breaker.add(1 if note.state == "open" else -1)
        elif isinstance(note, Verification):
            self._verifications.add(1, {f"{SCOPE_NAME}.cache": note.cache, f"{SCOPE_NAME}.outcome": note.outcome})
        elif isinstance(note, NearChange):
            self._near.add(note.keys, {f"{SCOPE_NAME}.kind": note.kind})


_LABELS: Final = frozenset({f"{SCOPE_NAME}.cache", f"{SCOPE_NAME}.command", f"{SCOPE_NAME}.model"})
"""The attributes of operations that label their metrics. The others have too many values."""
_DATABASE: Final = frozenset(
    {"db.system.name", "db.operation.name", "db.collection.name", "server.address", "server.port"}
)


def _described(operation: Operation) -> tuple[str, Attributes]:
    """Returns the name of an operation's span, and its attributes that are known at its beginning."""
    if isinstance(operation, Lookup):
        attributes: Attributes = {
            f"{SCOPE_NAME}.cache": operation.cache,
            f"{SCOPE_NAME}.kind": operation.kind,
            f"{SCOPE_NAME}.keys": len(operation.keys),
            f"{SCOPE_NAME}.background": operation.background,
        }
        return f"{operation.kind} {operation.cache}", attributes
    if isinstance(operation, RoundTrip):
        attributes = {f"{SCOPE_NAME}.command": operation.command, f"{SCOPE_NAME}.keys": operation.keys}
        if operation.backend != "RedisBackend":
            return f"{SCOPE_NAME} {operation.command}", attributes
        name = "MGET" if operation.command == "read" else "EVALSHA"
        host, port = operation.peer
        server: Attributes = {"server.address": host} if host else {}
        server |= {"server.port": port} if port is not None else {}
        return name, attributes | server | {"db.system.name": "redis", "db.operation.name": name}
    if isinstance(operation, Statement):
        return f"SELECT {operation.table}", {
            f"{SCOPE_NAME}.model": operation.model,
            f"{SCOPE_NAME}.keys": operation.keys,
            "db.system.name": SYSTEMS.get(operation.dialect, operation.dialect),
            "db.operation.name": "SELECT",
            "db.collection.name": operation.table,
        }
    assert isinstance(operation, Computation), f"{operation!r} is no operation of the library"
    return f"compute {operation.cache}", {f"{SCOPE_NAME}.cache": operation.cache}


def _outcome(lookup: Lookup) -> dict[str, str | int]:
    found: dict[str, str | int] = {f"{SCOPE_NAME}.outcome": lookup.outcome or "", f"{SCOPE_NAME}.size": lookup.size}
    return found | ({f"{SCOPE_NAME}.reason": lookup.reason} if lookup.reason else {})


def _error_type(operation: Operation) -> str | None:
    """Returns the class of an operation's error. A row that does not exist is an answer."""
    error = operation.error
    if error is None or isinstance(error, DoesNotExist):
        return None
    return type(error).__qualname__
