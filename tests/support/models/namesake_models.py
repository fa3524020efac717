"""A model with the name and table name of one in ``result_models``, for another app and database."""

from tortoise import fields

from aiomodelcache import CachedModel


class Club(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=32, default="")
