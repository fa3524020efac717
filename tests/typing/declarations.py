"""Models, managers and cache classes as users write them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import (
    CACHE_TIME_5M,
    CachedModel,
    CacheQuery,
    DontCache,
    InstanceCache,
    InvalidationType,
    ModelCache,
    ModelCacheManager,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
    ValueCache,
    cached,
    depends_on,
)


class User(CachedModel):
    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)
    cache: ClassVar["UserCaches"]

    class CacheMeta:
        get_key_fields_list = [("username",)]


class UserCaches(ModelCacheManager[User]):
    model = User
    filter_key_fields_list = [("team",)]
    timeout = CACHE_TIME_5M
    invalidation = InvalidationType.UNSET
    queries = True
    queries_ignore = ["username"]
    queries_by = ["team"]

    def of_team(self, team: int) -> CacheQuery[list[User]]:
        return self.filter(team=team)


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="events")

    class CacheMeta:
        get_key_fields_list = [("id",), ("slug",)]
        filter_key_fields_list = [("organizer",)]
        cached_foreignkeys = ["organizer"]


class Venue(Model):
    """A plain model that declares only the type of its manager."""

    id = fields.UUIDField(primary_key=True)
    name = fields.CharField(max_length=64)
    cache: ClassVar["VenueCaches"]


class VenueCaches(ModelCacheManager[Venue]):
    model = Venue
    timeout = "2h"
    negative_timeout = timedelta(seconds=5)
    get_key_fields_list = [("city", "name")]
    order_by = ["-name"]

    def home(self, city: str) -> CacheQuery[Venue]:
        return self.get(city=city, name="Home")


class EventBySlug(InstanceCache[Event]):
    model = Event
    key_fields = ("slug",)
    timeout = 0.5
    near = True


class LatestEvents(QuerysetCache[Event]):
    model = Event
    key_fields = ["organizer"]
    order_by = ["-id"]
    limit = 10
    timeout = "5m"


class NextEvent(InstanceCache[Event | None]):
    model = Event
    key_fields = ("organizer",)

    async def get_instance(self, organizer: int) -> Event | None:
        return await Event.filter(organizer_id=organizer).first()


class Slugs(ResultCache[list[str]]):
    model = Event
    key_fields = ("organizer",)

    async def get_result(self, organizer: int) -> list[str] | DontCache[list[str]]:
        events = await Event.filter(organizer_id=organizer)
        return [event.slug for event in events] if events else DontCache([])


class Numbers(ResultCache[int]):
    model = Event
    key_fields = ("organizer",)

    @classmethod
    async def get_results(cls, organizers: list[int]) -> dict[int, int]:
        return dict.fromkeys(organizers, 0)


class EventCount(QuerysetCountCache):
    model = Event
    key_fields = ("organizer",)


class HasEvents(QuerysetExistsCache):
    model = Event
    key_fields = ("organizer",)


class Rate(ValueCache[Decimal]):
    timeout = timedelta(minutes=1)
    negative_timeout = "1.5h"

    async def get_value(self, base: str, quote: str = "EUR") -> Decimal:
        return Decimal(len(base) - len(quote))


class Sizes(ValueCache[int]):
    @classmethod
    async def get_values(cls, names: list[str]) -> dict[str, int]:
        return {name: len(name) for name in names}


@cached(timeout=60)
async def permissions(actor: int, *, team: str = "") -> list[str]:
    return [team] * actor


@cached(timeout="5m", negative_timeout=timedelta(seconds=1), allowtime="500ms")
async def quota(actor: int) -> int | DontCache[int]:
    return DontCache(actor)


def rate_tag(base: str) -> str:
    return f"rate:{base}"


@cached(tags=("rates", rate_tag), invalidation=InvalidationType.OFF)
async def tagged(base: str) -> int:
    return len(base)


async def drop_rates(cache: ModelCache) -> None:
    await cache.invalidate_tags("rates", "rate:USD")


@cached
async def bare(actor: int) -> list[str]:
    await depends_on(Event, User)
    return [str(actor)]


def by_number(service: "Service", number: int) -> int:
    return number


class Service:
    @cached(timeout=60, key=by_number)
    async def answer(self, number: int) -> dict[str, Any]:
        return {"number": number}
