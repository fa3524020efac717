"""Models of the quickstart, and plausible rows for them. Every run creates the same rows."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from random import Random

from tortoise import fields

from aiomodelcache import CachedModel, writes_without_cache

FIRST = ["Ada", "Amir", "Bea", "Chen", "Dana", "Emil", "Fatima", "Goran", "Hana", "Ines", "Jonas", "Kim", "Omar"]
LAST = ["Berg", "Costa", "Diaz", "Eze", "Fischer", "Garcia", "Haddad", "Ito", "Jansen", "Kowal", "Mori", "Okafor"]
CITIES = ["Amsterdam", "Berlin", "Dublin", "Helsinki", "Lisbon", "Madrid", "Milan", "Oslo", "Porto", "Riga", "Vienna"]
HOUSES = ["City Hall", "Old Brewery", "Harbour Theatre", "University Forum"]
TOPICS = ["Async", "Cloud", "Compiler", "Data", "Database", "Game", "Graphics", "Python", "Robotics", "Rust", "Web"]
KINDS = ["Conference", "Hack Night", "Meetup", "Sprint", "Summit", "Workshop"]
YEARS = [2024, 2025, 2026]


class User(CachedModel):
    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)
    name = fields.CharField(max_length=100)

    class CacheMeta:
        get_key_fields_list = [("username",)]


class Venue(CachedModel):
    id = fields.IntField(primary_key=True)
    city = fields.CharField(max_length=64)
    name = fields.CharField(max_length=64)
    capacity = fields.IntField()

    class Meta:
        unique_together = [("city", "name")]

    class CacheMeta:
        get_key_fields_list = [("city", "name")]


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=100)
    starts = fields.DatetimeField()
    price = fields.DecimalField(max_digits=6, decimal_places=2)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User", related_name="events")
    venue: fields.ForeignKeyRelation[Venue] = fields.ForeignKeyField("app.Venue", related_name="events")

    class Meta:
        ordering = ["starts", "id"]

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("organizer",)]
        cached_foreignkeys = ["organizer", "venue"]


async def create_rows() -> str:
    """Writes the rows, before a cache is open. Returns their numbers as text."""
    users = [User(username=slug(name), name=name) for name in (f"{a} {b}" for a, b in product(FIRST, LAST))]
    houses = enumerate(product(CITIES, HOUSES))
    venues = [Venue(city=city, name=name, capacity=80 + 20 * (number % 13)) for number, (city, name) in houses]
    with writes_without_cache():
        await User.bulk_create(users)
        await Venue.bulk_create(venues)
        events = _events(Random(2026), await User.all(), await Venue.all())
        await Event.bulk_create(events)
    return f"{len(events):,} events, {len(users)} users and {len(venues)} venues"


def _events(random: Random, users: list[User], venues: list[Venue]) -> list[Event]:
    places: dict[str, list[Venue]] = {}
    for venue in venues:
        places.setdefault(venue.city, []).append(venue)
    return [
        Event(
            slug=slug(title),
            title=title,
            starts=datetime(year, 1, 1, 9, tzinfo=UTC)
            + timedelta(days=random.randrange(360), hours=random.randrange(10)),
            price=Decimal(random.randrange(0, 40_000, 500)) / 100,
            organizer=random.choice(users),
            venue=random.choice(places[city]),
        )
        for topic, kind, city, year in product(TOPICS, KINDS, CITIES, YEARS)
        for title in [f"{topic} {kind} {city} {year}"]
    ]


def slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower())
