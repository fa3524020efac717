"""A relayed model of an app of its own, which no other test loads: Tortoise binds a module to one app."""

from tortoise import fields

from aiomodelcache import CachedModel


class Apart(CachedModel):
    id = fields.IntField(primary_key=True)

    class CacheMeta:
        relay = True
