"""Models whose abstract base says that other programs write them all."""

from tortoise import fields

from aiomodelcache import CachedModel


class Shared(CachedModel):
    """The base of all models of an application."""

    id = fields.IntField(primary_key=True)

    class Meta:
        abstract = True

    class CacheMeta:
        relay = True


class Crate(Shared):
    """A model without cache settings of its own."""


class Box(Shared):
    """A model that adds to them."""

    code = fields.IntField(unique=True)

    class CacheMeta(Shared.CacheMeta):
        get_key_fields_list = [("code",)]


class Pallet(Shared):
    """A model that only this application writes."""

    class CacheMeta:
        relay = False
