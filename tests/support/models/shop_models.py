"""The application of tests of the command line: models, cache classes and cached functions."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, QuerysetCache, QuerysetCountCache, ValueCache, cached


class Seller(CachedModel):
    """The organizer of listings."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, unique=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Mark(CachedModel):
    """A row at the other end of a cached many-to-many relation."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Listing(CachedModel):
    """A row that is found by every kind of key."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    title = fields.CharField(max_length=40, default="")
    public = fields.BooleanField(default=True)
    seller: Any = fields.ForeignKeyField("app.Seller", related_name="listings")
    other: Any = fields.ForeignKeyField("app.Seller", related_name="others", null=True)
    marks: Any = fields.ManyToManyField("app.Mark", related_name="listings")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("seller",), ("public",), ("other",)]
        cached_foreignkeys = ["seller"]
        cached_manytomany = ["marks"]


class Order(Model):
    """A row that this library does not cache."""

    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=40, default="")
    price = fields.DecimalField(max_digits=8, decimal_places=2, default=0)
    seller: Any = fields.ForeignKeyField("app.Seller", related_name="orders", null=True)
    updated = fields.DatetimeField(auto_now=True)

    class Meta:
        table = "shop_order"


class Latest(QuerysetCache[Listing]):
    model = Listing
    key_fields = ("seller",)
    order_by = ["-id"]
    limit = 3


class ListingCount(QuerysetCountCache):
    model = Listing
    key_fields = ("seller",)


@cached
async def titles(seller: int) -> list[str]:
    found = await Seller.cache.get(id=seller)
    return [listing.title for listing in await Listing.filter(seller_id=found.id).order_by("id")]


class Rate(ValueCache[int]):
    async def get_value(self, base: str, times: int = 1) -> int:
        return 7 * times


async def seller_copy(pk: int) -> dict[str, Any]:
    """Returns the columns of a seller as a cache of another library would."""
    return {"id": pk, "name": "kim"}
