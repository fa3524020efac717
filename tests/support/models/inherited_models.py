"""Models whose caches come from parents, and managers that come from managers."""

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
    """The first level, abstract."""

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
    """The second, abstract too: adds to what it inherits."""

    owner: fields.ForeignKeyNullableRelation[Owner] = fields.ForeignKeyField("app.Owner", null=True)

    class Meta:
        abstract = True

    class CacheMeta(Named.CacheMeta):
        filter_key_fields_list = [*Named.CacheMeta.filter_key_fields_list, ("owner",)]
        cached_foreignkeys = ["owner"]


class Plain(Named):
    """Inherits all."""


class Car(Owned):
    """Inherits from both levels."""


class Boat(Owned):
    """Extends the second level and overrides a setting."""

    length = fields.IntField(default=0)

    class CacheMeta(Owned.CacheMeta):
        get_key_fields_list = [*Named.CacheMeta.get_key_fields_list, ("length", "name")]
        timeout = 30
        order_by = ["-length"]


class Bike(Owned):
    """Takes nothing over."""

    class CacheMeta:
        filter_key_fields_list = [("name", "group")]


class Truck(Car):
    """A child of a model that has rows itself; its table is its own."""

    load = fields.IntField(default=0)


class Grouped(ModelCacheManager[M]):
    """Managers' first level, without a model: a setting and a method."""

    timeout = 120

    def of_group(self, group: int) -> FilterQuery[M]:
        return self.filter(group=group)


class Ranked(Grouped[M]):
    """The second: a key that all its models have, and a method that calls the first's."""

    get_key_fields_list = [("rank",)]

    def first(self, group: int) -> GetQuery[M]:
        assert self.of_group(group)
        return self.get(rank=1)


class Team(Model):
    """A model that knows nothing of the cache."""

    id = fields.IntField(primary_key=True)
    rank = fields.IntField(unique=True)
    group = fields.IntField(default=0)
    cache: ClassVar["TeamCaches"]


class TeamCaches(Ranked[Team]):
    model = Team
    filter_key_fields_list = [("group",)]


class Player(CachedModel):
    """A model with keys of its own and a manager that has some from its bases."""

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
