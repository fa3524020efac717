"""Two tenants, in the three ways in which Tortoise can keep them apart, and their rows."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from tests.support.databases import DatabaseUrl
from tests.support.models.tenant_models import Customer, Label, Order, hides, tenant

T = TypeVar("T")
MODULE = "tests.support.models.tenant_models"
TENANTS = ("acme", "bolt")
KINDS = ("manager", "router", "contexts")


class Router:
    """A router that names the connection of the caller's tenant."""

    def db_for_read(self, model: type) -> str:
        return tenant.get(TENANTS[0])

    db_for_write = db_for_read


class Tenancy:
    """Two tenants, each with a context in which its tasks run."""

    def __init__(self) -> None:
        self.contexts: dict[str, Context] = {}

    def enter(self, name: str) -> None:
        """Makes a copy of the current context the one of a tenant."""
        self.contexts[name] = copy_context()
        self.contexts[name].run(tenant.set, name)

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """Runs work in a task of a tenant."""
        context = self.contexts[name].copy()
        return asyncio.create_task(context.run(work), context=context)

    async def as_tenant(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs work as a tenant, and returns its result."""
        return await self.start(name, work)


def config(connections: dict[str, str], default: str, routers: list[type]) -> dict[str, Any]:
    return {
        "connections": connections,
        "apps": {"app": {"models": [MODULE], "default_connection": default}},
        "routers": routers,
    }


@asynccontextmanager
async def tenancy_on(kind: str, url: DatabaseUrl, other_url: DatabaseUrl) -> AsyncIterator[Tenancy]:
    """Opens Tortoise for two tenants: in one table, in two databases, or in two Tortoise contexts.

    The databases have the tables of ``MODULE``.
    """
    EXECUTOR_CACHE.clear()
    tenancy = Tenancy()
    first, second = TENANTS
    async with AsyncExitStack() as stack:
        if kind == "contexts":
            for name, own in zip(TENANTS, (url, other_url), strict=True):
                context = await stack.enter_async_context(TortoiseContext())
                await context.init(config=config({"default": str(own)}, "default", []))
                tenancy.enter(name)
        else:
            context = await stack.enter_async_context(TortoiseContext())
            connections = {first: str(url)} | ({second: str(other_url)} if kind == "router" else {})
            await context.init(config=config(connections, first, [Router] if kind == "router" else []))
            hides.set(kind == "manager")
            for name in TENANTS:
                tenancy.enter(name)
            hides.set(False)
        try:
            yield tenancy
        finally:
            EXECUTOR_CACHE.clear()


async def create_rows(name: str, start: int) -> None:
    """Creates a tenant's rows. ``start``: the lowest primary key."""
    for pk in (start, start + 1):
        await Customer.create(id=pk, tenant=name, name=f"{name} {pk}")
        await Label.create(id=pk, tenant=name)
    for number in (1, 2, 3):
        order = await Order.create(
            id=start + number, tenant=name, number=number, team=number % 2, customer_id=start + number % 2
        )
        labels = await Label.filter(id__in=[start, start + 1][: number % 3])
        await order.labels.add(*labels, using_db=Order._choose_db(True))  # Tortoise asks no router
