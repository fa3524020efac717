"""A relayed model with a generated key."""

from tortoise import fields

from aiomodelcache import CachedModel


class Elsewhere(CachedModel):
    id = fields.IntField(primary_key=True)
    size = fields.IntField(default=0)

    class CacheMeta:
        relay = True
