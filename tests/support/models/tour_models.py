"""Models with every kind of relation that has a column: two levels, one-to-one, to a field other than the key."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, ModelCacheManager


class Country(CachedModel):
    code = fields.CharField(max_length=2, primary_key=True)
    number = fields.IntField(unique=True)
    name = fields.CharField(max_length=64)

    class CacheMeta:
        get_key_fields_list = [("number",)]


class City(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)
    country: fields.ForeignKeyNullableRelation[Country] = fields.ForeignKeyField(
        "app.Country", to_field="number", related_name="cities", null=True
    )


class Hall(Model):
    """A plain model with a separate manager."""

    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    city: fields.ForeignKeyRelation[City] = fields.ForeignKeyField("app.City", related_name="halls")


class HallCaches(ModelCacheManager[Hall]):
    model = Hall
    filter_key_fields_list = [("city",)]


class Band(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    home: fields.ForeignKeyNullableRelation[City] = fields.ForeignKeyField("app.City", related_name="bands", null=True)
    rival: fields.ForeignKeyNullableRelation["Band"] = fields.ForeignKeyField(
        "app.Band", related_name="rivals", null=True
    )

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Sponsor(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)


class Show(CachedModel):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=64, default="")
    seats = fields.IntField(default=0)
    sold = fields.IntField(default=0)
    price = fields.DecimalField(max_digits=6, decimal_places=2, default=0)
    changed = fields.DatetimeField(auto_now=True)
    created = fields.DatetimeField(auto_now_add=True)
    band: fields.ForeignKeyRelation[Band] = fields.ForeignKeyField("app.Band", related_name="shows")
    hall: fields.ForeignKeyNullableRelation[Hall] = fields.ForeignKeyField("app.Hall", related_name="shows", null=True)
    opening: fields.OneToOneNullableRelation[City] = fields.OneToOneField(
        "app.City", related_name="opening_of", null=True
    )
    sponsor: fields.ForeignKeyNullableRelation[Sponsor] = fields.ForeignKeyField("app.Sponsor", null=True)
    guests: fields.ManyToManyRelation[Band] = fields.ManyToManyField("app.Band", related_name="guest_of")

    class CacheMeta:
        filter_key_fields_list = [("band",), ("hall", "seats")]
        cached_foreignkeys = ["band", "hall"]
