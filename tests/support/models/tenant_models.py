"""Models whose rows belong to tenants, told apart by a context variable, and everything that can be cached of them."""

from contextvars import ContextVar
from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.queryset import QuerySet

from aiomodelcache import (
    CachedModel,
    InvalidationType,
    QuerysetCache,
    QuerysetCountCache,
    RelatedInstanceCache,
    ResultCache,
    ValueCache,
    cached,
)

tenant: ContextVar[str] = ContextVar("tenant")
hides: ContextVar[bool] = ContextVar("hides", default=False)
"""True if the tenants' rows are in one table, and the manager shows a tenant its own."""


class TenantManager(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset()
        return rows.filter(tenant=tenant.get("")) if hides.get() else rows


class TenantModel(CachedModel):
    tenant = fields.CharField(max_length=16)

    class Meta:
        abstract = True
        manager = TenantManager()


class Customer(TenantModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=32)

    class Meta:
        table = "tenant_customer"
        manager = TenantManager()


class Label(TenantModel):
    id = fields.IntField(primary_key=True)

    class Meta:
        table = "tenant_label"
        manager = TenantManager()


class Order(TenantModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField()
    team = fields.IntField(default=0)
    customer: fields.ForeignKeyRelation[Customer] = fields.ForeignKeyField("app.Customer", related_name="orders")
    labels: fields.ManyToManyRelation[Label] = fields.ManyToManyField(
        "app.Label", related_name="orders", through="tenant_order_label"
    )

    class Meta:
        table = "tenant_order"
        manager = TenantManager()
        unique_together = (("tenant", "number"),)
        ordering = ("id",)

    class CacheMeta:
        get_key_fields_list = [("number",), ("tenant", "number")]
        filter_key_fields_list = [("team",)]
        cached_foreignkeys = ["customer"]
        cached_manytomany = ["labels"]


class OrderCount(QuerysetCountCache):
    model = Order
    key_fields = ("team",)


class FirstOrders(QuerysetCache[Order]):
    model = Order
    key_fields = ("team",)
    order_by = ["-number"]
    limit = 1


class Numbers(ResultCache[list[int]]):
    model = Order
    key_fields = ("team",)
    invalidation = InvalidationType.RESET

    async def get_result(self, team: int) -> list[int]:
        return [order.number for order in await Order.filter(team=team).order_by("number")]


class CustomerOfOrder(RelatedInstanceCache[Customer]):
    model = Order
    key_fields = ("number",)
    relation = "customer"


class TenantName(ValueCache[str]):
    async def get_value(self) -> str:
        return tenant.get()


@cached()
async def greeted(greeting: str) -> str:
    return f"{greeting} {tenant.get()}"
