"""Models with keys whose values Python compares differently than a database: moments, times with an offset, floats."""

from typing import Any

from tortoise import fields
from tortoise.fields.base import Field

from aiomodelcache import CachedModel, QuerysetCountCache, RelatedInstanceCache, RelatedQuerysetCache


class SpelledField(Field[float], float):
    """A float that is stored as text, so that the database tells -0.0 and 0.0 apart."""

    SQL_TYPE = "VARCHAR(40)"

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return None if value is None else repr(float(value))

    def to_python_value(self, value: Any) -> Any:
        return None if value is None else float(value)


class WordsField(fields.CharField):
    """Words in a column of text, which instances hold as a list."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return value if value is None or isinstance(value, str) else " ".join(value)

    def to_python_value(self, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value


class Shift(CachedModel):
    """A row whose primary key is a moment."""

    start = fields.DatetimeField(primary_key=True)
    name = fields.CharField(max_length=20, default="")
    tags: fields.ManyToManyRelation["Tag"] = fields.ManyToManyField("app.Tag", related_name="shifts")

    class CacheMeta:
        cached_manytomany = ["tags"]


class Tag(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, default="")


class Visit(CachedModel):
    """A row that is found by each of its columns."""

    id = fields.IntField(primary_key=True)
    at = fields.DatetimeField(unique=True)
    seen = fields.DatetimeField()
    shift: fields.ForeignKeyNullableRelation[Shift] = fields.ForeignKeyField(
        "app.Shift", related_name="visits", null=True
    )
    follows: fields.OneToOneNullableRelation["Visit"] = fields.OneToOneField(
        "app.Visit", related_name="next", to_field="at", null=True
    )

    class Meta:
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("at",)]
        filter_key_fields_list = [("seen",), ("shift",)]
        cached_foreignkeys = ["shift", "follows"]


class Sight(CachedModel):
    """A row whose columns are found by text that the library does not see."""

    id = fields.IntField(primary_key=True)
    ratio = fields.FloatField(default=0.0)
    spelled: Any = SpelledField(unique=True)
    words: Any = WordsField(max_length=40, default="")

    class Meta:
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("spelled",)]
        filter_key_fields_list = [("ratio",), ("words",)]


class Tide(CachedModel):
    """A row that is found by a time with an offset from UTC."""

    id = fields.IntField(primary_key=True)
    high = fields.TimeField(unique=True)
    low = fields.TimeField()

    class Meta:
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("high",)]
        filter_key_fields_list = [("low",)]


class SeenCount(QuerysetCountCache):
    model = Visit
    key_fields = ("seen",)


class ShiftOfVisit(RelatedInstanceCache[Shift]):
    model = Visit
    key_fields = ("at",)
    relation = "shift"


class VisitsOfShift(RelatedQuerysetCache[Visit]):
    model = Shift
    key_fields = ("start",)
    relation = "visits"
