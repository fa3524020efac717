"""The models of most tests, declared in every possible way."""

from enum import Enum
from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, InstanceCache, ModelCacheManager, QuerysetCache


class State(Enum):
    DRAFT = "draft"
    OPEN = "open"
    CLOSED = "closed"


class User(CachedModel):
    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)
    team = fields.IntField(default=0)
    email = fields.CharField(max_length=64, null=True, unique=True)

    class CacheMeta:
        get_key_fields_list = [("id",), ("username",), ("email",)]
        filter_key_fields_list = [("team",)]


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=200, default="")
    state = fields.CharEnumField(State, default=State.DRAFT)
    position = fields.IntField(default=0)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="events")
    venue: fields.ForeignKeyNullableRelation["Venue"] = fields.ForeignKeyField(
        "app.Venue", related_name="events", null=True
    )
    created = fields.DatetimeField(auto_now_add=True)

    class Meta:
        ordering = ["position", "id"]
        unique_together = [("organizer", "title")]

    class CacheMeta:
        get_key_fields_list = [("id",), ("slug",), ("organizer", "title"), ("state",)]
        filter_key_fields_list = [("organizer",), ("organizer", "state"), ("venue",)]
        cached_foreignkeys = ["organizer", "venue"]


class Venue(Model):
    """A plain model with a separate manager."""

    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    city = fields.CharField(max_length=64)

    class Meta:
        unique_together = [("city", "name")]


class VenueCaches(ModelCacheManager[Venue]):
    model = Venue
    get_key_fields_list = [("city", "name")]
    timeout = 600

    def home(self, city: str) -> object:
        return self.get(city=city, name="Home")


class Plain(Model):
    """A model without any cache."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)


class EventBySlug(InstanceCache[Event]):
    model = Event
    key_fields = ("slug",)


class LatestEvents(QuerysetCache[Event]):
    model = Event
    key_fields = ("organizer",)
    order_by: ClassVar = ["-position"]
    limit = 3
