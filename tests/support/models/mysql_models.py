"""Models with the field types of ``tortoise.contrib.mysql``."""

from tortoise import fields
from tortoise.contrib.mysql.fields import UUIDField

from aiomodelcache import CachedModel


class Compressed(CachedModel):
    """UUIDs in 16 bytes."""

    id = UUIDField(primary_key=True)
    name = fields.CharField(max_length=40, default="")
