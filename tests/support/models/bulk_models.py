"""Models for bulk writes: renamed columns, keys of every kind, and managers that hide rows."""

from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar

from tortoise import fields
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel, ModelCacheManager, QuerysetCache


class Tag(CachedModel):
    id = fields.IntField(primary_key=True)
    label = fields.CharField(max_length=32, unique=True)


class Account(CachedModel):
    """A model with a UUID as primary key, columns named unlike their fields, and a many-to-many relation."""

    id = fields.UUIDField(primary_key=True)
    number = fields.IntField(unique=True, source_field="account_no")
    plan = fields.IntField(default=0, source_field="plan_id")
    credit = fields.IntField(default=0)
    limit = fields.IntField(default=0)
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="accounts")

    class Meta:
        table = "customer"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("plan",), ("plan", "credit")]


class Profile(CachedModel):
    """A model whose primary key is a foreign key."""

    account: fields.OneToOneRelation[Account] = fields.OneToOneField("app.Account", primary_key=True)
    nick = fields.IntField(unique=True)

    class CacheMeta:
        get_key_fields_list = [("nick",)]


class Status(Enum):
    NEW = "new"
    PAID = "paid"
    SENT = "sent"


class Order(CachedModel):
    """A model whose only unique key is the primary key, with a default order and a renamed foreign key column."""

    id = fields.IntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "app.Account", related_name="orders", source_field="customer_ref"
    )
    status = fields.CharEnumField(Status, default=Status.NEW)
    amount = fields.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))
    note = fields.CharField(max_length=64, default="")

    class Meta:
        table = "purchase"
        ordering = ["-amount", "id"]

    class CacheMeta:
        filter_key_fields_list = [("account",), ("account", "status")]


class LastOrders(QuerysetCache[Order]):
    model = Order
    key_fields = ("status",)
    order_by: ClassVar = ["-id"]
    limit = 2


class Named(CachedModel):
    """An abstract parent with a unique key."""

    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)

    class Meta:
        abstract = True

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("shelf",)]


class Book(Named):
    pages = fields.IntField(default=0)


class Film(Named):
    minutes = fields.IntField(default=0)


class Pages(QuerySet[Any]):
    """A custom queryset, whose ``delete`` only hides rows."""

    def delete(self) -> Any:
        return self.update(deleted=True)

    async def purge(self) -> int:
        return await super().delete()

    def restore(self) -> Any:
        return self.update(deleted=False)

    async def shelve(self, shelf: int) -> int:
        return await super().update(shelf=shelf)


class Shown(Manager):
    def get_queryset(self) -> Pages:
        return Pages(self._model).filter(deleted=False)


class Everything(Manager):
    def get_queryset(self) -> Pages:
        return Pages(self._model)


class Page(CachedModel):
    """A model whose default manager hides rows, which another manager shows."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)
    deleted = fields.BooleanField(default=False)
    text = fields.CharField(max_length=16, default="")

    everything = Everything()

    class Meta:
        manager = Shown()

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("shelf",)]


class Entry(CachedModel):
    """A model with database defaults and nullable unique columns."""

    id = fields.IntField(primary_key=True)
    shelf = fields.IntField(db_default=3)
    one = fields.IntField(null=True, unique=True)
    two = fields.IntField(null=True, unique=True)

    class CacheMeta:
        get_key_fields_list = [("one",), ("two",)]
        filter_key_fields_list = [("shelf",)]


class Scrap(Model):
    """A model without a cache and without cached dependents."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(default=0)


class Slip(Model):
    """A plain model with a separate manager."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)


class SlipCaches(ModelCacheManager[Slip]):
    model = Slip
    get_key_fields_list = [("number",)]
    filter_key_fields_list = [("shelf",)]


class Blank(CachedModel):
    """A model whose columns all have database defaults."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(db_default=5)

    class CacheMeta:
        filter_key_fields_list = [("number",)]


class Sole(CachedModel):
    """A model whose primary key is a database default."""

    id = fields.IntField(primary_key=True, generated=False, db_default=41)
    shelf = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("shelf",)]
