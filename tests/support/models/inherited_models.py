"""Models that inherit cache settings, and managers that inherit from managers."""

from typing import ClassVar, TypeVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, ModelCacheManager
from aiomodelcache.query.lookups import FilterQuery, GetQuery

M = TypeVar("M", bound=Model)


class Owner(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, default="")


class Named(CachedModel):
    """The first abstract level."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True)
    group = fields.IntField(default=0)

    class Meta:
        abstract = True

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("group",)]
        timeout = 60
        negative_timeout = 60


class Owned(Named):
    """The second abstract level, which adds to the inherited settings."""

    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField("app.Owner", null=True)

    class Meta:
        abstract = True

    class CacheMeta(Named.CacheMeta):
        filter_key_fields_list = [*Named.CacheMeta.filter_key_fields_list, ("owner",)]
        cached_foreignkeys = ["owner"]


class Plain(Named):
    """A model that inherits all settings."""


class Car(Owned):
    """A model that inherits from both levels."""


class Boat(Owned):
    """A model that extends the second level and overrides a setting."""

    length = fields.IntField(default=0)

    class CacheMeta(Owned.CacheMeta):
        get_key_fields_list = [*Named.CacheMeta.get_key_fields_list, ("length", "name")]
        timeout = 30
        order_by = ["-length"]


class Bike(Owned):
    """A model that replaces all inherited settings."""

    class CacheMeta:
        filter_key_fields_list = [("name", "group")]


class Truck(Car):
    """A child of a concrete model, with a table of its own."""

    load = fields.IntField(default=0)


class Grouped(ModelCacheManager[M]):
    """The first level of managers, without a model: a setting and a method."""

    timeout = 120

    def of_group(self, group: int) -> FilterQuery[M]:
        return self.filter(group=group)


class Ranked(Grouped[M]):
    """The second level of managers: a key that all its models have, and a method that calls the first level."""

    get_key_fields_list = [("rank",)]

    def first(self, group: int) -> GetQuery[M]:
        assert self.of_group(group) is not None
        return self.get(rank=1)


class Team(Model):
    """A plain model with a separate manager."""

    id = fields.IntField(primary_key=True)
    rank = fields.IntField(unique=True)
    group = fields.IntField(default=0)
    cache: ClassVar["TeamCaches"]


class TeamCaches(Ranked[Team]):
    model = Team
    filter_key_fields_list = [("group",)]


class Player(CachedModel):
    """A model with keys of its own, and a manager that inherits keys."""

    id = fields.IntField(primary_key=True)
    rank = fields.IntField(unique=True)
    group = fields.IntField(default=0)
    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField("app.Owner", null=True)
    cache: ClassVar["PlayerCaches"]

    class CacheMeta:
        filter_key_fields_list = [("group",)]
        order_by = ["rank"]


class PlayerCaches(Ranked[Player]):
    model = Player
    cached_foreignkeys = ["owner"]
    filter_key_fields_list = [("owner",)]
    timeout = 240

    def first(self, group: int) -> GetQuery[Player]:
        return super().first(group + 1)
