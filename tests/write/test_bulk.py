"""Bulk writes and cascades: they invalidate exactly the rows that they change."""

from contextlib import suppress

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, IntegrityError, OperationalError
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import CacheNotRegistered, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, State, User, Venue


async def create_events(count: int = 6) -> tuple[User, User, list[Event]]:
    kim, ada = await User.create(username="kim"), await User.create(username="ada")
    events = [
        await Event.create(slug=f"e{n}", title=f"t{n}", organizer=kim, position=n, state=State.OPEN)
        for n in range(count)
    ]
    return kim, ada, events


async def warm(events: list[Event], *users: User) -> None:
    await Event.cache.get_many([event.id for event in events])
    await Event.cache.get_many([event.slug for event in events], key="slug")
    for user in users:
        await Event.cache.filter(organizer=user)
        await Event.cache.filter(organizer=user, state=State.OPEN)


async def test_an_update_invalidates_the_rows_that_it_touched_and_no_others(
    cache: ModelCache, backend: CountingBackend
) -> None:
    kim, ada, events = await create_events()
    await warm(events, kim, ada)
    assert await Event.filter(position__lt=3).update(title=F("slug"), organizer=ada) == 3
    fresh = await Event.all()
    assert {e.id: (e.title, e.organizer_id) for e in await Event.cache.get_many([e.id for e in events])} == {
        e.id: (e.title, e.organizer_id) for e in fresh
    }
    assert [e.slug for e in await Event.cache.filter(organizer=ada)] == ["e0", "e1", "e2"]
    assert [e.slug for e in await Event.cache.filter(organizer=kim)] == ["e3", "e4", "e5"]
    assert await Event.cache.count(organizer=kim, state=State.OPEN) == 3
    async with assert_ops(backend, sql=0, redis=["read"]):
        await Event.cache.get_many([e.id for e in events[3:]])


async def test_an_update_by_a_join_of_a_unique_key_invalidates_the_old_and_the_new_key(cache: ModelCache) -> None:
    kim, ada, events = await create_events(3)
    await warm(events, kim)
    with pytest.raises(DoesNotExist):
        await Event.cache.get(slug="renamed")
    assert await Event.filter(organizer__username="kim", slug="e1").update(slug="renamed") == 1
    assert (await Event.cache.get(slug="renamed")).id == events[1].id
    with pytest.raises(DoesNotExist):
        await Event.cache.get(slug="e1")


@pytest.mark.parametrize("creating", [True, False])
async def test_a_bulk_write_that_fails_half_way_and_is_committed_invalidates(cache: ModelCache, creating: bool) -> None:
    """PostgreSQL commits nothing after an error; the others keep what the first statement has written."""
    kim, ada, events = await create_events(3)
    await warm(events, kim, ada)
    new = [Event(slug=slug, title="", organizer=ada, position=0) for slug in ("new", "e0")]
    events[1].organizer_id, events[2].slug = ada.id, "e0"
    with suppress(OperationalError):  # PostgreSQL's answer to the COMMIT
        async with in_transaction():
            with pytest.raises(IntegrityError):
                await (
                    Event.bulk_create(new, batch_size=1)
                    if creating
                    else Event.bulk_update(events[1:], ["organizer_id", "slug"], batch_size=1)
                )
    stored = [event.slug for event in await Event.filter(organizer=ada)]
    assert [event.slug for event in await Event.cache.filter(organizer=ada)] == stored
    for event in await Event.all():
        assert (await Event.cache.get(id=event.id)).organizer_id == event.organizer_id
        assert (await Event.cache.get(slug=event.slug)).id == event.id


async def test_a_bulk_delete_invalidates_the_deleted_rows(cache: ModelCache) -> None:
    kim, ada, events = await create_events()
    await warm(events, kim)
    assert await Event.filter(position__gte=3).delete() == 3
    assert [e.slug for e in await Event.cache.filter(organizer=kim)] == ["e0", "e1", "e2"]
    assert await Event.cache.get_or_none(id=events[5].id) is None
    assert await Event.cache.get_or_none(slug="e5") is None


async def test_a_cascade_in_the_database_invalidates_the_rows_that_it_changes(cache: ModelCache) -> None:
    kim, ada, events = await create_events(3)
    venue = await Venue.create(id="0" * 32, name="Hall", city="Oslo")
    await Event.filter(id=events[0].id).update(venue=venue)
    await warm(events, kim)
    await Event.cache.filter(venue=venue)
    await Event.cache.filter(venue=None)
    await venue.delete()
    fresh = await Event.filter(id=events[0].id).get_or_none()
    cached = await Event.cache.get_or_none(id=events[0].id)
    assert (cached and cached.venue_id) == (fresh and fresh.venue_id)
    assert await Event.cache.filter(venue=venue.id) == []
    await User.filter(username="kim").delete()
    assert await Event.cache.filter(organizer=kim.id) == []
    assert await Event.cache.get_or_none(slug="e1") is None


async def test_bulk_create_invalidates_absences_and_lists(cache: ModelCache) -> None:
    kim, ada, events = await create_events(2)
    await warm(events, kim)
    assert await Event.cache.get_or_none(slug="new1") is None
    assert await Event.cache.get_or_none(id=events[-1].id + 1) is None
    await Event.bulk_create([Event(slug=f"new{n}", title=f"n{n}", organizer=kim, position=9) for n in range(2)])
    assert (await Event.cache.get(slug="new1")).slug == "new1"
    assert (await Event.cache.get(id=events[-1].id + 1)).slug == "new0"
    assert [e.slug for e in await Event.cache.filter(organizer=kim)] == ["e0", "e1", "new0", "new1"]


@pytest.mark.only_on("sqlite", "postgres", because="Tortoise writes an upsert that MariaDB does not know")
async def test_bulk_create_with_conflicts_invalidates_the_updated_row(cache: ModelCache) -> None:
    kim, ada, events = await create_events(2)
    await warm(events, kim)
    await Event.bulk_create([Event(slug="e1", title="other", organizer=kim)], ignore_conflicts=True)
    await Event.bulk_create(
        [Event(slug="e0", title="updated", organizer=kim)], update_fields=["title"], on_conflict=["slug"]
    )
    assert (await Event.cache.get(slug="e0")).title == "updated"
    assert (await Event.cache.get(id=events[0].id)).title == "updated"


async def test_bulk_update_invalidates_by_the_stored_rows_and_not_by_the_instances(cache: ModelCache) -> None:
    kim, ada, events = await create_events(3)
    outdated = await Event.all()
    await Event.filter(id=events[0].id).update(organizer=ada)
    await warm(events, kim, ada)
    await Event.cache.filter(organizer=ada, state=State.CLOSED)
    for event in outdated:
        event.state = State.CLOSED
    await Event.bulk_update(outdated, fields=["state"])
    assert [e.slug for e in await Event.cache.filter(organizer=ada, state=State.CLOSED)] == ["e0"]
    assert await Event.cache.count(organizer=kim, state=State.OPEN) == 0


async def test_saving_one_field_of_an_outdated_instance_invalidates_the_lists_of_the_stored_row(
    cache: ModelCache,
) -> None:
    kim, ada, events = await create_events(1)
    outdated = await Event.get(id=events[0].id)
    await Event.filter(id=outdated.id).update(organizer=ada)
    assert await Event.cache.filter(organizer=ada, state=State.CLOSED) == []
    outdated.state = State.CLOSED
    await outdated.save(update_fields=["state"])
    assert [e.slug for e in await Event.cache.filter(organizer=ada, state=State.CLOSED)] == ["e0"]


@pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
async def test_a_rolled_back_bulk_write_invalidates_nothing(cache: ModelCache, backend: CountingBackend) -> None:
    kim, ada, events = await create_events(3)
    await warm(events, kim)
    async with in_transaction() as client:
        await Event.filter(organizer=kim).update(organizer=ada)
        assert len(await Event.cache.filter(organizer=ada)) == 3
        await client.rollback()
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert len(await Event.cache.filter(organizer=kim)) == 3


async def test_a_bulk_write_past_the_limit_invalidates_the_whole_model(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend, bulk_limit=2):
        kim, ada, events = await create_events(4)
        await warm(events, kim)
        await Event.filter(organizer=kim).update(title=F("slug"))
        assert [e.title for e in await Event.cache.filter(organizer=kim)] == ["e0", "e1", "e2", "e3"]
        assert (await Event.cache.get(slug="e3")).title == "e3"


async def test_a_refused_bulk_write_invalidates_nothing(cache: ModelCache, backend: CountingBackend) -> None:
    kim, ada, events = await create_events(2)
    await warm(events, kim)
    with pytest.raises(IntegrityError):
        await Event.filter(slug="e0").update(slug="e1")
    async with assert_ops(backend, sql=0):
        assert (await Event.cache.get(slug="e0")).id == events[0].id


async def test_invalidate_covers_rows_written_by_raw_sql(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    kim, ada, events = await create_events(3)
    for how in ("instance", "pk", "list", "key", "queryset", "manager queryset", "old key"):
        assert await Event.cache.get_or_none(slug=how) is None
        await warm(events, kim)
        event = await Event.get(id=events[0].id)
        old = event.slug
        await database.execute_query_dict(f"UPDATE event SET slug='{how}', title='{how}' WHERE id={event.id}")
        if how == "instance":
            assert await Event.cache.invalidate(event) == 1
        elif how == "pk":
            assert await Event.cache.invalidate(event.id) == 1
        elif how == "list":
            assert await Event.cache.invalidate([event, events[1].id, 10**6]) == 2
        elif how == "key":
            assert await Event.cache.invalidate(slug=how) == 1
        elif how == "queryset":
            assert await Event.cache.invalidate(Event.filter(organizer=kim)) == 3
        elif how == "manager queryset":
            assert await Event.filter(title=how).invalidate_cache() == 1
        else:
            assert await Event.cache.invalidate(organizer=kim) == 3
        assert (await Event.cache.get(slug=how)).title == how
        assert (await Event.cache.get(id=event.id)).slug == how
        assert await Event.cache.get_or_none(slug=old) is None


async def test_invalidate_refuses_no_arguments_and_unregistered_keys(cache: ModelCache) -> None:
    with pytest.raises(TypeError, match=r"clear\(\)"):
        await Event.cache.invalidate()
    with pytest.raises(CacheNotRegistered, match="position"):
        await Event.cache.invalidate(position=1)


async def test_invalidate_in_a_transaction_takes_effect_at_commit(
    cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
) -> None:
    kim, ada, events = await create_events(1)
    await warm(events)
    async with in_transaction() as client:
        await client.execute_query_dict("UPDATE event SET title='raw'")
        async with assert_ops(backend, redis=0):
            await Event.cache.invalidate(events[0])
    assert (await Event.cache.get(slug="e0")).title == "raw"
