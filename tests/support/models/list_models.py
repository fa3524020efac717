"""Models with lists of all rows, and with lists that are read in parts."""

import math
from typing import Any, ClassVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import (
    CachedModel,
    DontCache,
    InstanceCache,
    InvalidationType,
    QuerysetCache,
    QuerysetCountCache,
    ResultCache,
    ValueCache,
)


class Country(CachedModel):
    """A small table that is read whole, in no declared order."""

    id = fields.IntField(primary_key=True)
    code = fields.CharField(max_length=2, unique=True)
    name = fields.CharField(max_length=40, default="")

    class CacheMeta:
        get_key_fields_list = [("code",)]
        filter_key_fields_list = [()]


class Site(CachedModel):
    """A table of a single row."""

    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=40, default="")

    class CacheMeta:
        get_key_fields_list = [()]


class Room(Model):
    """A model without a cache."""

    id = fields.IntField(primary_key=True)
    site: fields.ForeignKeyRelation[Site] = fields.ForeignKeyField("app.Site", related_name="rooms")


class Track(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Talk(CachedModel):
    id = fields.IntField(primary_key=True)
    track: fields.ForeignKeyRelation[Track] = fields.ForeignKeyField("app.Track", related_name="talks")
    place = fields.IntField(default=0)
    title = fields.CharField(max_length=40, default="")
    room = fields.CharField(max_length=10, null=True)

    class Meta:
        ordering = ["-place"]

    class CacheMeta:
        filter_key_fields_list = [(), ("track",), ("track", "place")]


class Thread(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, default="")


class Post(CachedModel):
    """A model of lists that are read page by page."""

    id = fields.IntField(primary_key=True)
    thread: fields.ForeignKeyRelation[Thread] = fields.ForeignKeyField("app.Thread", related_name="posts")
    place = fields.IntField(default=0)
    title = fields.CharField(max_length=40, default="")

    class CacheMeta:
        filter_key_fields_list = [("thread",)]
        order_by = ["-place"]
        paged = True


class Shift(CachedModel):
    """A model of a list in an order by columns with NULLs, of several types and in both directions."""

    id = fields.UUIDField(primary_key=True)
    team = fields.IntField(default=1)
    rank = fields.IntField(null=True)
    name = fields.CharField(max_length=10, null=True)
    start = fields.DatetimeField()
    length = fields.FloatField(default=0.0)
    price = fields.DecimalField(max_digits=8, decimal_places=2, default=0)

    class CacheMeta:
        filter_key_fields_list = [("team",)]


class ShiftsDown(QuerysetCache[Shift]):
    model = Shift
    key_fields = ("team",)
    order_by: ClassVar = ["-rank", "name", "-start"]


class ShiftsUp(QuerysetCache[Shift]):
    model = Shift
    key_fields = ("team",)
    order_by: ClassVar = ["rank", "-name", "start"]
    paged = True


class FirstShifts(QuerysetCache[Shift]):
    model = Shift
    key_fields = ("team",)
    order_by: ClassVar = ["start"]
    limit = 5


class ShiftNames(QuerysetCache[Shift]):
    model = Shift
    key_fields = ("team",)

    async def get_result(self, team: int) -> list[str | None]:
        return await Shift.filter(team=team).order_by("start").values_list("name", flat=True)  # type: ignore[return-value]


class Calls:
    """The arguments of each call of a bulk method, and the function that makes the results."""

    talk_numbers: ClassVar[list[list[int]]] = []
    places: ClassVar[list[list[tuple[int, int]]]] = []
    find_places: ClassVar[Any] = None
    tracks: ClassVar[list[list[Any]]] = []
    factors: ClassVar[list[list[Any]]] = []


class TalkNumbers(ResultCache[int]):
    """The numbers of talks of many tracks, counted by one call."""

    model = Talk
    key_fields = ("track",)

    @classmethod
    async def get_results(cls, tracks: list[int]) -> dict[int, int]:
        Calls.talk_numbers.append(tracks)
        rows = await Talk.filter(track_id__in=tracks).values_list("track_id", flat=True)
        return {track: list(rows).count(track) for track in tracks}


class PlacesOfTalks(ResultCache[Any]):
    """Results of a key of two fields, of any kind."""

    model = Talk
    key_fields = ("track", "place")

    @classmethod
    async def get_results(cls, keys: list[tuple[int, int]]) -> Any:
        Calls.places.append(keys)
        found = Calls.find_places(keys)
        return await found if hasattr(found, "__await__") else found


class LatestTalkOf(InstanceCache[Talk | None]):
    """The last talks of many tracks, found by one call."""

    model = Talk
    key_fields = ("track",)

    @classmethod
    async def get_instances(cls, tracks: list[int]) -> list[Talk | None]:
        rows = {row.track_id: row for row in await Talk.filter(track_id__in=tracks).order_by("place")}  # type: ignore[attr-defined]
        return [rows.get(track) for track in tracks]


class TalksByTrack(QuerysetCache[Talk]):
    """The talks of many tracks, found by one call."""

    model = Talk
    key_fields = ("track",)

    @classmethod
    async def get_results(cls, tracks: list[int]) -> dict[int, list[Talk]]:
        rows = await Talk.filter(track_id__in=tracks).order_by("place")
        return {track: [row for row in rows if row.track_id == track] for track in tracks}  # type: ignore[attr-defined]


class TrackNames(ValueCache[str | None]):
    """Names of tracks, read by one call. An argument is a track or the primary key of one."""

    @classmethod
    async def get_values(cls, tracks: list[Track | int]) -> dict[Track | int, str]:
        Calls.tracks.append(tracks)
        pks = [track.pk if isinstance(track, Track) else track for track in tracks]
        names = {row.id: row.name for row in await Track.filter(id__in=pks)}
        return {track: names[pk] for track, pk in zip(tracks, pks, strict=True) if pk in names}


class TrackSizes(ValueCache[int]):
    """Values whose exceptions are stored. No call may ask for more than two tracks."""

    cache_errors: ClassVar = {KeyError: "1m", OSError: "1m"}

    @classmethod
    async def get_values(cls, tracks: list[int]) -> list[int | Exception]:
        Calls.tracks.append(tracks)
        names = {row.id: row.name for row in await Track.filter(id__in=tracks)}
        if len(tracks) > 2:
            raise OSError("too many")
        return [len(names[track]) if track in names else KeyError(track) for track in tracks]


class Products(ValueCache[int]):
    """Values of no model, computed by one call, of several arguments and with tags."""

    invalidation = InvalidationType.OFF
    tags = ("products", lambda *factors: f"products:{factors[0]}")

    @classmethod
    async def get_values(cls, factors: list[tuple[int, ...]]) -> list[int | DontCache[int] | Exception]:
        Calls.factors.append(factors)
        found = [math.prod(each if isinstance(each, tuple) else (each,)) for each in factors]
        return [ValueError("zero") if each == 0 else DontCache(each) if each < 0 else each for each in found]


class Label(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    talks: fields.ManyToManyRelation[Talk] = fields.ManyToManyField("app.Talk", related_name="labels")

    class CacheMeta:
        cached_manytomany = ["talks"]


class SiteCache(InstanceCache[Site]):
    model = Site
    key_fields = ()


class LastTalks(QuerysetCache[Talk]):
    model = Talk
    key_fields = ()
    order_by: ClassVar = ["-id"]
    limit = 3


class TopTalks(QuerysetCache[Talk]):
    model = Talk
    key_fields = ("track",)
    limit = 6


class TopPosts(QuerysetCache[Post]):
    model = Post
    key_fields = ("thread",)
    order_by: ClassVar = ["place"]
    limit = 6
    paged = True


class TalkCount(QuerysetCountCache):
    model = Talk
    key_fields = ()
