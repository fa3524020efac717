"""Rows at the end of relations, as users declare and await them."""

from typing import assert_type

from aiomodelcache import InstanceCache, RelatedInstanceCache, RelatedQuerysetCache
from tests.typing.declarations import Event, User


class OrganizerOf(RelatedInstanceCache[User]):
    model = Event
    key_fields = ("slug",)
    relation = "organizer"


class EventsOf(RelatedQuerysetCache[Event]):
    model = User
    key_fields = ["username"]
    relation = "events"


class EventWithOrganizer(InstanceCache[Event]):
    model = Event
    key_fields = ("slug",)
    select_related = ("organizer",)


class NotByAList(RelatedInstanceCache[User]):
    model = Event
    key_fields = ("slug",)
    relation = ["organizer"]  # wrong


async def awaited() -> None:
    assert_type(await OrganizerOf("pycon"), User)
    assert_type(await OrganizerOf(slug="pycon").resolve(), User)
    assert_type(await EventsOf("kim"), list[Event])
    assert_type((await EventWithOrganizer("pycon")).organizer, User)
    assert_type((await OrganizerOf("pycon")).slug, str)  # wrong
