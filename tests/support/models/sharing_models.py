"""Further models of the tables of ``shared_models``, cached and not, which name their columns alike or otherwise."""

from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel
from tests.support.models.shared_models import Place


class PlainPlace(Model):
    """An uncached model with the same columns."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    city = fields.IntField(default=1)
    score = fields.IntField(db_default=1)

    class Meta:
        table = "place"


class PlaceCard(CachedModel):
    """A cached model with a part of the columns."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    city = fields.IntField(default=1)

    class Meta:
        table = "place"
        ordering = ["-number"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("city",)]


class Visible(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(city__gt=0)


class VisiblePlace(CachedModel):
    """A cached model with the same columns, whose manager hides rows."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    city = fields.IntField(default=1)
    score = fields.IntField(db_default=1)

    class Meta:
        table = "place"
        manager = Visible()

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("city",)]


class RenamedPlace(Model):
    """An uncached model that names the columns otherwise."""

    id = fields.IntField(primary_key=True)
    code = fields.IntField(unique=True, source_field="number")
    town = fields.IntField(default=1, source_field="city")

    class Meta:
        table = "place"


class NumberedPlace(Model):
    """An uncached model with another primary key."""

    number = fields.IntField(primary_key=True, generated=False)
    city = fields.IntField(default=1)

    class Meta:
        table = "place"


class BarePlace(Model):
    """An uncached model without the columns of the keys."""

    id = fields.IntField(primary_key=True)
    score = fields.IntField(db_default=1)

    class Meta:
        table = "place"


class PlainVisit(Model):
    """An uncached model with the same columns."""

    id = fields.IntField(primary_key=True)
    place: fields.ForeignKeyRelation[Place] = fields.ForeignKeyField("app.Place", related_name="plain_visits")
    text = fields.CharField(max_length=16, default="")

    class Meta:
        table = "visit"


class VisitText(CachedModel):
    """A cached model without the foreign key by which its rows are deleted."""

    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=16, default="")

    class Meta:
        table = "visit"
