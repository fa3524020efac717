"""Models of a catalogue, twice: with the cache and, with the same columns, without it for the ORM and the peers."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel


class RegionColumns(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)

    class Meta:
        abstract = True


class OwnerColumns(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)

    class Meta:
        abstract = True


class ProductColumns(Model):
    """Columns of a product, ten with the foreign key: numbers, text, Decimal, UUID, JSON and an aware datetime."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=100)
    text = fields.TextField()
    price = fields.DecimalField(max_digits=10, decimal_places=2)
    token = fields.UUIDField()
    details = fields.JSONField[dict[str, Any]]()
    created = fields.DatetimeField()
    stock = fields.IntField()

    class Meta:
        abstract = True


class Region(RegionColumns, CachedModel):
    pass


class Owner(OwnerColumns, CachedModel):
    region = fields.ForeignKeyField("app.Region", related_name="owners")
    region_id: int

    class CacheMeta:
        cached_foreignkeys = ["region"]


class Product(ProductColumns, CachedModel):
    owner = fields.ForeignKeyField("app.Owner", related_name="products")
    owner_id: int

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("owner",)]
        cached_foreignkeys = ["owner"]
        order_by = ["id"]


class ArticleColumns(Model):
    id = fields.IntField(primary_key=True)
    section = fields.IntField()
    words = fields.IntField(default=0)
    views = fields.IntField(default=0)

    class Meta:
        abstract = True


class Article(ArticleColumns, CachedModel):
    """A row of which any write ends the queries of its table."""


class ViewedArticle(ArticleColumns, CachedModel):
    """The same row, of which writes of ``views`` end no query."""

    class CacheMeta:
        queries_ignore = ["views"]


class GroupedArticle(ArticleColumns, CachedModel):
    """The same row, whose writes end the queries of its section, and those of no section."""

    class CacheMeta:
        queries_by = ["section"]


class PlainRegion(RegionColumns):
    pass


class PlainOwner(OwnerColumns):
    region = fields.ForeignKeyField("app.PlainRegion", related_name="owners")
    region_id: int


class PlainProduct(ProductColumns):
    owner = fields.ForeignKeyField("app.PlainOwner", related_name="products")
    owner_id: int
