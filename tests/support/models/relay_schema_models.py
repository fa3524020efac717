"""Relayed models in two schemas of PostgreSQL that have a table of the same name, one of them of odd names."""

from tortoise import fields

from aiomodelcache import CachedModel


class House(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    number = fields.IntField(unique=True)

    class Meta:
        schema = "north"
        table = "house"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        relay = True


class OddHouse(CachedModel):
    """A row whose columns are named like variables, and with quotes."""

    id = fields.IntField(primary_key=True, generated=False)
    number = fields.IntField(unique=True, source_field="num\"b'er")
    place = fields.IntField(null=True, source_field="xid")

    class Meta:
        schema = 'So"uth'
        table = "house"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("place",)]
        relay = True
