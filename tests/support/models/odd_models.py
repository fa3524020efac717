"""Models with keys by columns of many types, to be looked up by values that no row can have."""

from tortoise import fields
from tortoise.migrations.constraints import UniqueConstraint

from aiomodelcache import CachedModel, QuerysetCountCache, QuerysetExistsCache


class Part(CachedModel):
    """A row with a key by each type of number and text."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    note = fields.TextField(default="")
    price = fields.DecimalField(max_digits=10, decimal_places=2, default=0)
    exact = fields.DecimalField(max_digits=20, decimal_places=17, default=0)
    ratio = fields.FloatField(default=0.0)
    small = fields.SmallIntField(default=0)
    big = fields.BigIntField(default=0)
    maker: fields.ForeignKeyNullableRelation["Part"] = fields.ForeignKeyField(
        "app.Part", related_name="parts", null=True
    )

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("note",), ("price",), ("exact",), ("ratio",), ("small",), ("big",), ("maker",)]


class HasParts(QuerysetExistsCache):
    model = Part
    key_fields = ("small",)


class PartCount(QuerysetCountCache):
    model = Part
    key_fields = ("small",)


class Draft(CachedModel):
    """Unique among published rows only."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField()
    published = fields.BooleanField(default=False)

    class Meta:
        constraints = [UniqueConstraint(fields=("number",), name="published_number", condition="published")]

    class CacheMeta:
        get_key_fields_list = [("number",)]


class Coin(CachedModel):
    id = fields.IntField(primary_key=True)
    value = fields.DecimalField(max_digits=10, decimal_places=2, unique=True)

    class CacheMeta:
        get_key_fields_list = [("value",)]
