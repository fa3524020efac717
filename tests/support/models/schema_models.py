"""Models in two schemas of PostgreSQL that have a table of the same name."""

from tortoise import fields

from aiomodelcache import CachedModel


class House(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    street = fields.IntField(default=0)

    class Meta:
        schema = "north"
        table = "house"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("street",)]


class SouthernHouse(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    street = fields.IntField(default=0)

    class Meta:
        schema = "south"
        table = "house"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("street",)]


class Room(CachedModel):
    """A model whose rows are deleted with their house."""

    id = fields.IntField(primary_key=True)
    house: fields.ForeignKeyRelation[House] = fields.ForeignKeyField("app.House", related_name="rooms")

    class Meta:
        schema = "south"

    class CacheMeta:
        filter_key_fields_list = [("house",)]
