"""A second model of a table of ``faulty_models``, apart because Tortoise creates no table twice."""

from tortoise import fields

from aiomodelcache import CachedModel


class StallCard(CachedModel):
    """A model with a part of the columns."""

    id = fields.IntField(primary_key=True)

    class Meta:
        table = "stall"
