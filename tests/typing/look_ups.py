"""The types of the answers of all lookups."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any, assert_type

from tortoise.functions import Count
from tortoise.queryset import QuerySet, QuerySetSingle

from aiomodelcache import (
    BatchCacheQuery,
    CacheQuery,
    EntryState,
    Explanation,
    ModelCache,
    ModelCacheManager,
    Page,
    local_cache,
)
from tests.typing.declarations import Event, EventBySlug, LatestEvents, User, UserCaches, Venue, VenueCaches


async def querysets() -> None:
    found = Event.filter(slug="a").exclude(id=1).order_by("slug").prefetch_related("organizer")
    assert_type(await found, list[Event])
    assert_type(await found.cached(), list[Event])
    assert_type(await found.cached("5m"), list[Event])
    assert_type(
        await found.limit(3).offset(1).distinct().only("slug").cached(timeout=timedelta(minutes=5)), list[Event]
    )
    assert_type(await Event.all()[20:40].select_related("organizer").cached(), list[Event])
    assert_type(await Event.annotate(number=Count("id")).all().group_by("slug").cached(), list[Event])
    assert_type(await Event.get(slug="a"), Event)
    assert_type(await Event.get(slug="a").cached(), Event)
    assert_type(await Event.get(slug="a").prefetch_related("organizer").cached(), Event)
    assert_type(await Event.get_or_none(slug="a").cached(), Event | None)
    assert_type(await Event.first().cached(), Event | None)
    assert_type(await Event.last().only("slug").cached(), Event | None)
    assert_type(await Event.latest("id").cached(), Event | None)
    assert_type(await Event.exclude(slug="a").first().cached(), Event | None)
    assert_type(await found.count().cached(), int)
    assert_type(await found.exists().cached(), bool)
    assert_type(await Event.exists(slug="a").cached(), bool)
    assert_type(await found.values("slug").cached(), list[dict[str, Any]])
    assert_type(await found.values_list("slug", "id").cached(), list[Any])
    assert_type(await found.union(Event.all()).cached(), list[Event])
    assert_type(await found.invalidate_cache(), int)
    ordinary(found, Event.get(slug="a"))
    found.cached(timeout=b"5m")  # wrong


def ordinary(rows: QuerySet[Event], row: QuerySetSingle[Event | None]) -> None:
    rows.cached()  # wrong
    row.cached()  # wrong


async def through_the_manager() -> None:
    assert_type(Event.cache, ModelCacheManager[Event])
    assert_type(await Event.cache.get(slug="pycon"), Event)
    assert_type(await Event.cache.get(slug="pycon").resolve(), Event)
    assert_type(Event.cache.get(slug="pycon").start(), asyncio.Future[Event])
    assert_type(
        await asyncio.gather(Event.cache.get(id=1).start(), Event.cache.count(state="open").start()),
        tuple[Event, int],
    )
    assert_type(await Event.cache.get_or_none(slug="pycon"), Event | None)
    assert_type(await Event.cache.get_or_404(slug="pycon"), Event)
    assert_type(await Event.cache.get_from_cache(slug="pycon"), Event)
    assert_type(await Event.cache.get_many_from_cache([1, 2], "pk"), list[Event])
    assert_type(Event.cache.key(slug="pycon"), str)
    assert_type(Event.cache.key(Event.cache.filter(organizer=1)), str)
    assert_type(await Event.cache.filter(organizer=1), list[Event])
    assert_type(await Event.cache.all(), list[Event])
    assert_type(await Event.cache.all()[20:40], list[Event])
    assert_type(await Event.cache.filter(organizer=1).first(), Event | None)
    assert_type(await LatestEvents(organizer=1).first(), Event | None)
    page = await Event.cache.filter(organizer=1).page(2, size=20)
    assert_type(page, Page[Event])
    assert_type((page.items, page.total, page.has_next), tuple[list[Event], int, bool])
    assert_type(page.cursor, str | None)
    assert_type(await Event.cache.all().after(page.cursor, size=20), Page[Event])
    assert_type(await LatestEvents(organizer=1).after(None, size=20), Page[Event])
    assert_type(await Event.cache.all().order_by("-id"), list[Event])
    assert_type(await Event.cache.all().order_by("-id")[:3], list[Event])
    async for each in Event.cache.all():
        assert_type(each, Event)
    assert_type(await Event.cache.exists(slug="pycon"), bool)
    assert_type(await Event.cache.count(organizer=1), int)
    assert_type(await Event.cache.get_many([1, 2]), list[Event])
    assert_type(await Event.cache.get_many(["a"], key="slug"), list[Event])
    assert_type(await Event.cache.in_bulk([("Bonn", "Home")], key=("city", "name")), dict[Any, Event])
    assert_type(await Event.cache.get_query(slug="pycon"), Event)
    assert_type(await Event.cache.filter_query(organizer=1), list[Event])
    assert_type(await Event.cache.query(Event.filter(slug="a").order_by("slug")), list[Event])
    assert_type(
        await Event.cache.query(Event.filter(slug="a").prefetch_related("organizer"), timeout="5m"), list[Event]
    )
    assert_type(await Event.cache.query(Event.all()[20:40], timeout=300), list[Event])
    assert_type(await Event.cache.query(Event.get(slug="a")), Event)
    assert_type(await Event.cache.query(Event.all().first()), Event | None)
    assert_type(await Event.cache.query(Event.get_or_none(slug="a")), Event | None)
    assert_type(await Event.cache.query(Event.filter(slug="a").count()), int)
    assert_type(await Event.cache.query(Event.filter(slug="a").exists()), bool)
    assert_type(await Event.cache.query(Event.all().values("slug")), list[dict[str, Any]])
    assert_type(await Event.cache.query(Event.all().values_list("slug", "id")), list[tuple[Any, ...]])
    assert_type(await Event.cache.query(Event.all().in_bulk([1, 2], "id")), dict[int, Event])
    await querysets()
    event = await Event.cache.get(slug="pycon")
    assert_type(event.slug, str)
    assert_type(event.cache, ModelCacheManager[Event])
    await Event.cache.clear()
    assert_type(await Event.cache.explain(slug="pycon"), Explanation)
    assert_type((await Event.cache.explain(Event.cache.filter(organizer=1))).rows, tuple[EntryState, ...])
    assert_type(await Event.cache.refresh(slug="pycon"), Event | list[Event])
    assert_type(await Event.cache.refresh(Event.cache.get(slug="pycon")), Event)
    assert_type(await Event.cache.refresh(Event.cache.filter(organizer=1)), list[Event])
    assert_type(await Event.cache.refresh(LatestEvents(organizer=1)), list[Event])
    await Event.cache.prefetch([event], "organizer")
    await User.cache.prefetch({User()}, "team")
    Event.cache.set_related(event, "organizer", User())
    Event.cache.set_related(event, "organizer", None)
    await Event.cache.update(event, slug="other", organizer=7)


async def through_a_declared_manager() -> None:
    assert_type(User.cache, UserCaches)
    assert_type(await User.cache.get(username="kim"), User)
    assert_type(await User.cache.of_team(7), list[User])
    assert_type(Venue.cache, VenueCaches)
    assert_type(await Venue.cache.home("Bonn"), Venue)
    assert_type(await Venue.cache.in_bulk([uuid.uuid4()]), dict[Any, Venue])


async def through_cache_classes() -> None:
    assert_type(EventBySlug("pycon"), EventBySlug)
    assert_type(await EventBySlug("pycon"), Event)
    assert_type(await EventBySlug(slug="pycon").resolve(), Event)
    assert_type(await LatestEvents(organizer=1), list[Event])


async def in_gather_and_batches() -> None:
    event, users = await asyncio.gather(Event.cache.get(id=1), User.cache.filter(team=3))
    assert_type(event, Event)
    assert_type(users, list[User])
    queries: list[CacheQuery[Event]] = [Event.cache.get(id=1), EventBySlug("pycon")]
    assert_type(await queries[0], Event)
    batch = BatchCacheQuery({"event": Event.cache.get(id=1), 7: EventBySlug("pycon")}, users=User.cache.filter(team=3))
    assert_type(batch.push(count=Event.cache.count(organizer=1)), BatchCacheQuery)
    assert_type(await batch, dict[Any, Any])
    assert_type(await batch.get(only_cache=True, none_on_exception=True, return_exceptions=False), dict[Any, Any])


async def through_a_cache_and_a_request_scope(cache: ModelCache) -> None:
    assert_type(await cache.manager(Event).get(slug="pycon"), Event)
    assert_type(await cache.manager(Venue).filter(city="Bonn"), list[Venue])
    with local_cache() as scope:
        assert_type(scope, local_cache)
    async with local_cache():
        assert_type(await Event.cache.get(slug="pycon"), Event)


async def wrong() -> None:
    await Event.cache.get("pycon")  # wrong
    Event.cache.key("pycon")  # wrong
    print((await Event.cache.explain(slug="pycon")).nope)  # wrong
    print((await Event.cache.refresh(Event.cache.filter(organizer=1))).slug)  # wrong
    await Event.cache.prefetch(User(), "organizer")  # wrong
    await Event.cache.prefetch([User()], "organizer")  # wrong
    await Event.cache.prefetch([Event()], 7)  # wrong
    Event.cache.set_related(Event(), "organizer", 7)  # wrong
    await Event.cache.update(User(), username="kim")  # wrong
    await Event.cache.update(slug="pycon")  # wrong
    await Event.cache.find(slug="pycon")  # wrong
    await Event.cache.get_many(7)  # wrong
    await Event.cache.get_many([7], key=7)  # wrong
    BatchCacheQuery({"event": await Event.cache.get(id=1)})  # wrong
    BatchCacheQuery(event=Event.get(id=1))  # wrong
    print((await Event.cache.get_or_none(slug="pycon")).slug)  # wrong
    print((await EventBySlug("pycon")).nope)  # wrong
    print(Event.cache.get(slug="pycon").slug)  # wrong
    await Venue.cache.home(7)  # wrong
