"""Models of tests of result classes that read rows of other models."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel


class Host(CachedModel):
    """A row of another model than that of the result classes."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Act(CachedModel):
    """The model of the result classes."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    level = fields.IntField(default=0)
    host: Any = fields.ForeignKeyField("app.Host", related_name="acts")


class Note(Model):
    """A row of a model without a cache."""

    id = fields.IntField(primary_key=True)
