"""Models whose declarations set durations."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, InvalidationType, ModelCacheManager, QuerysetCountCache


class Parcel(CachedModel):
    id = fields.IntField(primary_key=True)
    weight = fields.IntField(default=0)


class Depot(Model):
    id = fields.IntField(primary_key=True)


class DepotCaches(ModelCacheManager[Depot]):
    model = Depot


class ParcelCount(QuerysetCountCache):
    model = Parcel
    key_fields = ("weight",)
    invalidation = InvalidationType.DYNAMIC
