"""Models whose foreign keys are set to a default on delete, which MySQL does not support."""

from tortoise import fields
from tortoise.fields import SET_DEFAULT

from aiomodelcache import CachedModel


class Box(CachedModel):
    id = fields.IntField(primary_key=True)


class Toy(CachedModel):
    """A model with one foreign key default in the database and one in Python only."""

    id = fields.IntField(primary_key=True)
    box: fields.ForeignKeyRelation[Box] = fields.ForeignKeyField(
        "app.Box", related_name="toys", on_delete=SET_DEFAULT, db_default=1
    )
    spare: fields.ForeignKeyNullableRelation[Box] = fields.ForeignKeyField(
        "app.Box", related_name="spares", on_delete=SET_DEFAULT, default=1, null=True
    )

    class CacheMeta:
        filter_key_fields_list = [("box",), ("spare",)]
