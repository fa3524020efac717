"""Computed results: computed once, then answered by the cache, and invalidated by every write."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

import pytest
from tortoise.expressions import F
from tortoise.functions import Max
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, ModelCache, cached, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.result_models import Best, Club, ClubSize, HasMembers, Member, MemberCount, Numbers, Points

pytestmark = pytest.mark.models("tests.support.models.result_models")


async def as_computed(team: int) -> dict[str, Any]:
    """Returns the expected results of a team, computed from the database."""
    members = await Member.filter(team=team).order_by("number")
    best = await Member.filter(team=team).order_by("-points", "id").first()
    return {
        "count": len(members),
        "exists": bool(members),
        "best": best and vars(best),
        "points": {member.number: member.points for member in members},
        "members": [vars(member) for member in members],
        "numbers": [member.number for member in members],
    }


async def as_cached(team: int) -> dict[str, Any]:
    count, exists, best, points, numbers = await asyncio.gather(
        MemberCount(team), HasMembers(team), Best(team), Points(team), Numbers(team)
    )
    return {
        "count": count,
        "exists": exists,
        "best": best and vars(best),
        "points": points["points"],
        "members": [vars(member) for member in points["members"]],
        "numbers": numbers,
    }


async def create_team(team: int, *points: int) -> list[Member]:
    return [await Member.create(team=team, points=value, number=10 * team + at) for at, value in enumerate(points)]


class TestNulls:
    """A None that was loaded beside the columns of a row: an annotation, or a related row that is not there."""

    async def test_it_is_there_in_a_scope_that_has_the_row(self, cache: ModelCache) -> None:
        await create_team(1, 5)
        annotated = Member.annotate(oldest=F("club_id")).select_related("club")
        with local_cache():
            await Member.cache.get(id=1)
            for _ in range(2):
                [member] = await Member.cache.query(annotated)
                assert (member.oldest, member.club) == (None, None)
                [member] = await Member.cache.query(Member.all().select_related("club"))
                assert vars(member)["_club"] is None

    async def test_a_row_with_such_an_annotation_is_not_stored_by_reference(
        self, cache: ModelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def best(_: Best, team: int) -> Any:
            return await Member.annotate(newest=Max("club__id")).filter(team=team).first()

        monkeypatch.setattr(Best, "get_instance", best)
        await create_team(1, 5)
        assert [(await Best(1)).newest for _ in range(2)] == [None, None]
        assert "a Member with newest cannot be cached" in caplog.text


class TestReading:
    async def test_results_are_computed_once(self, cache: ModelCache, backend: CountingBackend) -> None:
        await create_team(1, 5, 7)
        first = await as_cached(1)
        assert first == await as_computed(1)
        await as_cached(1)  # learns the predictions of the instances
        async with assert_ops(backend, sql=0, redis=1):
            assert await as_cached(1) == first

    async def test_results_without_rows_are_cached_too(self, cache: ModelCache, backend: CountingBackend) -> None:
        expected = await as_computed(2)
        assert await as_cached(2) == expected
        async with assert_ops(backend, sql=0, redis=1):
            assert await as_cached(2) == expected

    async def test_concurrent_callers_share_a_computation_and_no_objects(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await create_team(1, 5, 7)
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
            found = await asyncio.gather(*[Points(1) for _ in range(20)])
        assert all(result["points"] == {10: 5, 11: 7} for result in found)
        found[0]["points"].clear()
        found[0]["members"][0].name = "changed"
        assert found[1]["points"]
        assert found[1]["members"][0].name == ""

    async def test_a_later_caller_waits_for_the_first_computation(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await create_team(1, 5)
        async with assert_ops(backend, sql=1):
            first = asyncio.ensure_future(Numbers(1).resolve())
            while "lease" not in backend.operations:
                await asyncio.sleep(0)
            assert await Numbers(1) == await first == [10]

    async def test_dont_cache_keeps_a_result_out_of_the_cache(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await create_team(-1, 5)
        for _ in range(2):
            async with assert_ops(backend, sql=1):
                assert (await Points(-1))["points"] == {-10: 5}

    async def test_results_can_be_part_of_a_batch(self, cache: ModelCache, backend: CountingBackend) -> None:
        members = await create_team(1, 5, 7)
        batch = BatchCacheQuery(count=MemberCount(team=1), best=Best(1), member=Member.cache.get(id=members[0].id))
        for _ in range(2):
            found = await batch
        async with assert_ops(backend, sql=0, redis=1):
            again = await batch.get(only_cache=True)
        assert again == found == {"count": 2, "best": members[1], "member": members[0]}

    async def test_only_cache_computes_nothing(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=0, redis=1):
            assert await BatchCacheQuery(count=MemberCount(team=1)).get(only_cache=True) == {}

    async def test_an_error_is_raised_in_the_caller_and_not_cached(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Numbers(3)

        async def fail(team: int) -> Any:
            raise LookupError(team)

        query.get_result = fail  # type: ignore[method-assign]
        with pytest.raises(LookupError):
            await query
        assert await Numbers(3) == []
        async with assert_ops(backend, sql=0):
            await Numbers(3)

    async def test_in_a_request_scope_a_result_is_the_same_object_until_a_write(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        members = await create_team(1, 5, 7)
        async with local_cache():
            best = await Best(1)
            async with assert_ops(backend, sql=0, redis=0):
                assert await Best(1) is best
                assert await Member.cache.get(id=members[1].id) is best
            await Member.filter(id=members[0].id).update(points=9)
            assert await Best(1) == members[0]

    async def test_values_are_not_computed_from_rows_that_a_request_scope_remembers(
        self, database: Any, backend: CountingBackend
    ) -> None:
        outside = copy_context()
        async with local_cache(), ModelCache(backend):
            [member] = await create_team(1, 5)

            @cached()
            async def name() -> str:
                return (await Member.cache.get(id=member.id)).name

            async def rename() -> None:
                await Member.filter(id=member.id).update(name="new")

            assert (await Member.cache.get(id=member.id)).name == await name() == ""
            await asyncio.create_task(rename(), context=outside)
            await name.invalidate()
            assert await name() == "new"

    async def test_in_a_transaction_results_are_computed_from_the_database(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await create_team(1, 5)
        assert await MemberCount(1) == 1
        async with in_transaction():
            await Member.create(team=1, number=99)
            async with assert_ops(backend, redis=0):
                assert await MemberCount(1) == 2
                assert await Numbers(1) == [10, 99]
        assert await MemberCount(1) == 2

    async def test_instances_of_a_result_are_as_fresh_as_their_rows(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        [member] = await create_team(1, 5)
        await Points(1)
        await Member.filter(id=member.id).update(name="new")
        assert (await Points(1))["members"][0].name == "new"

    async def test_results_can_be_invalidated_explicitly(
        self, cache: ModelCache, backend: CountingBackend, database: Any
    ) -> None:
        [member] = await create_team(1, 5)
        for invalidate in (
            MemberCount(1).invalidate,
            lambda: Member.cache.invalidate(member),
            Member.cache.clear,
        ):
            await MemberCount(1)
            await invalidate()
            async with assert_ops(backend, sql=1):
                assert await MemberCount(1) == 1


class Writes:
    """Every way to write a member. Each method takes the first member of team 1 and that of team 2."""

    @staticmethod
    async def save(one: Member, two: Member) -> None:
        one.points = 50
        await one.save()

    @staticmethod
    async def save_of_one_column(one: Member, two: Member) -> None:
        one.points = 50
        await one.save(update_fields=["points"])

    @staticmethod
    async def move(one: Member, two: Member) -> None:
        one.team = 2
        await one.save()

    @staticmethod
    async def move_of_one_column(one: Member, two: Member) -> None:
        one.team = 2
        await one.save(update_fields=["team"])

    @staticmethod
    async def move_of_a_row_that_has_moved_before(one: Member, two: Member) -> None:
        stale = await Member.get(id=one.id)
        await Member.filter(id=one.id).update(team=2)
        await as_cached(1), await as_cached(2), await as_cached(3)
        stale.team = 3  # the instance has team 1, and the row has team 2
        await stale.save()

    @staticmethod
    async def forced(one: Member, two: Member) -> None:
        await Member(id=one.id, team=2, number=one.number).save(force_update=True)

    @staticmethod
    async def create(one: Member, two: Member) -> None:
        await Member.create(team=2, number=77)

    @staticmethod
    async def delete(one: Member, two: Member) -> None:
        await one.delete()

    @staticmethod
    async def delete_of_a_row_that_has_moved_before(one: Member, two: Member) -> None:
        stale = await Member.get(id=one.id)
        await Member.filter(id=one.id).update(team=2)
        await as_cached(1), await as_cached(2)
        await stale.delete()

    @staticmethod
    async def update(one: Member, two: Member) -> None:
        await Member.filter(points__gt=0).update(points=F("points") + 1)

    @staticmethod
    async def update_that_moves(one: Member, two: Member) -> None:
        await Member.filter(team=1).update(team=F("team") + 1)

    @staticmethod
    async def delete_many(one: Member, two: Member) -> None:
        await Member.filter(team__in=[1, 2]).delete()

    @staticmethod
    async def bulk_create(one: Member, two: Member) -> None:
        await Member.bulk_create([Member(team=1, number=77), Member(team=2, number=78)])

    @staticmethod
    async def bulk_update(one: Member, two: Member) -> None:
        one.team, two.team = 2, 3
        await Member.bulk_update([one, two], fields=["team"])

    @staticmethod
    async def in_transaction(one: Member, two: Member) -> None:
        async with in_transaction():
            one.team = 2
            await one.save()
            await two.delete()

    @staticmethod
    async def rolled_back(one: Member, two: Member) -> None:
        async with in_transaction() as connection:
            one.team = 2
            await one.save()
            await connection.rollback()

    @staticmethod
    async def get_or_create(one: Member, two: Member) -> None:
        await Member.get_or_create(number=500, defaults={"team": 2})

    @staticmethod
    async def update_or_create(one: Member, two: Member) -> None:
        await Member.update_or_create(number=one.number, defaults={"team": 2})


WRITES: list[Any] = [write.__func__ for write in vars(Writes).values() if isinstance(write, staticmethod)]


class TestWrites:
    @pytest.mark.exhaustive(because="every way of writing, with every kind of result")
    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    async def test_writes_invalidate_the_results_that_a_row_leaves_and_joins(
        self, cache: ModelCache, backend: CountingBackend, write: Callable[[Member, Member], Awaitable[None]]
    ) -> None:
        one, _ = await create_team(1, 5, 7)
        [two] = await create_team(2, 6)
        for team in (1, 2, 3):
            assert await as_cached(team) == await as_computed(team)
        await write(one, two)
        for team in (1, 2, 3):
            assert await as_cached(team) == await as_computed(team)

    async def test_a_foreign_key_that_the_database_sets_to_null_is_seen(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        red = await Club.create(name="red")
        await Member.create(number=1, club=red)
        assert (await ClubSize(red), await ClubSize(None)) == (1, 0)
        await red.delete()
        assert (await ClubSize(red), await ClubSize(club_id=None)) == (0, 1)

    async def test_writes_leave_unaffected_results_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        one, _ = await create_team(1, 5, 7)
        await create_team(2, 6)
        for _ in range(2):
            await as_cached(1), await as_cached(2)
        one.team = 3
        await one.save()
        async with assert_ops(backend, sql=0):
            await as_cached(2)
        await as_cached(3)
        await Member.filter(id=one.id).update(points=3)
        async with assert_ops(backend, sql=0):  # neither result depends on the points
            assert await asyncio.gather(MemberCount(3), HasMembers(3)) == [1, True]

    async def test_a_result_computed_during_a_write_is_not_stored(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await create_team(1, 5)
        query, computed, written = Numbers(1), asyncio.Event(), asyncio.Event()
        original = query.get_result

        async def slowly(team: int) -> Any:
            found = await original(team)
            computed.set()
            await written.wait()
            return found

        query.get_result = slowly  # type: ignore[method-assign]
        reading = asyncio.ensure_future(query.resolve())
        await computed.wait()
        await Member.create(team=1, number=77)
        written.set()
        assert await reading == [10]
        assert await Numbers(1) == [10, 77]


@pytest.mark.only_on("sqlite", "postgres", because="Tortoise writes an upsert that MariaDB does not know")
async def test_an_upsert_that_moves_rows_invalidates_both_results(cache: ModelCache) -> None:
    await Member.bulk_create([Member(number=n, team=1) for n in range(3)])
    assert [await MemberCount(team) for team in (1, 2)] == [3, 0]
    await Member.bulk_create(
        [Member(number=0, team=2), Member(number=9, team=2)], on_conflict=["number"], update_fields=["team"]
    )
    assert [await MemberCount(team) for team in (1, 2)] == [2, 2]
