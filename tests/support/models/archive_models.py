"""Models of a second database, and models in schemas of one: their tables are called like those of others."""

from tortoise import fields

from aiomodelcache import CachedModel


class Record(CachedModel):
    """A table called like that of ``tests.support.models.bulk_models.Book``, with the same columns."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    shelf = fields.IntField(default=0)
    pages = fields.IntField(default=0)

    class Meta:
        table = "book"

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("shelf",)]
