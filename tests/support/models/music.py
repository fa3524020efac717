"""Models with features that ``models`` lacks: JSON, a default order, keys declared in two places, cache classes."""

from typing import ClassVar

from tortoise import fields

from aiomodelcache import CachedModel, InstanceCache, ModelCacheManager, QuerysetCache
from aiomodelcache.query.lookups import FilterQuery


class Artist(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    rank = fields.IntField(null=True)
    followers = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("name",), ("rank",)]
        filter_key_fields_list = [("rank",)]


class Album(CachedModel):
    id = fields.IntField(primary_key=True)
    barcode = fields.BigIntField(unique=True)
    artist: fields.ForeignKeyRelation[Artist] = fields.ForeignKeyField("app.Artist", related_name="albums")
    producer: fields.ForeignKeyNullableRelation[Artist] = fields.ForeignKeyField(
        "app.Artist", related_name="produced", null=True
    )
    number = fields.IntField(default=1)
    year = fields.IntField(default=2000)
    notes: fields.Field[dict[str, list[int]]] = fields.JSONField(default=dict)

    class Meta:
        unique_together = [("artist", "number")]

    class CacheMeta:
        get_key_fields_list = [("artist", "number")]
        filter_key_fields_list = [("artist",), ("artist", "year"), ("producer",)]
        cached_foreignkeys = ["artist", "producer"]
        order_by = ["-year", "id"]


class AlbumCaches(ModelCacheManager[Album]):
    model = Album
    get_key_fields_list = [("barcode",)]

    def of_the_nineties(self, artist: Artist) -> FilterQuery[Album]:
        return self.filter(artist=artist, year=1999)


class AlbumByNumber(InstanceCache[Album]):
    model = Album
    key_fields = ("artist", "number")


class AlbumById(InstanceCache[Album]):
    model = Album
    key_fields = ("id",)


class AlbumOfYear(InstanceCache[Album]):
    """A lookup by a key that is not unique."""

    model = Album
    key_fields = ("year",)


class NewestAlbums(QuerysetCache[Album]):
    model = Album
    key_fields = ("artist",)
    order_by: ClassVar = ["-year", "id"]
    limit = 2


class AlbumsOfYear(QuerysetCache[Album]):
    model = Album
    key_fields = ("artist", "year")
