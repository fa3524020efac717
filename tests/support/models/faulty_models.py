"""Models with the faults that ``aiomodelcache doctor`` looks for, each beside a healthy one."""

from typing import Any

from tortoise import fields
from tortoise.connection import get_connection
from tortoise.manager import Manager
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel, QuerysetCountCache


class Stall(CachedModel):
    """A model with another model of its table."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(default=0)


class Around(CachedModel):
    """A model whose ``save`` goes round Tortoise's."""

    id = fields.IntField(primary_key=True)

    async def save(self, *args: Any, **kwargs: Any) -> None:
        await get_connection("default").execute_query(f"INSERT INTO {self._meta.db_table} VALUES (?)", [self.id])


class Silent(CachedModel):
    """A model that sends no signals."""

    id = fields.IntField(primary_key=True)

    async def _post_save(self, *args: Any, **kwargs: Any) -> None:
        pass


class SoftlyDeleted(CachedModel):
    """A model with overridden methods that write by Tortoise's."""

    id = fields.IntField(primary_key=True)
    deleted = fields.BooleanField(default=False)

    async def save(self, *args: Any, **kwargs: Any) -> None:
        await super().save(*args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> None:
        self.deleted = True
        await self.save()

    async def _pre_save(self, *args: Any, **kwargs: Any) -> None:
        await super()._pre_save(*args, **kwargs)


class Fixed(Manager):
    """A manager whose ``get_queryset`` is an attribute of the instance."""

    def __init__(self, model: Any = None) -> None:
        super().__init__(model)
        self.get_queryset = lambda: QuerySet(Managed)


class RawUpdates(QuerySet[Any]):
    """Querysets whose ``update`` goes round Tortoise's."""

    def update(self, **kwargs: Any) -> Any:
        return get_connection("default").execute_query("UPDATE managed SET number = 1")


class OfRawUpdates(Manager):
    """A manager of ``RawUpdates``."""

    def get_queryset(self) -> QuerySet[Any]:
        return RawUpdates(self._model)


class Ordered(QuerySet[Any]):
    """Querysets that write by Tortoise's methods."""

    def update(self, **kwargs: Any) -> Any:
        return super().update(**kwargs)


class OfOrdered(Manager):
    """A manager of ``Ordered``."""

    def get_queryset(self) -> QuerySet[Any]:
        return Ordered(self._model)


class Managed(CachedModel):
    """A model with managers."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(default=0)
    fixed = Fixed()
    raw = OfRawUpdates()
    ordered = OfOrdered()


class Named(CachedModel):
    """A model with lists by a text, which the tests let compare loosely."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    number = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("name",), ("number",)]


class NamedCount(QuerysetCountCache):
    """A result by the same text."""

    model = Named
    key_fields = ("name",)
