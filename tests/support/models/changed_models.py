"""``Owner`` of ``field_models`` as the next release of the same program knows it: with one column more."""

from tortoise import fields

from aiomodelcache import CachedModel


class Owner(CachedModel):
    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    age = fields.IntField(null=True)
