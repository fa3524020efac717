"""A model whose writes by other programs are seen within a bound."""

from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel, cached


class RelayedArtist(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class Meta:
        table = "relayed"

    class CacheMeta:
        relay = True
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]


@cached
async def relayed_by_statement(rank: int) -> int:
    found: Any = await RelayedArtist.filter(rank=rank).values_list("followers", flat=True)
    return sum(found)


@cached
async def relayed_by_lookup(pk: int) -> int:
    row = await RelayedArtist.cache.get_or_none(id=pk)
    return 0 if row is None else row.followers
