"""Cached models, each with a table that the models of ``sharing_models`` share."""

from tortoise import fields

from aiomodelcache import CachedModel, QuerysetCountCache


class Label(CachedModel):
    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=16, default="")

    class CacheMeta:
        cached_manytomany = ["places"]


class Place(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    city = fields.IntField(default=1)
    score = fields.IntField(db_default=1)
    labels: fields.ManyToManyRelation[Label] = fields.ManyToManyField(
        "app.Label", related_name="places", through="place_label", forward_key="label_id", backward_key="place_id"
    )

    class Meta:
        table = "place"
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("city",)]
        cached_manytomany = ["labels"]


class PlacesOfCity(QuerysetCountCache):
    model = Place
    key_fields = ("city",)


class Visit(CachedModel):
    id = fields.IntField(primary_key=True)
    place: fields.ForeignKeyRelation[Place] = fields.ForeignKeyField("app.Place", related_name="visits")
    text = fields.CharField(max_length=16, default="")

    class Meta:
        table = "visit"
        ordering = ["id"]

    class CacheMeta:
        filter_key_fields_list = [("place",)]


class Review(CachedModel):
    """Refers to places by a column that is not their primary key."""

    id = fields.IntField(primary_key=True)
    place: fields.ForeignKeyNullableRelation[Place] = fields.ForeignKeyField(
        "app.Place", related_name="reviews", to_field="number", null=True, on_delete=fields.SET_NULL
    )

    class CacheMeta:
        filter_key_fields_list = [("place",)]
