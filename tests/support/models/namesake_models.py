"""A model with the name, and the table, of one of ``result_models``; for an app and a database of its own."""

from tortoise import fields

from aiomodelcache import CachedModel


class Club(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=32, default="")
