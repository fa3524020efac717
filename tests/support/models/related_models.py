"""Models with relations of each kind, and cache classes that follow one or several of them."""

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import (
    CachedModel,
    InstanceCache,
    ModelCacheManager,
    QuerysetCache,
    RelatedInstanceCache,
    RelatedQuerysetCache,
)


class Land(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    name = fields.CharField(max_length=64)


class Town(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)
    land: fields.ForeignKeyNullableRelation[Land] = fields.ForeignKeyField(
        "app.Land", to_field="number", related_name="towns", null=True, on_delete=fields.SET_NULL
    )


class Person(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, unique=True)
    mentor: fields.ForeignKeyNullableRelation["Person"] = fields.ForeignKeyField(
        "app.Person", related_name="pupils", null=True, on_delete=fields.SET_NULL
    )

    badge: fields.BackwardOneToOneRelation["Badge"]
    desk: fields.BackwardOneToOneRelation["Desk"]

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Badge(CachedModel):
    """A model whose primary key is a relation."""

    person: fields.OneToOneRelation[Person] = fields.OneToOneField("app.Person", related_name="badge", primary_key=True)
    title = fields.CharField(max_length=64)


class Desk(CachedModel):
    id = fields.IntField(primary_key=True)
    person: fields.OneToOneNullableRelation[Person] = fields.OneToOneField("app.Person", related_name="desk", null=True)


class Place(Model):
    """A plain model with a separate manager."""

    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    town: fields.ForeignKeyNullableRelation[Town] = fields.ForeignKeyField("app.Town", related_name="places", null=True)


class PlaceCaches(ModelCacheManager[Place]):
    model = Place
    filter_key_fields_list = [("town",)]
    order_by = ["-name"]


class Stranger(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)


class Meeting(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    host: fields.ForeignKeyRelation[Person] = fields.ForeignKeyField("app.Person", related_name="meetings")
    place: fields.ForeignKeyNullableRelation[Place] = fields.ForeignKeyField(
        "app.Place", related_name="meetings", null=True, on_delete=fields.SET_NULL
    )
    guest: fields.ForeignKeyNullableRelation[Stranger] = fields.ForeignKeyField("app.Stranger", null=True)
    friends: fields.ManyToManyRelation[Person] = fields.ManyToManyField("app.Person", related_name="friend_of")

    class Meta:
        ordering = ["number"]


class Seat(CachedModel):
    """The through model of meetings and their guests, sorted by position."""

    id = fields.IntField(primary_key=True)
    position = fields.IntField(default=0)
    meeting: fields.ForeignKeyRelation[Meeting] = fields.ForeignKeyField("app.Meeting", related_name="seats")
    person: fields.ForeignKeyRelation[Person] = fields.ForeignKeyField("app.Person", related_name="seats")

    class Meta:
        ordering = ["position", "id"]


class Tag(CachedModel):
    """A model whose key is text, which some databases compare by a loose collation."""

    code = fields.CharField(max_length=8, primary_key=True)


class Label(CachedModel):
    id = fields.IntField(primary_key=True)
    tag: fields.ForeignKeyRelation[Tag] = fields.ForeignKeyField("app.Tag", related_name="labels")


class TagOf(RelatedInstanceCache[Tag]):
    model = Label
    key_fields = ("id",)
    relation = "tag"


class LabelsOf(RelatedQuerysetCache[Label]):
    model = Tag
    key_fields = ("code",)
    relation = "labels"


class PlaceOf(RelatedInstanceCache[Place]):
    model = Meeting
    key_fields = ("number",)
    relation = "place"


class TownOf(RelatedInstanceCache[Town]):
    model = Meeting
    key_fields = ("id",)
    relation = "place__town"


class LandOf(RelatedInstanceCache[Land]):
    """A relation to a field that is neither the primary key nor a cached key."""

    model = Meeting
    key_fields = ("number",)
    relation = "place__town__land"


class BadgeOf(RelatedInstanceCache[Badge]):
    """A reverse one-to-one relation to a row whose primary key is the relation."""

    model = Meeting
    key_fields = ("number",)
    relation = "host__badge"


class DeskOf(RelatedInstanceCache[Desk]):
    """A reverse relation of a unique column."""

    model = Meeting
    key_fields = ("number",)
    relation = "host__desk"


class OwnerOf(RelatedInstanceCache[Person]):
    model = Desk
    key_fields = ("id",)
    relation = "person"


class HeadOf(RelatedInstanceCache[Person]):
    """A path of several relations inside one model."""

    model = Person
    key_fields = ("id",)
    relation = "mentor__mentor"


class HostAt(RelatedInstanceCache[Person]):
    """A path over several meetings, which is an error if they have different hosts."""

    model = Meeting
    key_fields = ("place",)
    relation = "host"


class People(RelatedQuerysetCache[Person]):
    """A path of a reverse and a forward relation."""

    model = Meeting
    key_fields = ("number",)
    relation = "seats__person"


class MeetingsIn(RelatedQuerysetCache[Meeting]):
    """A path of two reverse relations: places by descending name, and their meetings by number."""

    model = Town
    key_fields = ("id",)
    relation = "places__meetings"


class TownsOf(RelatedQuerysetCache[Town]):
    """A reverse relation from a field that is not the primary key."""

    model = Land
    key_fields = ("number",)
    relation = "towns"


class Card(InstanceCache[Meeting]):
    model = Meeting
    key_fields = ("number",)
    select_related = ("host__badge", "host__mentor", "place__town__land")


class CardById(InstanceCache[Meeting]):
    model = Meeting
    key_fields = ("id",)
    select_related = "host"


class Agenda(QuerysetCache[Meeting]):
    model = Meeting
    key_fields = ("place",)
    order_by = ["-number"]
    select_related = ["host__desk"]
