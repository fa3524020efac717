"""Models that are declared cached in every way, and one that is not, to write while no cache is open."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, InstanceCache, ModelCacheManager


class Tag(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    place = fields.IntField(default=0)


class Post(CachedModel):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=8, default="")
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="posts")

    class CacheMeta:
        cached_manytomany = ["tags"]


class Note(Model):
    """A plain model with a separate manager."""

    id = fields.IntField(primary_key=True)
    page = fields.IntField(default=1)


class NoteCaches(ModelCacheManager[Note]):
    model = Note


class Sheet(Model):
    """A plain model with a cache class."""

    id = fields.IntField(primary_key=True)
    size = fields.IntField(default=4)


class SheetById(InstanceCache[Sheet]):
    model = Sheet
    key_fields = ("id",)


class Scrap(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)
    size = fields.IntField(default=4)
