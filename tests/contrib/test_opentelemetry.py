"""Spans and metrics of ``OpenTelemetryObserver``, as the SDK's in-memory exporters get them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist

from aiomodelcache import BatchCacheQuery, ModelCache, cached
from aiomodelcache.contrib import opentelemetry
from aiomodelcache.contrib.opentelemetry import OpenTelemetryObserver
from aiomodelcache.observe import Fill, NearChange, Operation, Verification
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

ON_SQLITE = pytest.mark.only_on("sqlite", because="spans are the same for every database")
ON_REDIS = pytest.mark.only_on("redis", because="its requests have the spans of a database")
SYSTEMS = {"sqlite": "sqlite", "postgres": "postgresql", "mysql": "mysql"}


class Telemetry:
    """The SDK with exporters in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider(metric_readers=[self._reader])
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> list[ReadableSpan]:
        """Returns the spans that have ended since the last call."""
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        """Returns the points of a metric by their attributes: values of counters, and counts of histograms."""
        data = self._reader.get_metrics_data()
        return {
            frozenset((point.attributes or {}).items()): getattr(point, "value", None) or getattr(point, "count", 0)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def total(self, name: str, **attributes: Any) -> int:
        """Returns the sum of the points of a metric that have these attributes of the library."""
        wanted = {(f"aiomodelcache.{key}", value) for key, value in attributes.items()}
        return sum(value for found, value in self.points(name).items() if wanted <= found)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """The SDK of the test."""
    made = Telemetry()
    yield made
    made.provider.shutdown()
    made.meters.shutdown()


@pytest.fixture
async def observed(database: BaseDBAsyncClient, backend_url: str, telemetry: Telemetry) -> AsyncIterator[ModelCache]:
    """An open cache with the observer."""
    observer = OpenTelemetryObserver(tracer_provider=telemetry.provider, meter_provider=telemetry.meters)
    async with ModelCache(backend_url, observers=[observer]) as cache:
        yield cache


@pytest.fixture
async def event(observed: ModelCache, telemetry: Telemetry) -> Event:
    """A row. The spans of its writes are forgotten."""
    event = await Event.create(slug="pycon", organizer=await User.create(username="kim"))
    telemetry.spans()
    return event


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_a_miss_has_its_requests_and_its_statement_inside_it_under_the_callers_span(
    event: Event, database: BaseDBAsyncClient, telemetry: Telemetry
) -> None:
    with telemetry.tracer.start_as_current_span("request") as request:
        await Event.cache.get(id=event.id)
    *_, lookup, outer = spans = telemetry.spans()
    assert (lookup.name, outer.name) == ("GetQuery Event", "request")
    assert parent_of(lookup) == request.get_span_context().span_id
    assert {key: attributes(lookup)[f"aiomodelcache.{key}"] for key in ("cache", "outcome", "keys")} == {
        "cache": "Event",
        "outcome": "miss",
        "keys": 1,
    }
    inside = spans[:-2]
    assert [parent_of(span) for span in inside] == [id_of(lookup)] * 4
    [statement] = [span for span in inside if span.name == "SELECT event"]
    assert statement.kind is trace.SpanKind.CLIENT
    assert attributes(statement)["db.system.name"] == SYSTEMS[database.capabilities.dialect]
    assert (attributes(statement)["db.operation.name"], attributes(statement)["db.collection.name"]) == (
        "SELECT",
        "event",
    )
    assert len({span.context.trace_id for span in spans if span.context}) == 1


@ON_SQLITE
@ON_REDIS
async def test_requests_to_redis_are_calls_of_a_database(
    event: Event, telemetry: Telemetry, redis_server: RedisServer
) -> None:
    await Event.cache.get(id=event.id)
    await Event.cache.get(id=event.id)
    trips = [span for span in telemetry.spans() if "aiomodelcache.command" in attributes(span)]
    assert [(span.name, attributes(span)["aiomodelcache.command"]) for span in trips] == [
        ("MGET", "read"),
        ("EVALSHA", "lease"),
        ("EVALSHA", "fill"),
        ("MGET", "read"),
    ]
    assert {span.kind for span in trips} == {trace.SpanKind.CLIENT}
    assert {attributes(span)["db.system.name"] for span in trips} == {"redis"}
    assert {attributes(span)["server.port"] for span in trips} == {redis_server.port}


async def test_merged_work_is_linked_to_the_lookups_that_share_it(event: Event, telemetry: Telemetry) -> None:
    other = await Event.create(slug="other", organizer=await User.create(username="lee"))
    telemetry.spans()

    async def look_up(pk: int) -> None:
        with telemetry.tracer.start_as_current_span(f"request {pk}"):
            await Event.cache.get(id=pk)

    await asyncio.gather(look_up(event.id), look_up(other.id))
    spans = telemetry.spans()
    lookups = [span for span in spans if span.name == "GetQuery Event"]
    requests = [span for span in spans if span.name.startswith("request")]
    assert {parent_of(span) for span in lookups} == {id_of(span) for span in requests}
    [statement] = [span for span in spans if span.name == "SELECT event"]
    assert {parent_of(statement), *(link.context.span_id for link in statement.links)} == {*map(id_of, lookups)}
    merged = [span for span in spans if "aiomodelcache.command" in attributes(span)]
    assert [len(span.links) for span in merged] == [1, 1, 1]


async def test_the_span_of_an_instrumented_driver_is_inside_the_statement(
    event: Event, database: BaseDBAsyncClient, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = database.execute_query

    async def instrumented(query: str, *args: Any) -> Any:
        with telemetry.tracer.start_as_current_span("driver"):
            return await execute(query, *args)

    monkeypatch.setattr(database, "execute_query", instrumented)
    with telemetry.tracer.start_as_current_span("request"):
        await Event.cache.get(id=event.id)
    spans = {span.name: span for span in telemetry.spans()}
    assert parent_of(spans["driver"]) == id_of(spans["SELECT event"])


@ON_SQLITE
async def test_statements_can_be_left_to_the_driver(
    database: BaseDBAsyncClient, backend_url: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = OpenTelemetryObserver(
        tracer_provider=telemetry.provider, meter_provider=telemetry.meters, statements=False
    )
    execute = database.execute_query

    async def instrumented(query: str, *args: Any) -> Any:
        with telemetry.tracer.start_as_current_span("driver"):
            return await execute(query, *args)

    async with ModelCache(backend_url, observers=[observer]):
        user = await User.create(username="kim")
        monkeypatch.setattr(database, "execute_query", instrumented)
        await User.cache.get(id=user.id)
        spans = {span.name: span for span in telemetry.spans()}
        assert parent_of(spans["driver"]) == id_of(spans["GetQuery User"])
        assert not [name for name in spans if name.startswith("SELECT")]
        systems = {dict(found)["db.system.name"] for found in telemetry.points("db.client.operation.duration")}
        assert systems <= {"redis"}
        assert telemetry.total("aiomodelcache.statement.duration", model="User") == 1


async def test_lookups_inside_a_computation_are_inside_its_span(event: Event, telemetry: Telemetry) -> None:
    @cached
    async def title() -> str:
        return (await Event.cache.get(id=event.id)).title

    await title()
    spans = {span.name.split(" ")[0]: span for span in telemetry.spans()}
    assert parent_of(spans["GetQuery"]) == id_of(spans["compute"])
    assert parent_of(spans["compute"]) == id_of(spans["ValueQuery"])


async def test_a_write_has_its_requests_under_the_callers_span(event: Event, telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("request") as request:
        await Event.filter(id=event.id).update(title="new")
    trips = [span for span in telemetry.spans() if "aiomodelcache.command" in attributes(span)]
    assert [attributes(span)["aiomodelcache.command"] for span in trips] == ["mark", "clear"]
    assert {parent_of(span) for span in trips} == {request.get_span_context().span_id}


@ON_SQLITE
async def test_metrics_of_lookups_requests_statements_and_fills(event: Event, telemetry: Telemetry) -> None:
    await Event.cache.get(id=event.id)
    await Event.cache.get(id=event.id)
    await BatchCacheQuery(a=Event.cache.get(id=event.id), b=Event.cache.get_or_none(id=404))
    total = telemetry.total
    assert total("aiomodelcache.lookups", cache="Event", outcome="hit") == 2
    assert total("aiomodelcache.lookups", cache="Event", outcome="miss") == 2
    assert total("aiomodelcache.lookup.duration", cache="Event", outcome="hit") == 2
    assert total("aiomodelcache.round_trip.duration", command="read") == 3
    assert total("aiomodelcache.round_trip.keys", command="read") == 3
    assert total("aiomodelcache.statement.duration", model="Event") == 2
    assert total("aiomodelcache.fills", cache="Event", result="accepted") == 2
    assert total("aiomodelcache.writes", stage="announced") == total("aiomodelcache.writes", stage="cleared") == 2
    found = [dict(found) for found in telemetry.points("db.client.operation.duration")]
    assert {"db.system.name": "sqlite", "db.operation.name": "SELECT", "db.collection.name": "event"} in found
    assert not any("title" in str(labels) or "404" in str(labels) for labels in found)


@ON_SQLITE
@pytest.mark.parametrize("statements", [True, False])
async def test_an_operation_is_described_once(
    database: BaseDBAsyncClient,
    backend_url: str,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    statements: bool,
) -> None:
    described: list[object] = []
    describe = opentelemetry._described  # pyright: ignore[reportPrivateUsage]

    def counted(operation: Operation) -> Any:
        described.append(operation)
        return describe(operation)

    monkeypatch.setattr(opentelemetry, "_described", counted)
    observer = OpenTelemetryObserver(
        tracer_provider=telemetry.provider, meter_provider=telemetry.meters, statements=statements
    )
    async with ModelCache(backend_url, observers=[observer]):
        user = await User.create(username="kim")
        await User.cache.get(id=user.id)
    assert len(described) == len(set(described)) >= 5
    assert telemetry.total("aiomodelcache.statement.duration", model="User") == 1


@ON_SQLITE
@pytest.mark.only_on("memory", because="it has a server of its own")
async def test_metrics_of_an_outage(database: BaseDBAsyncClient, own_redis: RedisServer, telemetry: Telemetry) -> None:
    observer = OpenTelemetryObserver(tracer_provider=telemetry.provider, meter_provider=telemetry.meters)
    async with ModelCache(own_redis.url, observers=[observer], breaker_cooldown=60):
        user = await User.create(username="kim")
        own_redis.kill()
        await User.cache.get(id=user.id)
        await User.filter(id=user.id).update(team=2)
        failed = [span for span in telemetry.spans() if not span.status.is_ok and span.status.description]
        assert {(span.name, span.status.description) for span in failed} >= {("MGET", "BackendError")}
        assert telemetry.points("aiomodelcache.breaker.open") == {frozenset(): 1}
        assert telemetry.total("aiomodelcache.lookups", cache="User", outcome="fault") == 1
        assert telemetry.total("aiomodelcache.writes", stage="undelivered") == 1
        own_redis.restart()
    assert ("error.type", "BackendError") in {
        pair for found in telemetry.points("db.client.operation.duration") for pair in found
    }


@ON_SQLITE
async def test_metrics_of_near_entries_and_of_verification(telemetry: Telemetry) -> None:
    observer = OpenTelemetryObserver(tracer_provider=telemetry.provider, meter_provider=telemetry.meters)
    observer.note(NearChange(kind="evicted", keys=3))
    observer.note(Verification(cache="Event", key="amc:#1", outcome="stale"))
    observer.note(Fill(cache="Event", accepted=False, reason="replaced"))
    assert telemetry.total("aiomodelcache.near.removals", kind="evicted") == 3
    assert telemetry.total("aiomodelcache.verifications", cache="Event", outcome="stale") == 1
    assert telemetry.total("aiomodelcache.fills", cache="Event", result="replaced") == 1


@ON_SQLITE
async def test_a_row_that_does_not_exist_is_no_error(event: Event, telemetry: Telemetry) -> None:
    with pytest.raises(DoesNotExist):
        await Event.cache.get(slug="a-secret")
    spans = telemetry.spans()
    assert [span.name for span in spans if not span.status.is_ok] == []
    assert "a-secret" not in str([span.to_json() for span in spans])
