"""Models whose columns have other types in the database than they declare."""

from decimal import Decimal

from tortoise import fields

from aiomodelcache import CachedModel, QuerysetCountCache


class Typed(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    text = fields.CharField(max_length=40)
    price = fields.DecimalField(max_digits=10, decimal_places=2, default=Decimal(0))
    ratio = fields.FloatField(default=0.0)
    at = fields.DatetimeField(null=True)

    class Meta:
        ordering = ("id",)

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("text",), ("price",), ("ratio",), ("at",)]


class TypedCount(QuerysetCountCache):
    model = Typed
    key_fields = ("text",)


class TypedById(CachedModel):
    key = fields.CharField(max_length=40, primary_key=True)
    size = fields.IntField(default=0)


class PaddedField(fields.CharField):
    """A text that is declared to be padded."""

    SQL_TYPE = "CHAR(40)"  # type: ignore[assignment]


class TypedChild(CachedModel):
    id = fields.IntField(primary_key=True)
    code = PaddedField(max_length=40, default="")
    parent = fields.ForeignKeyField("app.TypedById", related_name="children", db_constraint=False)

    class CacheMeta:
        filter_key_fields_list = [("parent",), ("code",)]
        cached_foreignkeys = ["parent"]
