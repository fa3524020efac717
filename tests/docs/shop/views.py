"""Cached functions and cache classes."""

from shop.models import Event, User

from aiomodelcache import QuerysetCache, QuerysetCountCache, ValueCache, cached


class Latest(QuerysetCache[Event]):
    """The last events of an organizer."""

    model = Event
    key_fields = ("organizer",)
    order_by = ["-id"]
    limit = 3


class EventCount(QuerysetCountCache):
    """The number of an organizer's events."""

    model = Event
    key_fields = ("organizer",)


class Rate(ValueCache[int]):
    """A rate of exchange."""

    async def get_value(self, base: str, times: int = 1) -> int:
        return 7 * times


@cached
async def titles(organizer: int) -> list[str]:
    """Returns the titles of an organizer's events."""
    found = await User.cache.get(id=organizer)
    return [event.title for event in await Event.filter(organizer_id=found.id).order_by("id")]
