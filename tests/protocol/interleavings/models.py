"""One model under each invalidation policy."""

from tortoise import fields

from aiomodelcache import CachedModel, InvalidationType, ResultCache

ALLOWTIME = 10


class Artist(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]


class DatedArtist(CachedModel):
    """An artist that may be returned from a stale copy."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class Meta:
        table = "dated"

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]
        invalidation = InvalidationType.DYNAMIC
        allowtime = ALLOWTIME


class RefilledArtist(CachedModel):
    """An artist that is filled again after each write."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class Meta:
        table = "refilled"

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]
        invalidation = InvalidationType.RESET


class KeptArtist(CachedModel):
    """An artist whose unchanged saves keep its entries."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class Meta:
        table = "kept"

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]
        keep_unchanged = True


class RankedArtist(CachedModel):
    """An artist with computed results."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class Meta:
        table = "ranked"

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("rank",)]


class Ranking(ResultCache[list[tuple[int, str, int, int]]]):
    """A result with all columns of the artists of a rank."""

    model = RankedArtist
    key_fields = ("rank",)

    async def get_result(self, rank: int) -> list[tuple[int, str, int, int]]:
        found = await RankedArtist.filter(rank=rank).values_list("id", "name", "rank", "followers")
        return [tuple(row) for row in found]
