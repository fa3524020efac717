"""``Owner`` of ``field_models`` with another column, as in the next release of a program."""

from tortoise import fields

from aiomodelcache import CachedModel


class Owner(CachedModel):
    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    age = fields.IntField(null=True)
