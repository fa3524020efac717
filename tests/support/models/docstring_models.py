"""Models of the examples in docstrings."""

from tortoise import fields

from aiomodelcache import CachedModel


class User(CachedModel):
    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=20, unique=True)
    team = fields.IntField(default=3)

    class CacheMeta:
        get_key_fields_list = [("username",)]
        filter_key_fields_list = [("team",)]


class City(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20)


class Venue(CachedModel):
    id = fields.IntField(primary_key=True)
    city: fields.ForeignKeyRelation[City] = fields.ForeignKeyField("app.City")


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=20, unique=True)
    title = fields.CharField(max_length=20, default="")
    state = fields.CharField(max_length=20, default="open")
    position = fields.IntField(default=0)
    start = fields.IntField(default=0)
    created = fields.DatetimeField(auto_now_add=True)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User")
    venue: fields.ForeignKeyRelation[Venue] = fields.ForeignKeyField("app.Venue")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer",)]
        cached_foreignkeys = ["organizer"]


class Participation(CachedModel):
    id = fields.IntField(primary_key=True)
    event: fields.ForeignKeyRelation[Event] = fields.ForeignKeyField("app.Event", related_name="participations")
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="participations")


async def create_rows() -> None:
    kim = await User.create(id=7, username="kim")
    venue = await Venue.create(id=1, city=await City.create(id=1, name="Lisbon"))
    for slug in ("pycon", "sprint", "dinner"):
        event = await Event.create(slug=slug, organizer=kim, venue=venue)
        await Participation.create(event=event, user=kim)
