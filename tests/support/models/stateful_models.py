"""The models of the state machine: with every kind of key, and so few values that writes collide."""

from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import (
    CachedModel,
    InvalidationType,
    QuerysetCountCache,
    QuerysetExistsCache,
    RelatedInstanceCache,
    RelatedQuerysetCache,
    ResultCache,
    ValueCache,
    cached,
)

ALLOWTIME = 10.0
"""Seconds for which classes with ``allowtime`` may return stale copies."""


class Numbered(CachedModel):
    """The columns of three models with different invalidation policies."""

    id = fields.IntField(primary_key=True, generated=False)
    number = fields.IntField(null=True, unique=True)
    team = fields.IntField(default=1)
    place = fields.IntField(default=0)

    class Meta:
        abstract = True


class Label(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    place = fields.IntField(default=0)
    owner: fields.ForeignKeyNullableRelation["Item"] = fields.ForeignKeyField(
        "app.Item", related_name="owned", null=True, on_delete=fields.SET_NULL
    )
    owner_id: int | None

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        cached_foreignkeys = ["owner"]
        cached_manytomany = ["items"]
        queries_by = ["owner"]


class Item(Numbered):
    labels: fields.ManyToManyRelation[Label] = fields.ManyToManyField(
        "app.Label", related_name="items", through="item_label", forward_key="label_id", backward_key="item_id"
    )

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]
        cached_manytomany = ["labels"]
        write_through = True


class Eager(Numbered):
    """A model whose writers fill its entries again."""

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]
        invalidation = InvalidationType.RESET
        write_through = True
        queries_by = ["team"]


class Loose(Numbered):
    """A model whose stale copies may be returned for ``ALLOWTIME``."""

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]
        invalidation = InvalidationType.DYNAMIC
        allowtime = ALLOWTIME
        queries_ignore = ["place"]


class Setting(Model):
    """A model without a cache. Values computed from it are not tracked (``OFF``), but invalidated by hand."""

    id = fields.IntField(primary_key=True, generated=False)
    value = fields.IntField()


class TeamSize(QuerysetCountCache):
    model = Item
    key_fields = ("team",)


class HasItems(QuerysetExistsCache):
    model = Item
    key_fields = ("team",)


class Places(ResultCache[list[Any]]):
    model = Item
    key_fields = ("team",)

    async def get_result(self, team: int) -> list[Any]:
        return [[item.id, item.place] for item in await Item.filter(team=team)]


class EagerPlaces(ResultCache[list[Any]]):
    model = Eager
    key_fields = ("team",)
    invalidation = InvalidationType.RESET

    async def get_result(self, team: int) -> list[Any]:
        return [[item.id, item.place] for item in await Eager.filter(team=team)]


class LoosePlaces(ResultCache[list[Any]]):
    model = Loose
    key_fields = ("team",)
    invalidation = InvalidationType.DYNAMIC
    allowtime = ALLOWTIME

    async def get_result(self, team: int) -> list[Any]:
        return [[item.id, item.place] for item in await Loose.filter(team=team)]


class LabelsOf(RelatedQuerysetCache[Label]):
    model = Item
    key_fields = ("id",)
    relation = "labels"


class LabelledLikewise(RelatedQuerysetCache[Item]):
    model = Item
    key_fields = ("id",)
    relation = "labels__items"


class OwnerOf(RelatedInstanceCache[Item]):
    model = Label
    key_fields = ("id",)
    relation = "owner"


class SettingOf(ValueCache[int | None]):
    invalidation = InvalidationType.OFF

    async def get_value(self, pk: int) -> int | None:
        return await value_of(pk)


class LooseSetting(ValueCache[int | None]):
    invalidation = InvalidationType.OFF
    allowtime = ALLOWTIME

    async def get_value(self, pk: int) -> int | None:
        return await value_of(pk)


@cached(invalidation=InvalidationType.OFF)
async def setting(pk: int) -> int | None:
    return await value_of(pk)


@cached
async def members(team: int) -> list[list[Any]]:
    """Derives a result from lookups: the items of a team, their labels, and the places of the labels' owners."""
    items = await Item.cache.filter(team=team)
    found: list[list[Any]] = []
    for item in items:
        labels = sorted(await item.labels, key=lambda label: label.id)
        owners = [await label.owner for label in labels]
        found.append(
            [
                item.id,
                item.place,
                [[label.id, owner and owner.place] for label, owner in zip(labels, owners, strict=True)],
            ]
        )
    return found


@cached
async def overview() -> list[list[Any]]:
    """Derives a result from statements: all items, with their links from both tables."""
    items = await Item.all().prefetch_related("labels", "owned")
    return [
        [
            item.id,
            item.number,
            item.place,
            sorted(each.id for each in item.labels),
            sorted(each.id for each in item.owned),
        ]
        for item in items
    ]


@cached
async def report() -> list[Any]:
    """Derives a result from other results."""
    return [[await members(team), await TeamSize(team)] for team in (1, 2)] + [await overview()]


async def value_of(pk: int) -> int | None:
    """Returns the value in the database."""
    row = await Setting.get_or_none(id=pk)
    return row.value if row is not None else None
