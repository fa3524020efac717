"""Rows at the end of relations: answers, order and cost, and that every write is seen at once."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheNotRegistered, CacheQuery, ModelCache, local_cache
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.plans.paths import RelationPath
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import gated_sql
from tests.support.models.related_models import (
    Agenda,
    Badge,
    BadgeOf,
    Card,
    CardById,
    Desk,
    DeskOf,
    HeadOf,
    HostAt,
    Label,
    LabelsOf,
    Land,
    LandOf,
    Meeting,
    MeetingsIn,
    OwnerOf,
    People,
    Person,
    Place,
    PlaceOf,
    Seat,
    Tag,
    TagOf,
    Town,
    TownOf,
    TownsOf,
)

pytestmark = pytest.mark.models("tests.support.models.related_models")


class World(SimpleNamespace):
    """A meeting with all its related rows, another meeting, and rows that belong to no meeting."""

    meeting: Meeting
    other: Meeting
    ann: Person
    bob: Person
    cid: Person
    hall: Place
    barn: Place
    oslo: Town
    rome: Town
    norway: Land
    italy: Land
    badge: Badge
    desk: Desk
    seats: list[Seat]


@pytest.fixture
async def world(cache: ModelCache) -> World:
    norway = await Land.create(number=47, name="norway")
    italy = await Land.create(number=39, name="italy")
    oslo = await Town.create(name="oslo", land=norway)
    rome = await Town.create(name="rome", land=italy)
    hall = await Place.create(id=uuid.uuid4(), name="hall", town=oslo)
    barn = await Place.create(id=uuid.uuid4(), name="barn", town=oslo)
    cid = await Person.create(name="cid")
    bob = await Person.create(name="bob", mentor=cid)
    ann = await Person.create(name="ann", mentor=bob)
    meeting = await Meeting.create(number=1, host=ann, place=hall)
    other = await Meeting.create(number=2, host=bob, place=barn)
    seats = [
        await Seat.create(meeting=meeting, person=person, position=position)
        for position, person in enumerate([cid, ann, cid, bob])
    ]
    return World(
        norway=norway,
        italy=italy,
        oslo=oslo,
        rome=rome,
        hall=hall,
        barn=barn,
        ann=ann,
        bob=bob,
        cid=cid,
        meeting=meeting,
        other=other,
        seats=seats,
        badge=await Badge.create(person=ann, title="chair"),
        desk=await Desk.create(person=ann),
    )


def path_queries(world: World) -> dict[CacheQuery[Any], Callable[[], Awaitable[Any]]]:
    """Returns queries along relation paths of every kind, each with a function that queries the database."""

    def one(rows: Any) -> Callable[[], Awaitable[Any]]:
        async def find() -> Any:
            return await rows.distinct().first()

        return find

    async def people() -> list[Person]:
        seats = await Seat.filter(meeting__number=1).order_by("position", "id").prefetch_related("person")
        return list({seat.person.id: seat.person for seat in seats}.values())

    async def meetings() -> list[Meeting]:
        return await Meeting.filter(place__town_id=world.oslo.id).order_by("-place__name", "number")

    async def towns() -> list[Town]:
        return await Town.filter(land__number=47)

    async def head() -> Person | None:
        ann = await Person.get_or_none(name="ann").prefetch_related("mentor__mentor")
        return ann.mentor.mentor if ann and ann.mentor else None

    return {
        PlaceOf(1): one(Place.filter(meetings__number=1)),
        TownOf(world.meeting.id): one(Town.filter(places__meetings__id=world.meeting.id)),
        LandOf(1): one(Land.filter(towns__places__meetings__number=1)),
        BadgeOf(1): one(Badge.filter(person__meetings__number=1)),
        DeskOf(1): one(Desk.filter(person__meetings__number=1)),
        OwnerOf(world.desk.id): one(Person.filter(desk__id=world.desk.id)),
        HeadOf(world.ann.id): head,
        People(1): people,
        MeetingsIn(world.oslo.id): meetings,
        TownsOf(47): towns,
    }


def contents(answer: Any) -> Any:
    """Returns the column values of rows, because rows are equal by primary key alone."""
    if isinstance(answer, list):
        return [contents(row) for row in answer]
    return answer and {name: value for name, value in vars(answer).items() if name in answer._meta.db_fields}


async def answers(queries: Any) -> list[Any]:
    """Returns the contents of the answer to each query. A missing row is None."""
    found = await BatchCacheQuery(dict(enumerate(queries))).get(none_on_exception=True)
    return [contents(answer) for answer in found.values()]


async def assert_same_as_in_the_database(world: World) -> None:
    expected = path_queries(world)
    found = await answers(expected)
    for query, rows, ask in zip(expected, found, expected.values(), strict=True):
        assert rows == contents(await ask()), query


class TestPaths:
    async def test_paths_of_every_kind_are_answered_by_the_database_and_then_by_the_cache(
        self, world: World, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await cache.clear_all()
        await assert_same_as_in_the_database(world)
        async with assert_ops(backend, sql=0):
            await answers(path_queries(world))
        async with assert_ops(backend, sql=0, redis=["read"]):
            found = await answers(path_queries(world))
        assert None not in found
        assert [] not in found
        assert [person["name"] for person in found[7]] == ["cid", "ann", "bob"]

    @pytest.mark.parametrize(
        ("query", "statements"),
        [
            (lambda world: PlaceOf(1), 2),
            (lambda world: TownOf(world.meeting.id), 3),
            (lambda world: LandOf(1), 4),
            (lambda world: DeskOf(1), 3),
            (lambda world: HeadOf(world.ann.id), 3),
            (lambda world: People(1), 3),
            (lambda world: MeetingsIn(world.oslo.id), 3),
            (lambda world: Card(1), 7),
            (lambda world: Agenda(world.hall), 3),
        ],
    )
    async def test_a_path_takes_one_statement_for_each_step_and_then_one_round_trip(
        self, world: World, cache: ModelCache, backend: CountingBackend, query: Any, statements: int
    ) -> None:
        await cache.clear_all()
        async with assert_ops(backend, sql=statements):
            first = await query(world)
        for _ in range(2):
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert contents(await query(world)) == contents(first)

    async def test_without_predictions_a_path_takes_a_read_for_each_step_once(
        self, world: World, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await answers([People(1), LandOf(1)])
        cache.open_cache.predictions.clear()
        async with assert_ops(backend, sql=0, redis=["read"] * 5):
            await People(1)  # index and row of the meeting, index and rows of its seats, and the people
        async with assert_ops(backend, sql=0, redis=["read"]):
            await People(1)
        async with assert_ops(backend, sql=0) as ops:
            await LandOf(1)  # only the meeting is predicted
        assert len(ops.operations) > 1

    async def test_a_path_that_ends_early_raises_or_gives_an_empty_list(
        self, world: World, backend: CountingBackend
    ) -> None:
        world.meeting.place = None
        await world.meeting.save()
        await world.desk.delete()
        queries = [PlaceOf(1), TownOf(world.meeting.id), LandOf(1), DeskOf(1), HeadOf(world.cid.id), PlaceOf(9)]
        for model, query in zip([Place, Town, Land, Desk, Person, Place], queries, strict=True):
            with pytest.raises(DoesNotExist) as caught:
                await query
            assert caught.value.model is model  # type: ignore[attr-defined]
        assert await People(2) == []
        assert await People(9) == []
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await answers([*queries, People(2), People(9)]) == [None] * 6 + [[], []]

    async def test_a_path_to_one_row_raises_if_it_leads_to_several_rows(
        self, world: World, backend: CountingBackend
    ) -> None:
        third = await Meeting.create(number=3, host=world.ann, place=world.hall)
        assert await HostAt(world.hall) == world.ann
        third.host = world.bob
        await third.save()
        for _ in range(2):
            with pytest.raises(MultipleObjectsReturned) as caught:
                await HostAt(place=world.hall.id)
            assert caught.value.model is Person  # type: ignore[attr-defined]

    async def test_paths_follow_keys_that_the_database_compares_as_equal(
        self, cache: ModelCache, database: BaseDBAsyncClient
    ) -> None:
        tag, other = await Tag.create(code="de"), await Tag.create(code="fr")
        written = "DE" if database.capabilities.dialect == "mysql" else "de"
        label = await Label.create(tag_id=written)
        for _ in range(2):
            assert await TagOf(label.id) == tag
            assert await LabelsOf("de") == [label]
        label.tag = other
        await label.save()
        for _ in range(2):
            assert await TagOf(label.id) == other
            assert await LabelsOf("de") == []

    @pytest.mark.only_on("sqlite", because="nothing is asked of a database")
    @pytest.mark.only_on("memory", because="nothing is asked of a store")
    async def test_a_row_loaded_without_the_column_of_a_relation_is_an_error(
        self, world: World, cache: ModelCache
    ) -> None:
        rows = [await Meeting.filter(number=1).only("id", "number").get()]
        path = cache.open_cache.classes[PlaceOf]
        assert isinstance(path, RelationPath)
        with pytest.raises(ValueError, match=r"'place' cannot be followed .* loaded without place_id: let the model's"):
            path.hops[0].value(rows[0])

    async def test_each_caller_gets_an_instance_of_its_own(self, world: World) -> None:
        first, second = await asyncio.gather(PlaceOf(1), PlaceOf(1))
        assert first == second
        assert first is not second
        first.name = "changed"
        await first.save(update_fields=["name"])
        assert (await PlaceOf(1)).name == "changed"

    async def test_paths_share_a_read_with_the_other_queries_of_a_batch(
        self, world: World, backend: CountingBackend
    ) -> None:
        queries = {"people": People(1), "land": LandOf(1), "card": Card(1), "bob": Person.cache.get(name="bob")}
        await BatchCacheQuery(queries)
        for query in queries.values():  # any of the queries may have filled the entries that they share
            await query
        async with assert_ops(backend, sql=0, redis=["read"]):
            found = await BatchCacheQuery(queries)
        assert found["bob"] == world.bob
        assert found["land"] == world.norway

    async def test_only_cache_leaves_out_paths_with_a_missing_row(
        self, world: World, cache: ModelCache, backend: CountingBackend
    ) -> None:
        batch = BatchCacheQuery(people=People(1), land=LandOf(1), card=Card(1))
        await batch
        await cache.clear(Land)
        async with assert_ops(backend, sql=0):
            assert set(await batch.get(only_cache=True)) == {"people"}

    async def test_in_a_transaction_and_with_the_cache_disabled_paths_query_the_database(
        self, world: World, cache: ModelCache, backend: CountingBackend
    ) -> None:
        assert await PlaceOf(1) == world.hall
        await Card(1)
        async with in_transaction():
            world.meeting.place = world.barn
            await world.meeting.save()
            async with assert_ops(backend, redis=0):
                assert await PlaceOf(1) == world.barn
                assert (await Card(1)).place == world.barn
        assert await PlaceOf(1) == world.barn
        async with assert_ops(backend, redis=0, sql=2):
            with cache.disabled():
                assert await PlaceOf(1) == world.barn

    async def test_key_refresh_and_invalidate_apply_to_the_first_step_of_a_path(
        self, world: World, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for name in ("People", "PlaceOf"):
            assert name not in Meeting.cache.key(People(1))
        assert Meeting.cache.key(People(1)) == Meeting.cache.key(PlaceOf(1))
        people = await People(1)
        async with assert_ops(backend, sql=2):
            assert await Meeting.cache.refresh(People(1)) == people
        await People(1).invalidate()
        async with assert_ops(backend, sql=1):
            await People(1)
        async with assert_ops(backend, sql=0):
            await People(1)


class Writes:
    """Every kind of write to every step of the paths."""

    @staticmethod
    async def save_at_the_end(world: World) -> None:
        world.norway.name = "noreg"
        await world.norway.save()
        world.cid.name = "cis"
        await world.cid.save(update_fields=["name"])

    @staticmethod
    async def point_to_another_row(world: World) -> None:
        world.meeting.place, world.meeting.host = world.barn, world.bob
        await world.meeting.save()

    @staticmethod
    async def point_to_another_row_in_the_middle(world: World) -> None:
        world.hall.town = world.rome
        await world.hall.save(update_fields=["town_id"])

    @staticmethod
    async def point_to_a_field_that_is_not_the_primary_key(world: World) -> None:
        world.oslo.land = world.italy
        await world.oslo.save()

    @staticmethod
    async def point_to_nothing(world: World) -> None:
        world.meeting.place = None
        world.ann.mentor = None
        world.desk.person = None
        for row in (world.meeting, world.ann, world.desk):
            await row.save()

    @staticmethod
    async def point_another_row_to_the_path(world: World) -> None:
        await Desk.filter(id=world.desk.id).update(person_id=world.bob.id)
        world.meeting.host = world.bob
        await world.meeting.save()
        world.rome.land = world.norway
        await world.rome.save()

    @staticmethod
    async def create_in_the_middle(world: World) -> None:
        await Seat.create(meeting=world.meeting, person=await Person.create(name="dan"), position=-1)
        await Meeting.create(number=3, host=world.ann, place=world.hall)
        await Town.create(name="bergen", land=world.norway)

    @staticmethod
    async def create_at_a_one_to_one_relation(world: World) -> None:
        world.meeting.host = world.bob
        await world.meeting.save()
        await answers(path_queries(world))  # neither the badge nor the desk exists
        await Badge.create(person=world.bob, title="deputy")
        await Desk.create(person=world.bob)

    @staticmethod
    async def reorder(world: World) -> None:
        await world.seats[2].delete()
        world.seats[0].position = 9
        await world.seats[0].save()
        world.barn.name = "zoo"
        await world.barn.save()

    @staticmethod
    async def leave_lists(world: World) -> None:
        world.seats[1].meeting = world.other
        await world.seats[1].save()
        await Place.filter(id=world.barn.id).update(town_id=world.rome.id)

    @staticmethod
    async def delete_in_the_middle(world: World) -> None:
        await world.seats[1].delete()
        await world.badge.delete()
        await world.desk.delete()

    @staticmethod
    async def cascade_and_set_null(world: World) -> None:
        await world.norway.delete()
        await world.cid.delete()
        await world.hall.delete()

    @staticmethod
    async def cascade_over_two_levels(world: World) -> None:
        await world.ann.delete()

    @staticmethod
    async def bulk(world: World) -> None:
        await Seat.bulk_create([Seat(meeting=world.meeting, person=world.ann, position=-n) for n in (1, 2)])
        world.hall.town, world.barn.town = world.rome, world.rome
        await Place.bulk_update([world.hall, world.barn], fields=["town_id"])
        await Meeting.filter(number=2).update(place_id=world.hall.id)
        await Desk.filter(person_id=world.ann.id).delete()

    @staticmethod
    async def in_transaction(world: World) -> None:
        async with in_transaction():
            await world.seats[0].delete()
            world.meeting.place = world.barn
            await world.meeting.save()
            await Person.filter(name="bob").update(mentor_id=world.ann.id)

    @staticmethod
    async def rolled_back(world: World) -> None:
        async with in_transaction() as connection:
            await world.seats[0].delete()
            await connection.rollback()

    @staticmethod
    async def behind_the_cache(world: World) -> None:
        await Seat._meta.db.execute_script("UPDATE seat SET position = 7 WHERE position = 0")
        await Seat.cache.clear()


WRITES: list[Any] = [write.__func__ for write in vars(Writes).values() if isinstance(write, staticmethod)]


class TestWrites:
    @pytest.mark.exhaustive(because="every way of writing")
    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    @pytest.mark.only_on("redis", because="a write names the same keys to every store")
    async def test_every_write_is_seen_at_once(
        self, world: World, cache: ModelCache, backend: CountingBackend, write: Callable[[World], Awaitable[None]]
    ) -> None:
        for _ in range(2):
            await answers([*path_queries(world), Card(1)])
        await write(world)
        await assert_same_as_in_the_database(world)
        assert await selected(Card(1)) == await selected(Meeting.get_or_none(number=1).select_related(*SELECTED))
        async with assert_ops(backend, sql=0):
            await answers([*path_queries(world), Card(1)])
        async with assert_ops(backend, sql=0, redis=["read"]):
            await answers([*path_queries(world), Card(1)])

    @pytest.mark.exhaustive(because="every way of writing")
    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    @pytest.mark.only_on("sqlite", because="what a scope remembers depends on no database")
    @pytest.mark.only_on("memory", because="what a scope remembers depends on no store")
    async def test_every_write_is_seen_in_the_request_scope_that_writes(
        self, world: World, cache: ModelCache, write: Callable[[World], Awaitable[None]]
    ) -> None:
        async with local_cache():
            await answers([*path_queries(world), Card(1)])
            await write(world)
            await assert_same_as_in_the_database(world)
            assert await selected(Card(1)) == await selected(Meeting.get_or_none(number=1).select_related(*SELECTED))

    async def test_writes_are_seen_in_a_request_scope_without_predictions(
        self, world: World, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Predictions, "predict", lambda predictions, key: Prediction([], []))
        async with local_cache():
            await answers(path_queries(world))
            await Writes.leave_lists(world)
            await assert_same_as_in_the_database(world)

    async def test_writes_to_unrelated_rows_invalidate_no_path(self, world: World, backend: CountingBackend) -> None:
        await answers(path_queries(world))
        await Town.create(name="turin", land=world.italy)
        await Seat.create(meeting=world.other, person=world.ann)
        world.italy.name = "italia"
        await world.italy.save()
        async with assert_ops(backend, sql=0, redis=["read"]):
            await answers(path_queries(world))

    async def test_rows_read_ahead_are_not_used_after_a_row_that_was_loaded_later(
        self, world: World, cache: ModelCache, database: BaseDBAsyncClient
    ) -> None:
        """The meeting is loaded from the database after its seats were read ahead, so the seats are read again."""
        await People(1)
        await Meeting.cache.invalidate(world.meeting)
        with gated_sql(database) as gates:
            gate = gates.hold("SELECT")
            reading = asyncio.ensure_future(People(1).resolve())
            await gate.reached()
            await Seat.create(meeting=world.meeting, person=world.bob, position=-1)
            gate.open()
            assert await reading == [world.bob, world.cid, world.ann]


SELECTED = ("host__badge", "host__mentor", "place__town__land")


async def selected(query: Any) -> Any:
    """Returns the contents of a meeting and of the rows attached along the paths that ``Card`` selects."""
    try:
        meeting = await query
    except DoesNotExist:
        meeting = None
    if meeting is None:
        return None
    found = [contents(meeting)]
    for path in SELECTED:
        row = meeting
        for name in path.split("__"):
            row = row and vars(row)[f"_{name}"]
        found.append(contents(row))
    return found


class TestSelectRelated:
    async def test_selected_relations_are_attached_as_if_fetched(self, world: World, backend: CountingBackend) -> None:
        await Card(1)
        async with assert_ops(backend, sql=0, redis=["read"]):
            meeting = await Card(1)
        async with assert_ops(backend, sql=0, redis=0):
            assert meeting.host.name == "ann"
            assert meeting.host.badge.title == "chair"
            assert meeting.host.mentor
            assert meeting.host.mentor.name == "bob"
            assert meeting.place
            assert meeting.place.town
            assert meeting.place.town.land
            assert meeting.place.town.land.name == "norway"
            assert await meeting.host is meeting.host
        meeting.number = 11
        await meeting.save()
        assert (await Card(11)).host == world.ann
        assert (await CardById(meeting.id)).host == world.ann

    async def test_null_and_missing_rows_are_attached_as_none(self, world: World) -> None:
        world.meeting.place = None
        await world.meeting.save()
        await world.badge.delete()
        for _ in range(2):
            meeting = await Card(1)
            assert meeting.place is None
            assert meeting.host.badge is None
        with pytest.raises(DoesNotExist):
            await Card(9)

    async def test_rows_of_a_list_share_the_instances_of_their_related_rows(
        self, world: World, backend: CountingBackend
    ) -> None:
        await Meeting.create(number=3, host=world.ann, place=world.hall)
        await Meeting.create(number=4, host=world.bob, place=world.hall)
        await Agenda(world.hall)
        async with assert_ops(backend, sql=0, redis=["read"]):
            bobs, anns, first = await Agenda(world.hall)
        assert [meeting.number for meeting in (bobs, anns, first)] == [4, 3, 1]
        assert first.host is anns.host
        assert first.host.desk == world.desk
        assert bobs.host.desk is None

    async def test_in_a_request_scope_each_row_is_one_object(self, world: World, backend: CountingBackend) -> None:
        async with local_cache():
            meeting = await Card(1)
            async with assert_ops(backend, redis=0):
                assert await Card(1) is meeting
                assert await Person.cache.get(id=world.ann.id) is meeting.host
            assert await People(1) == [world.cid, meeting.host, world.bob]
            assert (await People(1))[1] is meeting.host
            listed = await People(1)
            listed.clear()
            assert await People(1)


class TestPrefetch:
    async def test_prefetch_follows_reverse_one_to_one_relations(self, world: World, backend: CountingBackend) -> None:
        await Person.cache.prefetch([world.ann, world.bob], "badge")
        people = await Person.all().order_by("name")
        async with assert_ops(backend, sql=0, redis=["read"]):
            await Person.cache.prefetch(people[:2], "badge")
        assert [person.badge for person in people[:2]] == [world.badge, None]
        for name, message in (
            ("desk", r'Desk has no cache by person_id: add \("person_id",\) to get_key_fields_list of Desk'),
            ("seats", "Person.seats cannot be prefetched: Seat has no list by"),
        ):
            with pytest.raises(CacheNotRegistered, match=message):
                await Person.cache.prefetch(people, name)
