"""Spans of ``SentryObserver``, as the transport of a real SDK gets them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, cached, local_cache
from aiomodelcache.contrib.sentry import SentryObserver
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

pytestmark = pytest.mark.only_on("sqlite", because="spans are the same for every database")


class InMemory(Transport):
    """Keeps the transactions that the SDK sends."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type == "transaction" and isinstance(item.payload.json, dict):
                self.transactions.append(item.payload.json)

    def spans(self) -> list[dict[str, Any]]:
        """Returns the spans of the only transaction, in the order of their beginnings."""
        [transaction] = self.transactions
        self.transactions.clear()
        return [transaction["contexts"]["trace"], *transaction["spans"]]


@pytest.fixture
def sent() -> Iterator[InMemory]:
    """The transport of the SDK."""
    transport = InMemory()
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(
            dsn="https://key@sentry.invalid/1",
            transport=transport,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
        )
        yield transport
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
async def observed(database: BaseDBAsyncClient, backend_url: str, sent: InMemory) -> AsyncIterator[ModelCache]:
    """An open cache with the observer."""
    async with ModelCache(backend_url, observers=[SentryObserver()]) as cache:
        yield cache


@pytest.fixture
async def event(observed: ModelCache) -> Event:
    """A row."""
    return await Event.create(slug="pycon", organizer=await User.create(username="kim"))


async def test_a_lookup_has_the_span_of_a_cache(event: Event, sent: InMemory) -> None:
    with sentry_sdk.start_transaction(name="request"):
        await Event.cache.get(slug="pycon")
        await Event.cache.get(slug="pycon")
    root, *spans = sent.spans()
    gets = [span for span in spans if span["op"] == "cache.get"]
    assert [span["data"]["cache.hit"] for span in gets] == [False, True]
    assert {span["parent_span_id"] for span in gets} == {root["span_id"]}
    [key] = gets[0]["data"]["cache.key"]
    assert key.startswith("amc:i:")
    assert key == gets[0]["description"] == gets[1]["description"]
    assert "pycon" not in str(spans)
    assert "cache.item_size" not in gets[0]["data"]
    assert gets[1]["data"]["cache.item_size"] > 0
    [put] = [span for span in spans if span["op"] == "cache.put"]
    assert (put["data"]["cache.key"], put["parent_span_id"]) == ([key], gets[0]["span_id"])
    [statement] = [span for span in spans if span["op"] == "db"]
    assert (statement["description"], statement["parent_span_id"]) == ("SELECT event", gets[0]["span_id"])
    assert statement["data"]["db.system"] == "sqlite"


@pytest.mark.only_on("redis", because="the address is that of a server")
async def test_a_lookup_names_the_server(event: Event, sent: InMemory, redis_server: RedisServer) -> None:
    with sentry_sdk.start_transaction(name="request"):
        await Event.cache.get(id=event.id)
    _, *spans = sent.spans()
    peers = [(span["data"].get("network.peer.address"), span["data"].get("network.peer.port")) for span in spans]
    assert peers == [("127.0.0.1", redis_server.port), (None, None), ("127.0.0.1", redis_server.port)]


async def test_spans_of_other_integrations_are_inside_the_statement_and_the_computation(
    event: Event, sent: InMemory, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = database.execute_query

    async def instrumented(query: str, *args: Any) -> Any:
        with sentry_sdk.start_span(op="driver"):
            return await execute(query, *args)

    @cached
    async def title() -> str:
        return (await Event.cache.get(id=event.id)).title

    monkeypatch.setattr(database, "execute_query", instrumented)
    with sentry_sdk.start_transaction(name="request"):
        await title()
        with sentry_sdk.start_span(op="after"):
            pass
    root, *spans = sent.spans()
    by_op = {span["op"]: span for span in spans}
    assert by_op["driver"]["parent_span_id"] == by_op["db"]["span_id"]
    inner = next(span for span in spans if span["op"] == "cache.get" and span["data"]["aiomodelcache.cache"] == "Event")
    assert inner["parent_span_id"] == by_op["function"]["span_id"]
    assert by_op["after"]["parent_span_id"] == root["span_id"]


async def test_batches_scopes_and_writes(event: Event, sent: InMemory) -> None:
    with sentry_sdk.start_transaction(name="request"):
        async with local_cache():
            await BatchCacheQuery(a=Event.cache.get(id=event.id), b=Event.cache.get_or_none(id=404))
            await Event.cache.get(id=event.id)
        await Event.filter(id=event.id).update(title="new")
    root, *spans = sent.spans()
    assert [span["data"]["aiomodelcache.outcome"] for span in spans if span["op"] == "cache.get"] == [
        "miss",
        "miss",
        "scope",
    ]
    assert len([span for span in spans if span["op"] == "db"]) == 1
    [remove] = [span for span in spans if span["op"] == "cache.remove"]
    assert remove["parent_span_id"] == root["span_id"]


async def test_a_lookup_outside_of_a_transaction_has_no_span(event: Event, sent: InMemory) -> None:
    await Event.cache.get(id=event.id)
    await Event.filter(id=event.id).update(title="new")
    assert sent.transactions == []
