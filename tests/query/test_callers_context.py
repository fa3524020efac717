"""The context in which the statements of misses run: a lookup alone is in its caller's, lookups together are not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context, ContextVar
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached, local_cache, writes_without_cache
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.scopes.tracking import current_tracker
from tests.support.models.models import Event, User

_request: ContextVar[str] = ContextVar("request", default="none")
Sent = list[tuple[str, bool]]
"""The request of each statement, and whether it saw a scope of this library."""


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await User.bulk_create([User(id=n, username=f"user{n}", email=f"{n}@example.org") for n in range(1, 9)])
        await Event.bulk_create([Event(id=n, slug=f"event{n}", title=f"{n}", organizer_id=1) for n in range(1, 9)])


@pytest.fixture
async def cache(rows: None, backend_url: str) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend_url, socket_timeout=60) as opened:
        yield opened


@pytest.fixture
def sent(cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Is filled by each statement, which also changes the variable."""
    found: Sent = []
    execute = database.execute_query

    async def noting(*arguments: Any) -> Any:
        await asyncio.sleep(0)
        found.append((_request.get(), current_tracker() is not None or current_scope() is not None))
        answer = await execute(*arguments)
        _request.set("a statement")
        return answer

    monkeypatch.setattr(database, "execute_query", noting)
    return found


async def a_query() -> Any:
    return await Event.cache.get(id=1)


async def a_query_by_slug() -> Any:
    return await Event.cache.get(slug="event1")


async def a_list() -> Any:
    return await Event.cache.filter(organizer=1)


async def a_future() -> Any:
    [found] = await asyncio.gather(Event.cache.get(id=1).start())
    return found


async def a_task() -> Any:
    return await asyncio.wait_for(Event.cache.get(id=1).resolve(), 60)


async def in_a_scope() -> Any:
    async with local_cache():
        return await Event.cache.get(id=1)


async def in_a_computation() -> Any:
    return await title_of(1)


@cached
async def title_of(pk: int) -> str:
    return (await Event.cache.get(id=pk)).title


@pytest.mark.parametrize("lookup", [a_query, a_query_by_slug, a_list, a_future, a_task, in_a_scope])
async def test_a_miss_alone_runs_in_the_context_of_its_caller(lookup: Callable[[], Awaitable[Any]], sent: Sent) -> None:
    """It sees the caller's variables without this library's own, and changes none of the caller's."""
    _request.set("mine")
    await lookup()
    assert sent == [("mine", False)]
    assert _request.get() == "mine"
    await lookup()
    assert len(sent) == 1


async def test_rows_that_may_depend_on_the_context_are_read_in_that_of_the_cache(sent: Sent, cache: ModelCache) -> None:
    """Any task may await a lookup that another one has started."""
    cache.open_cache.entries_of(Event).schema.hides_rows = True
    _request.set("mine")
    await Event.cache.get(id=1)
    assert sent == [("none", False)]


async def test_misses_together_run_in_no_callers_context(sent: Sent) -> None:
    async def request(number: int) -> None:
        _request.set(f"request {number}")
        await Event.cache.get(id=number)

    await asyncio.gather(*[request(number) for number in range(1, 9)])
    assert sent == [("none", False)]


async def test_a_computation_depends_on_the_row_and_not_on_the_statement(sent: Sent) -> None:
    """A computation runs for all who wait for its result. What it looks up sends statements that are not its own."""
    await in_a_computation()
    assert [scoped for _, scoped in sent] == [False]
    with writes_without_cache():
        await User.create(id=99, username="other", email="o@example.org")
    await Event.create(id=99, slug="other", title="99", organizer_id=2)
    sent.clear()
    await in_a_computation()
    assert sent == []


async def test_a_failed_statement_raises_in_its_caller(
    cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        await asyncio.sleep(0)
        raise OSError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(database, "execute_query", fail)
        with pytest.raises(OSError, match="broken"):
            await Event.cache.get(id=1)
    assert (await Event.cache.get(id=1)).slug == "event1"


async def test_the_span_of_an_instrumented_driver_is_a_child_of_the_callers(
    cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has no observer."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer, execute = provider.get_tracer("test"), database.execute_query

    async def instrumented(*arguments: Any) -> Any:
        with tracer.start_as_current_span("driver"):
            return await execute(*arguments)

    monkeypatch.setattr(database, "execute_query", instrumented)
    with tracer.start_as_current_span("request"):
        await Event.cache.get(id=1)
    driver, request = exporter.get_finished_spans()
    assert driver.parent is not None
    assert driver.parent.span_id == request.context.span_id


async def test_a_caller_in_a_context_without_tortoises_is_answered(cache: ModelCache) -> None:
    """A server may begin its requests in other contexts than the application's startup."""

    async def look_up() -> tuple[str, str, list[int]]:
        first = await Event.cache.get(id=1)
        second = await Event.cache.get(slug="event2")
        return first.slug, second.slug, [event.id for event in await Event.cache.filter(organizer=1)]

    looked_up = await asyncio.create_task(look_up(), context=Context())
    assert looked_up == ("event1", "event2", list(range(1, 9)))
