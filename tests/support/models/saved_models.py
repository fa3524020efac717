"""Models whose overridden ``save`` or listeners change the columns that are written."""

from collections.abc import Iterable
from typing import Any

from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError
from tortoise.models import Model
from tortoise.signals import pre_save

from aiomodelcache import CachedModel, ModelCacheManager, QuerysetCountCache


class Columns(Model):
    id = fields.IntField(primary_key=True)
    a = fields.CharField(max_length=20)
    b = fields.CharField(max_length=20, default="")
    c = fields.CharField(max_length=20, default="")

    class Meta:
        abstract = True


class Narrowing(Columns):
    """A model whose ``save`` writes only ``a``."""

    async def save(
        self,
        using_db: BaseDBAsyncClient | None = None,
        update_fields: Iterable[str] | None = None,
        force_create: bool = False,
        force_update: bool = False,
    ) -> None:
        await super().save(using_db, ["a"] if self._saved_in_db else update_fields, force_create, force_update)


class Adding(Columns):
    """A model whose ``save`` always writes ``a``, too."""

    async def save(
        self,
        using_db: BaseDBAsyncClient | None = None,
        update_fields: Iterable[str] | None = None,
        force_create: bool = False,
        force_update: bool = False,
    ) -> None:
        wanted = None if update_fields is None else [*update_fields, "a"]
        await super().save(using_db, wanted, force_create, force_update)


class Heard(Columns, CachedModel):
    """A model whose listener adds ``a`` to the written columns."""

    class CacheMeta:
        filter_key_fields_list = [("a", "b")]


@pre_save(Heard)
async def add_a(model: Any, instance: Heard, client: Any, update_fields: list[str] | None) -> None:
    if update_fields is not None:
        update_fields.append("a")


class Insisting(Model):
    """A model whose ``save`` retries with another slug if its slug is taken."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=20, unique=True)

    async def save(
        self,
        using_db: BaseDBAsyncClient | None = None,
        update_fields: Iterable[str] | None = None,
        force_create: bool = False,
        force_update: bool = False,
    ) -> None:
        try:
            await super().save(using_db, update_fields, force_create, force_update)
        except IntegrityError:
            self.slug += "-2"
            await super().save(using_db, update_fields, force_create, force_update)


class NarrowingCaches(ModelCacheManager[Narrowing]):
    model = Narrowing
    filter_key_fields_list = [("a", "b")]


class AddingCaches(ModelCacheManager[Adding]):
    model = Adding
    filter_key_fields_list = [("a", "b")]


class InsistingCaches(ModelCacheManager[Insisting]):
    model = Insisting
    get_key_fields_list = [("slug",)]


class AddingCount(QuerysetCountCache):
    model = Adding
    key_fields = ("a",)


class HeardCount(QuerysetCountCache):
    model = Heard
    key_fields = ("a",)
