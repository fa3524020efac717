"""Models to be written to in bulk: columns with names of their own, keys of every kind, managers that hide rows."""

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
    """A UUID as primary key, columns that are not called like their fields, a many-to-many relation."""

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
    """A foreign key as primary key."""

    account: fields.OneToOneRelation[Account] = fields.OneToOneField("app.Account", primary_key=True)
    nick = fields.IntField(unique=True)

    class CacheMeta:
        get_key_fields_list = [("nick",)]


class Status(Enum):
    NEW = "new"
    PAID = "paid"
    SENT = "sent"


class Order(CachedModel):
    """No unique key but the primary key; an order of its own; a foreign key with a column of its own name."""

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
    """An abstract parent."""

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
    """A user's queries, which delete softly."""

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
    """Rows that are hidden, by the model's own manager; another shows them all."""

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
    """Columns with defaults of the database, and unique ones that may be NULL."""

    id = fields.IntField(primary_key=True)
    shelf = fields.IntField(db_default=3)
    one = fields.IntField(null=True, unique=True)
    two = fields.IntField(null=True, unique=True)

    class CacheMeta:
        get_key_fields_list = [("one",), ("two",)]
        filter_key_fields_list = [("shelf",)]


class Scrap(Model):
    """A model without a cache, on which nothing cached depends."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(default=0)


class Slip(Model):
    """A model that knows nothing of its cache."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)


class SlipCaches(ModelCacheManager[Slip]):
    model = Slip
    get_key_fields_list = [("number",)]
    filter_key_fields_list = [("shelf",)]


class Blank(CachedModel):
    """Nothing but defaults of the database."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(db_default=5)

    class CacheMeta:
        filter_key_fields_list = [("number",)]


class Sole(CachedModel):
    """A primary key that is a default of the database."""

    id = fields.IntField(primary_key=True, generated=False, db_default=41)
    shelf = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("shelf",)]
