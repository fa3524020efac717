"""A model of a second database, whose table has the name of a table in the first one."""

from tortoise import fields

from aiomodelcache import CachedModel


class Record(CachedModel):
    """A model with the table name and the columns of ``tests.support.models.bulk_models.Book``."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)
    pages = fields.IntField(default=0)

    class Meta:
        table = "book"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("shelf",)]
