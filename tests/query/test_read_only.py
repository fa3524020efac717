"""Instances that are looked up as read-only: they refuse changes, saves and deletes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiomodelcache import BatchCacheQuery, ModelCache, ReadOnlyInstanceError, cached, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, EventBySlug, User, Venue

pytestmark = pytest.mark.only_on("sqlite", because="an instance refuses before anything is sent")

LOOKUPS: dict[str, Callable[[], Any]] = {
    "get": lambda: Event.cache.get(slug="pycon"),
    "list": lambda: Event.cache.filter(organizer=1),
    "page": lambda: Event.cache.filter(organizer=1).page(1, size=5),
    "many": lambda: Event.cache.get_many([1]),
    "bulk": lambda: Event.cache.in_bulk([1]),
    "class": lambda: EventBySlug("pycon"),
    "query": lambda: Event.cache.query(Event.filter(id=1).select_related("organizer")),
}


@pytest.fixture(autouse=True)
async def rows(cache: ModelCache) -> None:
    await User.create(id=1, username="kim")
    await Event.create(id=1, slug="pycon", organizer_id=1)


def instance_in(value: Any) -> Event:
    value = getattr(value, "items", value) if not isinstance(value, dict) else [*value.values()]
    found: Event = value[0] if isinstance(value, list) else value
    return found


@pytest.mark.parametrize("kind", LOOKUPS)
async def test_it_refuses_every_change(kind: str, backend: CountingBackend) -> None:
    for _ in range(2):  # from the database, and from the cache
        event = instance_in(await LOOKUPS[kind]().options(read_only=True))
        before = dict(vars(event))
        changes: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("save", event.save),
            ("save", lambda event=event: event.save(update_fields=["title"])),
            ("delete", event.delete),
            ("update", lambda event=event: Event.cache.update(event, title="new")),
            ("refresh_from_db", event.refresh_from_db),
        ]
        with pytest.raises(ReadOnlyInstanceError, match=r"This Event .*read_only=True.*setting title is refused"):
            event.title = "new"
        with pytest.raises(ReadOnlyInstanceError):
            event.organizer = User(id=7)
        with pytest.raises(ReadOnlyInstanceError):
            event.rank = 7  # type: ignore[attr-defined]
        for text, change in changes:
            with pytest.raises(ReadOnlyInstanceError, match=text):
                await change()
        assert {name: value for name, value in vars(event).items() if name in before} == before
    async with assert_ops(backend, sql=0, redis=0):
        with pytest.raises(ReadOnlyInstanceError):
            await event.save()


async def test_attached_rows_are_read_only_too() -> None:
    [event] = await LOOKUPS["query"]().options(read_only=True)
    with pytest.raises(ReadOnlyInstanceError, match="This User"):
        event.organizer.username = "ann"


async def test_other_lookups_give_instances_that_can_be_changed(cache: ModelCache) -> None:
    async with local_cache():
        shared = await Event.cache.get(id=1)
        frozen = await Event.cache.get(id=1).options(read_only=True)
        assert frozen is not shared
        shared.title = "new"
        await shared.save()
    batch = BatchCacheQuery(frozen=Event.cache.get(id=1).options(read_only=True), other=Event.cache.get(id=1))
    found = await batch
    found["other"].title = "newer"
    await found["other"].save()
    with pytest.raises(ReadOnlyInstanceError):
        await found["frozen"].save()


async def test_its_relations_can_be_loaded() -> None:
    event = await Event.cache.get(id=1).options(read_only=True)
    await event.fetch_related("organizer")
    assert event.organizer.username == "kim"


async def test_a_cached_function_may_return_it() -> None:
    @cached
    async def the_event() -> Event:
        return await Event.cache.get(id=1).options(read_only=True)

    for _ in range(2):
        with pytest.raises(ReadOnlyInstanceError):
            await (await the_event()).save()


async def test_a_model_with_a_separate_manager_refuses_as_well() -> None:
    venue = await Venue.create(id="6ba7b810-9dad-11d1-80b4-00c04fd430c8", name="Home", city="Graz")
    frozen = await Venue.cache.get(id=venue.id).options(read_only=True)  # type: ignore[attr-defined]
    with pytest.raises(ReadOnlyInstanceError):
        frozen.name = "Away"
    for write in (frozen.save, frozen.delete):
        with pytest.raises(ReadOnlyInstanceError):
            await write()
