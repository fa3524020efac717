"""Two models that the state machine writes: found in every way, by values so few that writes meet each other."""

from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel, QuerysetCountCache, QuerysetExistsCache, RelatedQuerysetCache, ResultCache


class Label(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    place = fields.IntField(default=0)

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        cached_manytomany = ["items"]


class Item(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    number = fields.IntField(null=True, unique=True)
    team = fields.IntField(default=1)
    place = fields.IntField(default=0)
    labels: fields.ManyToManyRelation[Label] = fields.ManyToManyField(
        "app.Label", related_name="items", through="item_label", forward_key="label_id", backward_key="item_id"
    )

    class Meta:
        ordering = ["place", "id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]
        cached_manytomany = ["labels"]


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


class LabelsOf(RelatedQuerysetCache[Label]):
    model = Item
    key_fields = ("id",)
    relation = "labels"


class LabelledLikewise(RelatedQuerysetCache[Item]):
    model = Item
    key_fields = ("id",)
    relation = "labels__items"
