"""A relayed model of another app, on another connection."""

from tortoise import fields

from aiomodelcache import CachedModel


class Elsewhere(CachedModel):
    id = fields.IntField(primary_key=True)

    class CacheMeta:
        relay = True
