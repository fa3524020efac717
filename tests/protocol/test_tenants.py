"""No interleaving of two tenants' lookups and writes gives one the other's rows, however Tortoise keeps them apart.

With one of the pieces in ``BREAKS`` removed, the same examples find another tenant's row, or a wrong answer.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tortoise.exceptions import BaseORMException

from aiomodelcache import BatchCacheQuery, MemoryBackend, ModelCache, RedisBackend, TenantError
from aiomodelcache.encoding import keys
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.engine.in_context import CallerContext
from aiomodelcache.engine.reader import Reader
from tests.client.test_tenants import answers, create_tenants, plain_answers, shown
from tests.support.databases import DatabaseUrl
from tests.support.effort import FULL
from tests.support.models.tenant_models import (
    CustomerOfOrder,
    FirstOrders,
    Label,
    Numbers,
    Order,
    OrderCount,
    TenantName,
    greeted,
    tenant,
)
from tests.support.tenancies import KINDS, MODULE, TENANTS, Tenancy, tenancy_on

pytestmark = [pytest.mark.tables(MODULE), pytest.mark.exhaustive(because="plays hundreds of random rounds")]

EXAMPLES = 30
"""The number of examples within which a missing piece is found."""


async def _prefetched() -> Any:
    orders = await Order.cache.filter(team=1)
    await Order.cache.prefetch(orders, "customer", "labels")
    return [[order.customer, list(order.labels)] for order in orders]


async def _linked() -> Any:
    return [list(await order.labels) for order in await Order.cache.get_many(range(10, 25))]


async def _saved() -> None:
    order = await Order.cache.get(number=1)
    order.team = 1 - order.team
    await order.save()


async def _relinked() -> None:
    order = await Order.cache.get(number=2)
    first, second = await Label.all().order_by("id")
    client = Order._choose_db(True)  # Tortoise asks no router
    await order.labels.add(first, second, using_db=client)
    await order.labels.remove(first, using_db=client)


LOOKUPS: list[Callable[[], Any]] = [
    lambda: Order.cache.get(number=1),
    lambda: Order.cache.get_or_none(id=11),
    lambda: Order.cache.get_or_none(id=21),
    lambda: Order.cache.get_many(range(10, 25)),
    lambda: Order.cache.filter(team=1),
    lambda: FirstOrders(1),
    lambda: CustomerOfOrder(2),
    lambda: BatchCacheQuery(order=Order.cache.get(number=2), list=Order.cache.filter(team=0), owner=TenantName()),
    lambda: TenantName(),
    lambda: greeted("hi"),
    _prefetched,
    _linked,
]
COUNTS: list[Callable[[], Any]] = [lambda: OrderCount(1), lambda: Numbers(0), lambda: Order.cache.count(team=0)]
WRITES: list[Callable[[], Any]] = [
    _saved,
    _relinked,
    lambda: Order.filter(number=3).update(team=0),
    lambda: Order.filter(number=3).update(team=1),
    lambda: Order.cache.clear(),
]
ACTIONS = [*LOOKUPS, *LOOKUPS, *COUNTS, *WRITES]

steps = st.tuples(st.sampled_from(TENANTS), st.integers(0, len(ACTIONS) - 1), st.integers(0, 4))
rounds = st.lists(st.lists(steps, min_size=2, max_size=10), min_size=1, max_size=3)


def owners_in(value: Any) -> Iterator[str]:
    """Yields the tenants of all rows in an answer."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from owners_in(each)
    elif isinstance(value, str):
        yield value.removeprefix("hi ")
    elif hasattr(value, "tenant"):
        yield value.tenant


class World:
    """Two tenants and a store, on which examples are played."""

    def __init__(self, tenancy: Tenancy, backend_url: str) -> None:
        self.tenancy = tenancy
        self._url = backend_url
        self._numbers = itertools.count()

    async def play(self, plan: list[list[tuple[str, int, int]]]) -> None:
        """Plays rounds on a new cache. After each, every lookup agrees with plain Tortoise."""
        backend = MemoryBackend() if self._url == "memory://" else RedisBackend(self._url)
        await backend.open()
        try:
            async with ModelCache(backend, namespace=f"{next(self._numbers)}", tenant=tenant.get):
                for steps in plan:
                    await asyncio.gather(*[self.tenancy.start(step[0], lambda step=step: act(*step)) for step in steps])
                    for name in TENANTS:
                        found = await self.tenancy.as_tenant(name, answers)
                        assert found == await self.tenancy.as_tenant(name, plain_answers), name
        finally:
            await backend.close()


async def act(name: str, action: int, turns: int) -> None:
    """Makes a lookup or a write of a tenant, some turns of the event loop later. All rows are the tenant's own."""
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = await ACTIONS[action]()
    assert set(owners_in(answer)) <= {name}, (name, shown(answer))


def explore(kind: str, db_url: DatabaseUrl, other_url: DatabaseUrl, backend_url: str, examples: int) -> None:
    """Plays random examples, by default the same in each run."""
    with asyncio.Runner() as runner:
        opened = tenancy_on(kind, db_url, other_url)
        world = World(runner.run(opened.__aenter__()), backend_url)
        runner.run(create_tenants(world.tenancy, kind))

        @settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=examples,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(rounds)
        def played(plan: list[list[tuple[str, int, int]]]) -> None:
            runner.run(world.play(plan))

        try:
            played()
        finally:
            runner.run(opened.__aexit__(None, None, None))


@pytest.mark.parametrize("kind", KINDS)
def test_no_interleaving_gives_a_tenant_the_others_rows(
    kind: str, db_url: DatabaseUrl, other_url: DatabaseUrl, backend_url: str
) -> None:
    cheap = db_url.dialect == "sqlite" and backend_url == "memory://"
    examples = EXAMPLES if FULL else EXAMPLES // 2
    explore(kind, db_url, other_url, backend_url, examples if cheap else examples // 4)


def _keys_without_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeySpace, "prefix", lambda self, kind, *parts: keys.key_prefix(self.namespace, kind, *parts))


def _one_hit_path(monkeypatch: pytest.MonkeyPatch) -> None:
    original, paths = Reader.__init__, dict[Any, Any]()

    def make(self: Any, guarded: Any, *args: Any, **kwargs: Any) -> None:
        original(self, guarded, *args, **kwargs)
        self.hits = paths.setdefault(guarded, self.hits)

    monkeypatch.setattr(Reader, "__init__", make)


def _statements_in_one_context(monkeypatch: pytest.MonkeyPatch) -> None:
    latest: list[Context] = []

    def copy(self: CallerContext) -> Context:
        latest[:] = latest or [self.latest]
        return latest[0].copy()

    monkeypatch.setattr(CallerContext, "copy", copy)


BREAKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "keys without tenants": _keys_without_tenants,
    "one hit path for all views": _one_hit_path,
    "statements in one context": _statements_in_one_context,
}


@pytest.mark.only_on("sqlite", because="the pieces are the same on all databases")
@pytest.mark.only_on("memory", because="the pieces are the same in all stores")
@pytest.mark.parametrize("broken", BREAKS)
def test_the_examples_find_a_missing_piece(
    broken: str,
    db_url: DatabaseUrl,
    other_url: DatabaseUrl,
    backend_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    BREAKS[broken](monkeypatch)
    with pytest.raises((AssertionError, BaseORMException, TenantError, ExceptionGroup)):
        explore("manager", db_url, other_url, backend_url, EXAMPLES)
