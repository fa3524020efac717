"""``Event.cache.using(connection)``: lookups on another connection, whose writes invalidate their entries alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext
from tortoise.exceptions import ConfigurationError
from tortoise.manager import Manager
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheError, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.tenant_models import Customer, Label, Order
from tests.support.tenancies import MODULE, config, create_rows

pytestmark = pytest.mark.tables(MODULE)


@pytest.fixture
async def archive(db_url: DatabaseUrl, other_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    """The connection of a second database, with other rows under the same keys."""
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:
        await context.init(config=config({"archive": str(other_url)}, "archive", []))
        await create_rows("archive", 10)
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:
        await context.init(config=config({"main": str(db_url), "archive": str(other_url)}, "main", []))
        await create_rows("main", 10)
        yield context.connections.get("archive")
    EXECUTOR_CACHE.clear()


@pytest.fixture(params=[None, "acme"], ids=["no tenants", "tenant"])
async def cache(
    request: pytest.FixtureRequest,
    archive: BaseDBAsyncClient,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[ModelCache]:
    """A cache without tenants, and one with a tenant. The managers show all rows."""
    for model in (Order, Customer, Label):
        monkeypatch.setattr(model._meta, "manager", Manager(model))
    async with ModelCache(backend, tenant=(lambda: request.param) if request.param else None) as opened:
        yield opened


async def answers(*connections: str) -> dict[str, Any]:
    """Makes every kind of lookup on the main connection, or on others."""
    found: dict[str, Any] = {}
    for name in connections or ("main", "archive"):
        orders = Order.cache.using(name) if name != "main" else Order.cache
        customers = Customer.cache.using(name) if name != "main" else Customer.cache
        listed = await orders.filter(team=1)
        await orders.prefetch(listed, "customer", "labels")
        found[name] = [
            [_shown(order) for order in await orders.get_many(range(10, 15))],
            [_shown(order) for order in listed],
            [await orders.count(team=team) for team in range(4)],
            [(_shown(order.customer), [_shown(label) for label in order.labels]) for order in listed],
            (await customers.get(id=10)).name,
            _shown(await orders.get_or_none(number=3)),
        ]
    return found


async def plain(*connections: str) -> dict[str, Any]:
    """Returns what ``answers`` must return, by plain Tortoise."""
    found: dict[str, Any] = {}
    for name in connections or ("main", "archive"):
        client = get_connection(name)
        rows = QuerySet(Order).using_db(client).prefetch_related("customer", "labels").order_by("id")
        orders = {order.id: order for order in await rows}
        listed = [order for order in orders.values() if order.team == 1]
        customer = await QuerySet(Customer).using_db(client).get(id=10)
        found[name] = [
            [_shown(order) for order in orders.values()],
            [_shown(order) for order in listed],
            [sum(order.team == team for order in orders.values()) for team in range(4)],
            [(_shown(order.customer), [_shown(label) for label in order.labels]) for order in listed],
            customer.name,
            next((_shown(order) for order in orders.values() if order.number == 3), None),
        ]
    return found


def _shown(row: Any) -> Any:
    return row and (row.tenant, row.pk)


async def test_each_connection_has_entries_of_its_own(cache: ModelCache) -> None:
    wanted = await plain()
    assert wanted["main"] != wanted["archive"]
    assert await answers() == wanted
    async with assert_ops(sql=0):
        assert await answers() == wanted
    assert ":archive:" in Order.cache.using("archive").key(number=1)


async def test_a_client_names_its_connection(cache: ModelCache, archive: BaseDBAsyncClient) -> None:
    await answers()
    async with assert_ops(sql=0):
        assert (await Order.cache.using(archive).get(id=11)).tenant == "archive"
        assert (await Order.cache.using(get_connection("main")).get(id=11)).tenant == "main"
    async with in_transaction("archive") as client:
        assert (await Order.cache.using(client).get(id=11)).tenant == "archive"


async def test_batches_and_gathers_may_span_connections(cache: ModelCache) -> None:
    queries = {"here": Order.cache.get(id=11), "there": Order.cache.using("archive").get(id=11)}
    for _ in range(2):
        batch = await BatchCacheQuery(queries)
        assert {name: order.tenant for name, order in batch.items()} == {"here": "main", "there": "archive"}


async def test_an_unknown_connection_is_an_error(cache: ModelCache) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        Order.cache.using("nowhere")


async def _saved(client: BaseDBAsyncClient) -> None:
    order = await QuerySet(Order).using_db(client).get(id=11)
    order.team = 3
    await order.save(using_db=client)


async def _created(client: BaseDBAsyncClient) -> None:
    await Order.create(id=14, tenant="new", number=9, team=1, customer_id=10, using_db=client)


async def _deleted(client: BaseDBAsyncClient) -> None:
    await (await QuerySet(Order).using_db(client).get(id=11)).delete(using_db=client)


async def _linked(client: BaseDBAsyncClient) -> None:
    order = await QuerySet(Order).using_db(client).get(id=13)
    await order.labels.add(*await QuerySet(Label).using_db(client), using_db=client)


async def _in_a_transaction(client: BaseDBAsyncClient) -> None:
    async with in_transaction(client.connection_name) as transaction:
        await _saved(transaction)
        await Order.filter(id=12).using_db(transaction).update(team=1)


async def _cascading(client: BaseDBAsyncClient) -> None:
    await Customer.filter(id=11).using_db(client).delete()


WRITES: list[Callable[[BaseDBAsyncClient], Awaitable[Any]]] = [
    _saved,
    _created,
    _deleted,
    _linked,
    _in_a_transaction,
    _cascading,
    lambda client: Order.filter(team=1).using_db(client).update(team=2),
    lambda client: Order.filter(team=1).using_db(client).delete(),
    lambda client: Order.bulk_create([Order(id=14, tenant="new", number=9, team=1, customer_id=10)], using_db=client),
]


Write = Callable[[BaseDBAsyncClient], Awaitable[Any]]


@pytest.mark.exhaustive(because="every way of writing, on both connections")
@pytest.mark.slow(because="makes each write on both connections, with tenants and without")
@pytest.mark.only_on("sqlite", because="the next test makes each write on every database")
@pytest.mark.only_on("memory", because="the next test makes each write in every store")
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("where", ["main", "archive"])
async def test_a_write_invalidates_the_entries_of_its_connection(cache: ModelCache, where: str, write: Write) -> None:
    await write_and_check(where, write)


@pytest.mark.exhaustive(because="every way of writing")
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("cache", [None], ids=["no tenants"], indirect=True)
async def test_a_write_elsewhere_invalidates_the_entries_there_on_every_database(
    cache: ModelCache, write: Write
) -> None:
    await write_and_check("archive", write)


async def write_and_check(where: str, write: Write) -> None:
    before = await answers()
    await write(get_connection(where))
    after = await plain()
    assert after[where] != before[where]
    assert await answers() == after


async def test_invalidation_by_hand_is_for_the_named_connection(cache: ModelCache, archive: BaseDBAsyncClient) -> None:
    await answers()
    for client in (archive, get_connection("main")):
        await client.execute_query("UPDATE tenant_order SET team = 3 WHERE id = 11")
    await Order.cache.using("archive").invalidate(11)
    assert await answers("archive") == await plain("archive")
    assert (await Order.cache.using("archive").refresh(id=12)).tenant == "archive"
    assert (await answers("main"))["main"][2] == [1, 2, 0, 0]
    await Order.cache.using("archive").clear()  # of a cache with tenants: for all of them, on all connections
    if cache.config.tenant is None:
        assert (await answers("main"))["main"][2] == [1, 2, 0, 0]
    await archive.execute_query("UPDATE tenant_order SET team = 0 WHERE id = 11")
    await Order.filter(id=11).using_db(archive).invalidate_cache()
    assert await answers("archive") == await plain("archive")


async def test_a_queryset_is_awaited_on_the_connection_of_its_manager(
    cache: ModelCache, archive: BaseDBAsyncClient
) -> None:
    def number(manager: Any) -> Awaitable[int]:
        return manager.query(Order.filter(number__gt=0).count())

    in_main, in_archive = await number(Order.cache), await number(Order.cache.using("archive"))
    await Order.filter(number=1).using_db(archive).delete()
    assert await number(Order.cache) == in_main
    assert await number(Order.cache.using("archive")) == in_archive - 1
    named = Order.filter(number__gt=0).using_db(archive).count()
    assert await Order.cache.using(archive).query(named) == in_archive - 1
    with pytest.raises(
        CacheError, match=r"names another connection \(archive\): use Order.cache.using\('archive'\).query"
    ):
        await Order.cache.query(named)
