"""Foreign keys that fall back to a default. MySQL has no ON DELETE SET DEFAULT."""

from tortoise import fields
from tortoise.fields import SET_DEFAULT

from aiomodelcache import CachedModel


class Box(CachedModel):
    id = fields.IntField(primary_key=True)


class Toy(CachedModel):
    """One default is the database's; the other is Python's own, and the database has none."""

    id = fields.IntField(primary_key=True)
    box: fields.ForeignKeyRelation[Box] = fields.ForeignKeyField(
        "app.Box", related_name="toys", on_delete=SET_DEFAULT, db_default=1
    )
    spare: fields.ForeignKeyNullableRelation[Box] = fields.ForeignKeyField(
        "app.Box", related_name="spares", on_delete=SET_DEFAULT, default=1, null=True
    )

    class CacheMeta:
        filter_key_fields_list = [("box",), ("spare",)]
