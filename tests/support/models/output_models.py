"""Models for schemas of ``pydantic_model_creator``: a relation of each kind, and one that no cache can fill."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel


class Country(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20)


class City(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20)
    country: fields.ForeignKeyNullableRelation[Country] = fields.ForeignKeyField(
        "app.Country", related_name="cities", null=True
    )


class Tag(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20)


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=20)
    city: fields.ForeignKeyNullableRelation[City] = fields.ForeignKeyField("app.City", related_name="events", null=True)
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="events")
    talks: fields.ReverseRelation["Talk"]

    class CacheMeta:
        cached_manytomany = ["tags"]


class Talk(CachedModel):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=20)
    event: fields.ForeignKeyRelation[Event] = fields.ForeignKeyField("app.Event", related_name="talks")

    class CacheMeta:
        filter_key_fields_list = [("event",)]


async def create_rows() -> None:
    city = await City.create(id=1, name="Lisbon", country=await Country.create(id=1, name="Portugal"))
    pycon = await Event.create(id=1, title="PyCon", city=city)
    await Event.create(id=2, title="Sprint", city=await City.create(id=2, name="Porto"))
    await Event.create(id=3, title="Dinner")
    await pycon.tags.add(await Tag.create(id=1, name="python"), await Tag.create(id=2, name="travel"))
    for number in range(3):
        await Talk.create(id=number + 1, title=f"Talk {number}", event=pycon)
