"""A relayed model of an app of its own, in another database than that of ``relayed_models``."""

from tortoise import fields

from aiomodelcache import CachedModel


class Distance(CachedModel):
    """A row that another program writes."""

    id = fields.IntField(primary_key=True)
    size = fields.IntField(default=0)

    class CacheMeta:
        relay = True
