"""``ModelCache(tenant=...)``: no caller gets another tenant's rows, and no write misses its own tenant's entries."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any
from uuid import UUID

import pytest
from tortoise.backends.base.client import TransactionalDBClient
from tortoise.queryset import QuerySet
from tortoise.router import router
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    CacheNotOpen,
    InvalidationType,
    ModelCache,
    TenantError,
    cached,
    local_cache,
    no_invalidation,
    views,
)
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.tenant_models import (
    Customer,
    CustomerOfOrder,
    FirstOrders,
    Label,
    Numbers,
    Order,
    OrderCount,
    TenantName,
    greeted,
    hides,
    tenant,
)
from tests.support.tenancies import KINDS, MODULE, TENANTS, Tenancy, create_rows, tenancy_on
from tests.write.test_refresh_ahead import building_entries_in_the_past

pytestmark = pytest.mark.tables(MODULE)
in_the_key = pytest.mark.only_on("sqlite", because="the tenant is a part of keys, above any database")

ACME, BOLT = TENANTS
STARTS = {ACME: 10, BOLT: 20}


@pytest.fixture(params=KINDS)
async def tenancy(
    request: pytest.FixtureRequest, db_url: DatabaseUrl, other_url: DatabaseUrl
) -> AsyncIterator[Tenancy]:
    """Two tenants with rows. In databases of their own they have the same primary keys."""
    async with tenancy_on(request.param, db_url, other_url) as tenancy:
        await create_tenants(tenancy, request.param)
        yield tenancy


async def create_tenants(tenancy: Tenancy, kind: str) -> None:
    """Creates the rows of both tenants."""
    for name in TENANTS:
        start = STARTS[name] if kind == "manager" else STARTS[ACME]
        await tenancy.as_tenant(name, lambda name=name, start=start: create_rows(name, start))


@pytest.fixture
async def tenants(tenancy: Tenancy, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend, tenant=tenant.get) as opened:
        yield opened


def shown(value: Any) -> Any:
    """Returns a value in which rows are replaced by their model, tenant and primary key."""
    if isinstance(value, list):
        return [shown(each) for each in value]
    if isinstance(value, dict):
        return {key: shown(each) for key, each in value.items()}
    return (type(value).__name__, value.tenant, value.pk) if hasattr(value, "tenant") else value


async def lookups() -> dict[str, Any]:
    """Makes every kind of lookup, and returns what the rows are."""
    order = await Order.cache.get(number=1)
    orders = await Order.cache.filter(team=1)
    await Order.cache.prefetch(orders, "customer", "labels")
    batch = BatchCacheQuery({"order": Order.cache.get(number=2), "count": OrderCount(0), "name": greeted.query("hi")})
    return shown(
        {
            "get": order,
            "by pk": [await Order.cache.get_or_none(id=pk) for pk in range(10, 25)],
            "get_many": await Order.cache.get_many(range(10, 25)),
            "in_bulk": await Order.cache.in_bulk([(ACME, 1), (BOLT, 1)], key=("tenant", "number")),
            "filter": orders,
            "exists": await Order.cache.exists(number=3),
            "count": await Order.cache.count(team=1),
            "customer": await order.customer,
            "labels": list(await order.labels),
            "prefetched": [[each.customer, list(each.labels)] for each in orders],
            "class": await FirstOrders(1),
            "result": await Numbers(1),
            "path": await CustomerOfOrder(2),
            "value": await TenantName(),
            "query": await Order.cache.query(
                Order.filter(team=1).order_by("id").prefetch_related("customer", "labels")
            ),
            "query of one": await Order.cache.query(Order.all().order_by("-id").first()),
            "count of a query": await Order.cache.query(Order.filter(number__gt=1).count()),
            "batch": await batch,
        }
    )


async def expected(name: str) -> dict[str, Any]:
    """Returns what ``lookups`` must return for a tenant, by plain Tortoise."""
    rows = {order.pk: order for order in await Order.all().prefetch_related("customer", "labels").order_by("id")}
    by_number = {order.number: order for order in rows.values()}
    odd = [order for order in rows.values() if order.team == 1]
    return shown(
        {
            "get": by_number[1],
            "by pk": [rows.get(pk) for pk in range(10, 25)],
            "get_many": list(rows.values()),
            "in_bulk": {(name, 1): by_number[1]},
            "filter": odd,
            "exists": True,
            "count": 2,
            "customer": by_number[1].customer,
            "labels": list(by_number[1].labels),
            "prefetched": [[each.customer, list(each.labels)] for each in odd],
            "class": [by_number[3]],
            "result": sorted(order.number for order in odd),
            "path": by_number[2].customer,
            "value": name,
            "query": odd,
            "query of one": [*rows.values()][-1],
            "count of a query": 2,
            "batch": {"order": by_number[2], "count": 1, "name": f"hi {name}"},
        }
    )


async def each(tenancy: Tenancy, work: Callable[[str], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
    """Runs work as each tenant, all at once, and returns the results by tenant."""
    tasks = {name: tenancy.start(name, lambda name=name: work(name)) for name in TENANTS}
    return {name: await task for name, task in tasks.items()}


class TestLookups:
    async def test_no_lookup_returns_another_tenants_rows(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        wanted = await each(tenancy, expected)
        assert wanted[ACME] != wanted[BOLT]
        for _ in range(2):  # misses, then hits
            assert await each(tenancy, lambda name: lookups()) == wanted

    @pytest.mark.only_on("sqlite", "postgres", because="MariaDB compares texts, like those of tenants, loosely")
    async def test_hits_of_a_tenant_ask_no_database(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        await each(tenancy, lambda name: lookups())
        async with assert_ops(sql=0):
            await each(tenancy, lambda name: lookups())

    async def test_a_scope_that_two_tenants_share_keeps_them_apart(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        wanted = await each(tenancy, expected)
        scope = local_cache()
        for context in tenancy.contexts.values():
            context.run(scope.__enter__)
            scope._scopes[:] = scope._scopes[:1]
        for _ in range(2):
            assert await each(tenancy, lambda name: lookups()) == wanted

    async def test_the_tenant_is_that_of_the_caller_who_awaits(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        queries = [Order.cache.get(number=1), tenancy.contexts[BOLT].run(Order.cache.get, number=1)]
        for query in queries:
            for name in (ACME, BOLT, ACME):
                assert (await tenancy.as_tenant(name, query.resolve)).tenant == name

    async def test_child_tasks_are_of_their_parents_tenant(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        async def parent() -> list[str]:
            tasks = [asyncio.create_task(Order.cache.get(number=number).resolve()) for number in (1, 2, 3)]
            return [order.tenant for order in await asyncio.gather(*tasks)]

        assert await each(tenancy, lambda name: parent()) == {ACME: [ACME] * 3, BOLT: [BOLT] * 3}

    async def test_entries_near_their_end_are_refreshed_for_their_own_tenant(
        self, tenancy: Tenancy, tenants: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aiomodelcache.engine.background.THRESHOLD_REFRESH_INTERVAL", 0.0)
        wanted = await each(tenancy, expected)
        with building_entries_in_the_past(3600 * 0.95):
            await each(tenancy, lambda name: lookups())
        for _ in range(2):
            assert await each(tenancy, lambda name: lookups()) == wanted
            await until_idle(tenants)
        assert sum(counters.refreshed for counters in tenants.stats.by_cache.values()) >= 2 * 8

    @pytest.mark.only_on("redis", because="near entries need a server that reports changes")
    async def test_near_entries_of_tenants_are_kept_apart(self, tenancy: Tenancy, backend_url: str) -> None:
        wanted = await each(tenancy, expected)
        async with ModelCache(backend_url, tenant=tenant.get, near=True, near_lag=60, socket_timeout=30) as cache:
            for _ in range(4):
                assert await each(tenancy, lambda name: lookups()) == wanted
            assert cache.stats.near.hits
            await tenancy.as_tenant(ACME, lambda: _saved(team=2))
            assert await each(tenancy, lambda name: answers()) == await each(tenancy, lambda name: plain_answers())

    async def test_keys_contain_the_tenant(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        keys = {name: context.run(Order.cache.key, number=1) for name, context in tenancy.contexts.items()}
        assert [key.partition(":@")[2] for key in keys.values()] == ["sacme:i1", "sbolt:i1"]

    async def test_explanations_are_of_the_callers_tenant(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        await tenancy.as_tenant(ACME, Order.cache.get(number=1).resolve)
        sources = await each(tenancy, lambda name: Order.cache.explain(number=1))
        assert [sources[name].source for name in TENANTS] == ["cache", "database"]


@in_the_key
class TestWrites:
    @pytest.mark.exhaustive(because="every way of writing")
    @pytest.mark.parametrize(
        "write",
        [
            lambda: _saved(team=2),
            lambda: Order.filter(number=1).update(team=2),
            lambda: Order.filter(number=2).delete(),
            lambda: _deleted(),
            lambda: _relinked(),
            lambda: Customer.filter(name__contains="1").update(name="changed"),
            lambda: _in_a_transaction(),
        ],
        ids=["save", "update", "delete", "delete of an instance", "links", "of another model", "in a transaction"],
    )
    async def test_a_write_invalidates_the_entries_of_its_tenant_alone(
        self, tenancy: Tenancy, tenants: ModelCache, write: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        await each(tenancy, lambda name: answers())
        await tenancy.as_tenant(ACME, lambda: _awaited(write()))
        assert await each(tenancy, lambda name: answers()) == await each(tenancy, lambda name: plain_answers())
        async with assert_ops(sql=0):
            await tenancy.as_tenant(BOLT, answers)


@pytest.mark.parametrize("tenancy", ["manager"], indirect=True)
async def test_a_transaction_may_write_as_several_tenants(tenancy: Tenancy, tenants: ModelCache) -> None:
    await each(tenancy, lambda name: answers())
    async with in_transaction():
        for name in TENANTS:
            await asyncio.create_task(_saved(team=3), context=_as(tenancy, name))
    assert await each(tenancy, lambda name: answers()) == await each(tenancy, lambda name: plain_answers())


def _as(tenancy: Tenancy, name: str) -> Context:
    """Returns the present context as that of a tenant: with the present transaction."""
    context = copy_context()
    context.run(tenant.set, name)
    context.run(hides.set, True)
    return context


async def _awaited(work: Any) -> Any:
    return await work


async def _saved(**values: Any) -> None:
    order = await Order.cache.get(number=1)
    order.update_from_dict(values)
    await order.save()


async def _deleted() -> None:
    await (await Order.cache.get(number=3)).delete()


async def _relinked() -> None:
    order = await Order.cache.get(number=1)
    client = Order._choose_db(True)  # Tortoise asks no router
    await order.labels.clear(using_db=client)
    await order.labels.add(*await Label.all(), using_db=client)


async def _in_a_transaction() -> None:
    async with in_transaction(Order._choose_db(True).connection_name):
        await _saved(team=5)
        await Order.filter(number=2).update(team=5)


async def answers() -> dict[str, Any]:
    """Makes lookups that writes change."""
    return shown(
        {
            "teams": [await Order.cache.filter(team=team) for team in range(6)],
            "counts": [await OrderCount(team) for team in range(6)],
            "results": [await Numbers(team) for team in range(6)],
            "rows": [await Order.cache.get_or_none(id=pk) for pk in range(10, 25)],
            "labels": [list(await order.labels) for order in await Order.cache.get_many(range(10, 25))],
            "names": [each.name for each in await Customer.cache.get_many(range(10, 25))],
        }
    )


async def plain_answers() -> dict[str, Any]:
    """Returns what ``answers`` must return, by plain Tortoise."""
    rows = {order.pk: order for order in await Order.all().prefetch_related("labels").order_by("id")}
    teams = [[order for order in rows.values() if order.team == team] for team in range(6)]
    return shown(
        {
            "teams": teams,
            "counts": [len(team) for team in teams],
            "results": [sorted(order.number for order in team) for team in teams],
            "rows": [rows.get(pk) for pk in range(10, 25)],
            "labels": [sorted(order.labels, key=lambda label: label.pk) for order in rows.values()],
            "names": [each.name for each in await Customer.all().order_by("id")],
        }
    )


async def until_idle(cache: ModelCache) -> None:
    """Waits until nothing runs in the background of any tenant."""
    while any(view.busy for view in cache._views.all()):
        await asyncio.sleep(0)


@in_the_key
class TestOutsideOfAnyTenant:
    async def test_lookups_are_refused(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        for lookup in (Order.cache.get(number=1), OrderCount(1), TenantName(), Order.cache.get_many([1])):
            with pytest.raises(TenantError, match="has no tenant"):
                await lookup
            with pytest.raises(TenantError, match="has no tenant"):
                await BatchCacheQuery(lookup=lookup)

    async def test_writes_invalidate_the_rows_of_all_tenants(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        before = await each(tenancy, lambda name: answers())
        assert await each(tenancy, lambda name: answers()) == before
        for name in TENANTS:
            connection = tenancy.contexts[name].run(Order._choose_db, True)
            work = QuerySet(Order).using_db(connection)
            order = await work.filter(tenant=name).order_by("id").first()
            assert order is not None
            order.team = 4
            await order.save(using_db=connection)
            assert await each(tenancy, lambda name: answers()) == await each(tenancy, lambda name: plain_answers())

    async def test_relations_are_answered_by_tortoise(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        order = await Order.all().order_by("id").first()
        assert order is not None
        with pytest.raises(TenantError):
            await Customer.cache.get(id=order.customer_id)
        async with assert_ops(redis=0, sql=2):
            assert (await order.customer).pk == order.customer_id
            assert len(await order.labels) == 1

    async def test_clear_invalidates_everything_of_all_tenants(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        await each(tenancy, lambda name: answers())
        for clear in (Order.cache.clear, tenants.clear_all, lambda: tenancy.as_tenant(ACME, Order.cache.clear)):
            async with assert_ops(sql=0):
                await each(tenancy, lambda name: answers())
            await clear()
            async with assert_ops() as ops:
                await each(tenancy, lambda name: answers())
            assert ops.statements

    async def test_values_are_invalidated_for_all_tenants(self, tenancy: Tenancy, tenants: ModelCache) -> None:
        assert await each(tenancy, lambda name: greeted("hi")) == {ACME: "hi acme", BOLT: "hi bolt"}
        misses = sum(counters.misses for counters in tenants.stats.by_cache.values())
        await greeted.invalidate("hi")
        await each(tenancy, lambda name: greeted("hi"))
        assert sum(counters.misses for counters in tenants.stats.by_cache.values()) == misses + 2


class Wanderer:
    """A tenant that depends on more than its caller's context."""

    name: str | None = ACME

    def __call__(self) -> Any:
        return self.name


@pytest.mark.only_on("sqlite", because="what a function returns is no matter of a database")
class TestFunctions:
    @pytest.fixture
    async def order(self, db_url: DatabaseUrl) -> AsyncIterator[None]:
        async with tortoise_on(db_url, MODULE, create=False):
            customer = await Customer.create(id=1, tenant="", name="")
            await Order.create(id=1, tenant="", number=1, customer=customer)
            yield

    async def test_tenants_of_different_types_share_no_entry(self, order: None, backend: CountingBackend) -> None:
        values: list[Any] = [
            1,
            "1",
            b"1",
            UUID(int=1),
            "i1",
            "",
            0,
            "s",
            "@sacme",
            "a:b",
            "a%3Ab",
            "x" * 200,
            "x" * 201,
        ]
        wanderer = Wanderer()
        async with ModelCache(backend, tenant=wanderer):
            for count, wanderer.name in enumerate(values, 1):
                for _ in range(2):
                    assert (await Order.cache.get(number=1)).number == 1
                entries = [key for key in backend.keys if b":r:" in key]
                assert len(entries) == count, wanderer.name

    @pytest.mark.parametrize("bad", [True, 1.5, ("a", 1), 1j, ["acme"]], ids=repr)
    async def test_a_tenant_of_another_type_is_refused(
        self, order: None, backend: CountingBackend, bad: object
    ) -> None:
        async with ModelCache(backend, tenant=lambda: bad):  # type: ignore[arg-type, return-value]
            with pytest.raises(TenantError, match="it must return a str, an int, a UUID or bytes"):
                await Order.cache.get(number=1)
            with pytest.raises(TenantError, match="it must return a str, an int, a UUID or bytes"):
                await Order.filter(number=1).update(team=1)

    async def test_a_tenant_that_depends_on_more_than_its_context_fills_nothing(
        self, order: None, backend: CountingBackend
    ) -> None:
        wanderer = Wanderer()
        async with ModelCache(backend, tenant=wanderer):
            lookups = [
                asyncio.create_task(Order.cache.get(number=1).resolve()),
                asyncio.create_task(OrderCount(0).resolve()),
            ]
            await asyncio.sleep(0)
            wanderer.name = BOLT
            for lookup in lookups:
                with pytest.raises(TenantError, match="must depend on context variables alone"):
                    await lookup

    async def test_a_router_that_fails_without_a_tenant_is_an_error_when_the_cache_opens(
        self, order: None, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Strict:
            def db_for_read(self, model: type) -> str:
                return tenant.get()

            db_for_write = db_for_read

        monkeypatch.setattr(router, "_routers", [Strict()])
        with pytest.raises(CacheConfigurationError, match="a router reads a context variable that is not set here"):
            await ModelCache(backend, tenant=tenant.get).open()

    @pytest.mark.parametrize("bad", ["acme", 5])
    def test_a_tenant_that_is_no_function_is_an_error(self, bad: Any) -> None:
        with pytest.raises(CacheConfigurationError, match=r"tenant is .*: use a function without arguments"):
            ModelCache("memory://", tenant=bad)

    def test_a_coroutine_function_is_an_error(self) -> None:
        async def current() -> str:
            return ACME

        with pytest.raises(CacheConfigurationError, match=r"tenant is .*: use a function without arguments"):
            ModelCache("memory://", tenant=current)  # type: ignore[arg-type]

    async def test_computations_are_in_no_scope_and_no_transaction_of_their_caller(
        self, order: None, backend: CountingBackend
    ) -> None:
        @cached(invalidation=InvalidationType.OFF)
        async def context() -> list[bool]:
            inside = isinstance(Order._choose_db(True), TransactionalDBClient)
            return [current_scope() is not None, inside]

        async with ModelCache(backend, tenant=lambda: ACME):
            with local_cache():
                async with in_transaction():
                    assert await context() == [False, False]

    async def test_columns_found_to_compare_loosely_do_so_for_every_tenant(
        self, order: None, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend, tenant=lambda: ACME) as cache:
            cache.open_cache.models[Order].schema.loose_columns.add("team")
            for _ in range(2):
                assert len(await Order.cache.filter(team=0)) == 1
            assert cache.stats.by_cache["Order(team)"].unfillable == 2

    async def test_views_of_idle_tenants_are_dropped(
        self, order: None, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(views, "MAX_TENANTS", 2)
        wanderer = Wanderer()
        async with ModelCache(backend, tenant=wanderer) as cache:
            for wanderer.name in ("a", "b", "c", "a", "d"):
                assert (await Order.cache.get(number=1)).number == 1
                await Order.filter(number=1).update(team=1)
            assert len(cache._views.all()) == 3
            wanderer.name = "b"
            async with in_transaction():
                await Order.filter(number=1).update(team=2)
                for wanderer.name in ("c", "d", "e"):
                    await Order.filter(number=1).update(team=2)
                assert len(cache._views.all()) == 5
            await until_idle(cache)

    async def test_closing_waits_for_the_lookups_of_all_tenants(self, order: None, backend: CountingBackend) -> None:
        async def look_up(name: str) -> Order:
            tenant.set(name)
            return await Order.cache.get(number=1)

        async with ModelCache(backend, tenant=tenant.get):
            tasks = [asyncio.create_task(look_up(name)) for name in (*TENANTS, "c")]
            await asyncio.sleep(0)
        assert [(await task).number for task in tasks] == [1, 1, 1]
        tenant.set(ACME)
        with pytest.raises(CacheNotOpen):
            await Order.cache.get(number=1)


async def test_entries_of_each_tenant_are_verified_in_its_own_context(
    tenancy: Tenancy, backend: CountingBackend
) -> None:
    async def look_up() -> None:
        for _ in range(3):
            assert (await Order.cache.get(number=1)).number == 1
            await Order.cache.filter(team=1)
            while cache.open_cache.usable().busy:
                await asyncio.sleep(0.001)

    async def write_behind() -> None:
        with no_invalidation():
            await Order.filter(number=1).update(team=7)

    async with ModelCache(backend, tenant=tenant.get, verify=1.0) as cache:
        for name in TENANTS:
            await tenancy.as_tenant(name, look_up)
        verified = cache.stats.verified
        assert verified.compared >= 8
        assert (verified.stale, verified.changed, verified.failed) == (0, 0, 0)
        await tenancy.as_tenant(BOLT, write_behind)
        await tenancy.as_tenant(ACME, look_up)
        assert verified.stale == 0
        await tenancy.as_tenant(BOLT, look_up)
        assert verified.stale >= 1
        assert (await tenancy.as_tenant(BOLT, lambda: Order.cache.get(number=1).resolve())).team == 7
