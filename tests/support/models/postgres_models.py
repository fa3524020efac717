"""Models with the field types of ``tortoise.contrib.postgres``."""

from typing import Any

from tortoise import fields
from tortoise.contrib.postgres.fields import ArrayField, TSVectorField

from aiomodelcache import CachedModel


class Arrays(CachedModel):
    id = fields.UUIDField(primary_key=True)
    numbers: Any = ArrayField("int", default=[])
    numbers_null: Any = ArrayField("bigint", null=True)
    words: Any = ArrayField("text", null=True)
    prices: Any = ArrayField("numeric(10,3)", null=True)
    moments: Any = ArrayField("timestamptz", null=True)
    keys: Any = ArrayField("uuid", null=True)
    grid: Any = ArrayField("uuid", null=True)
    title = fields.TextField(default="")
    search: Any = TSVectorField(source_fields=("title",), config="english", null=True)
