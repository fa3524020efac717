"""``get_results``: the results that lookups of one tick miss are computed by one call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheError, DontCache, ModelCache
from aiomodelcache.declare.bulk_results import compute_together
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE
from tests.support.models.list_models import (
    Calls,
    LatestTalkOf,
    PlacesOfTalks,
    Products,
    Talk,
    TalkNumbers,
    TalksByTrack,
    Track,
    TrackNames,
    TrackSizes,
)

pytestmark = pytest.mark.models("tests.support.models.list_models")


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    await Track.bulk_create([Track(id=n, name=str(n)) for n in range(1, 5)])
    await Talk.bulk_create([Talk(track_id=n, place=at) for n in range(1, 4) for at in range(n)])
    Calls.talk_numbers.clear()
    for calls in (Calls.places, Calls.tracks, Calls.factors):
        calls.clear()
    async with ModelCache(backend) as opened:
        yield opened


def places(*keys: tuple[int, int]) -> dict[Any, PlacesOfTalks]:
    return {key: PlacesOfTalks(*key) for key in keys}


class TestCalls:
    async def test_all_misses_of_a_tick_are_one_call(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=1):
            assert await asyncio.gather(*[TalkNumbers(n) for n in (3, 1, 2, 3, 4)]) == [3, 1, 2, 3, 0]
        assert Calls.talk_numbers == [[3, 1, 2, 4]]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await BatchCacheQuery({n: TalkNumbers(n) for n in (1, 2, 3, 4)}) == {1: 1, 2: 2, 3: 3, 4: 0}
        assert await TalkNumbers(1) == 1
        assert len(Calls.talk_numbers) == 1

    async def test_a_write_invalidates_the_results_of_its_keys_alone(self, cache: ModelCache) -> None:
        queries = [TalkNumbers(n) for n in (1, 2, 3)]
        await asyncio.gather(*queries)
        await Talk.create(track_id=1, place=9)
        assert await asyncio.gather(*queries) == [2, 2, 3]
        assert Calls.talk_numbers == [[1, 2, 3], [1]]
        await Talk.filter(track_id=2).update(track_id=3)
        assert await asyncio.gather(*queries) == [2, 0, 5]
        assert Calls.talk_numbers[2:] == [[2, 3]]

    async def test_a_later_tick_is_another_call(self, cache: ModelCache) -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def slow(keys: list[Any]) -> list[int]:
            started.set()
            await go_on.wait()
            return [len(Calls.places) for _ in keys]

        Calls.find_places = slow
        first = asyncio.create_task(PlacesOfTalks(1, 1).resolve())
        await started.wait()
        second = asyncio.create_task(PlacesOfTalks(1, 2).resolve())
        async with asyncio.timeout(PATIENCE):
            while len(Calls.places) < 2:
                await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, second)
        assert Calls.places == [[(1, 1)], [(1, 2)]]

    async def test_keys_of_several_fields_are_tuples_and_results_a_list(self, cache: ModelCache) -> None:
        Calls.find_places = lambda keys: [f"{track}/{place}" for track, place in keys]
        assert await BatchCacheQuery(places((1, 0), (2, 1))) == {(1, 0): "1/0", (2, 1): "2/1"}
        assert Calls.places == [[(1, 0), (2, 1)]]

    async def test_a_missing_result_of_a_dict_is_none_and_is_cached(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        Calls.find_places = lambda keys: {(1, 0): "found"}
        assert await BatchCacheQuery(places((1, 0), (2, 1))) == {(1, 0): "found", (2, 1): None}
        async with assert_ops(backend, redis=["read"]):
            assert await PlacesOfTalks(2, 1) is None
        assert len(Calls.places) == 1

    async def test_an_exception_is_that_of_its_result_alone_and_dont_cache_too(self, cache: ModelCache) -> None:
        Calls.find_places = lambda keys: [
            {1: KeyError("one"), 2: DontCache("two"), 3: "three"}[track] for track, _ in keys
        ]
        for calls in (1, 2):
            result = await BatchCacheQuery(places((1, 0), (2, 0), (3, 0))).get(return_exceptions=True)
            assert isinstance(result[1, 0], KeyError)
            assert (result[2, 0], result[3, 0]) == ("two", "three")
            assert len(Calls.places) == calls
        assert Calls.places[1] == [(1, 0), (2, 0)]

    async def test_an_error_of_the_call_is_raised_for_all(self, cache: ModelCache) -> None:
        async def failing(keys: list[Any]) -> None:
            raise OSError("no answer")

        for found, kind, message in (
            (failing, OSError, "no answer"),
            (lambda keys: ["one"], CacheError, "PlacesOfTalks.get_results returned 1 results for 2 arguments"),
            (
                lambda keys: 7,
                CacheError,
                "PlacesOfTalks.get_results returned <int>: return a list of results, or a dict",
            ),
        ):
            Calls.find_places = found
            result = await BatchCacheQuery(places((1, 0), (2, 1))).get(return_exceptions=True)
            for error in result.values():
                assert isinstance(error, kind)
                assert message in str(error)
        Calls.find_places = lambda keys: ["fine" for _ in keys]
        assert await PlacesOfTalks(1, 0) == "fine"

    async def test_awaiting_a_result_inside_of_its_own_call_is_an_error(self, cache: ModelCache) -> None:
        async def circular(keys: list[Any]) -> Any:
            return [await PlacesOfTalks(2, 1) for _ in keys]

        Calls.find_places = circular
        result = await BatchCacheQuery(places((1, 0), (2, 1))).get(return_exceptions=True)
        assert all("is computed by awaiting itself" in str(error) for error in result.values())


class TestRows:
    async def test_instances_of_a_tick_are_found_by_one_call(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=1):
            found = await asyncio.gather(*[LatestTalkOf(n) for n in (1, 2, 3, 4)])
        assert [talk and talk.place for talk in found] == [0, 1, 2, None]
        async with assert_ops(backend, sql=1):  # the row, which only a result refers to so far
            assert (await LatestTalkOf(3)) == found[2]
        async with assert_ops(backend, redis=["read"], sql=0):
            assert (await LatestTalkOf(3)) == found[2]
        await Talk.create(track_id=2, place=7)
        assert [talk and talk.place for talk in await asyncio.gather(LatestTalkOf(2), LatestTalkOf(3))] == [7, 2]

    async def test_lists_of_a_tick_are_found_by_one_call(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=1):
            found = await asyncio.gather(TalksByTrack(2), TalksByTrack(track=4))
        assert [[talk.place for talk in talks] for talks in found] == [[0, 1], []]
        await Talk.filter(track_id=2, place=0).delete()
        assert [talk.place for talk in await TalksByTrack(2)] == [1]


class TestValues:
    async def test_values_of_a_tick_are_one_call(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, sql=1):
            assert await asyncio.gather(*[TrackNames(n) for n in (3, 1, 3, 9)]) == ["3", "1", "3", None]
        assert Calls.tracks == [[3, 1, 9]]
        async with assert_ops(backend, redis=["read"], sql=0):
            assert await BatchCacheQuery({n: TrackNames(n) for n in (1, 3, 9)}) == {1: "1", 3: "3", 9: None}

    async def test_values_depend_on_what_the_call_read(self, cache: ModelCache) -> None:
        assert await asyncio.gather(TrackNames(1), TrackNames(2)) == ["1", "2"]
        await Track.filter(id=2).update(name="two")
        assert await asyncio.gather(TrackNames(1), TrackNames(2)) == ["1", "two"]
        await TrackNames(1).invalidate()
        assert await asyncio.gather(TrackNames(1), TrackNames(2)) == ["1", "two"]
        assert Calls.tracks == [[1, 2], [1, 2], [1]]

    async def test_exceptions_that_are_stored_follow_writes_too(self, cache: ModelCache) -> None:
        queries = [TrackSizes(1), TrackSizes(8)]
        for _ in range(2):
            found = await asyncio.gather(*queries, return_exceptions=True)
            assert (found[0], repr(found[1])) == (1, "KeyError(8)")
        assert Calls.tracks == [[1, 8]]
        await Track.create(id=8, name="eight")
        assert await asyncio.gather(*queries) == [1, 5]
        many = [TrackSizes(n) for n in (2, 3, 4)]
        for _ in range(2):
            found = await asyncio.gather(*many, return_exceptions=True)
            assert list(map(repr, found)) == ["OSError('too many')"] * 3
        assert Calls.tracks == [[1, 8], [1, 8], [2, 3, 4]]

    async def test_instances_among_the_arguments_are_read_again(self, cache: ModelCache) -> None:
        track = await Track.get(id=1)
        track.name = "not saved"
        assert await TrackNames(track) == "1"
        [[read]] = Calls.tracks
        assert (read, read.name) == (track, "1")

    async def test_a_transaction_computes_its_own_values(self, cache: ModelCache, backend: CountingBackend) -> None:
        await asyncio.gather(TrackNames(1), TrackNames(2))
        async with in_transaction():
            await Track.filter(id=1).update(name="one")
            async with assert_ops(backend, redis=0, sql=1):
                assert await asyncio.gather(TrackNames(1), TrackNames(2)) == ["one", "2"]
        assert await TrackNames(1) == "one"

    @pytest.mark.only_on("sqlite", because="it asks no database")
    async def test_several_arguments_tags_and_results_that_are_not_stored(self, cache: ModelCache) -> None:
        queries = [Products(2, 3), Products(5), Products(2, -1), Products(7, 0)]
        for calls in (1, 2):
            found = await asyncio.gather(*queries, return_exceptions=True)
            assert found[:3] == [6, 5, -2]
            assert isinstance(found[3], ValueError)
            assert len(Calls.factors) == calls
        assert Calls.factors == [[(2, 3), 5, (2, -1), (7, 0)], [(2, -1), (7, 0)]]
        await cache.invalidate_tags("products:5")
        assert await asyncio.gather(*queries[:2]) == [6, 5]
        with pytest.raises(TypeError, match=r"Products.*got an unexpected keyword argument"):
            Products(factor=2)


class TestElsewhere:
    async def test_a_transaction_computes_its_own_results_together(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await asyncio.gather(TalkNumbers(1), TalkNumbers(2))
        async with in_transaction():
            await Talk.filter(track_id=1).delete()
            async with assert_ops(backend, redis=0, sql=1):
                assert await asyncio.gather(TalkNumbers(1), TalkNumbers(2)) == [0, 2]
        assert Calls.talk_numbers[1:] == [[1, 2]]
        assert await TalkNumbers(1) == 0

    @pytest.mark.only_on("sqlite", because="it asks no database")
    async def test_a_block_that_bypasses_the_cache_has_calls_of_its_own(self, cache: ModelCache) -> None:
        calls: list[list[int]] = []

        async def compute_all(arguments: list[tuple[int]], versions: object) -> list[int]:
            calls.append([argument for (argument,) in arguments])
            return calls[-1]

        async def compute(argument: int, *, bypassing: bool) -> Any:
            with cache.disabled() if bypassing else nullcontext():
                return await compute_together((cache, None), b"%d" % argument, (argument,), (), "it", compute_all)

        computations = [compute(1, bypassing=False), compute(2, bypassing=True), compute(3, bypassing=False)]
        assert await asyncio.gather(*computations) == [1, 2, 3]
        assert sorted(calls) == [[1, 3], [2]]

    async def test_results_depend_on_what_the_call_read_of_other_models(self, cache: ModelCache) -> None:
        async def names(keys: list[Any]) -> list[str]:
            found = await Track.filter(id__in=[track for track, _ in keys]).order_by("id")
            return [next(each.name for each in found if each.id == track) for track, _ in keys]

        Calls.find_places = names
        assert list((await BatchCacheQuery(places((1, 0), (2, 0)))).values()) == ["1", "2"]
        await Track.filter(id=2).update(name="two")
        assert list((await BatchCacheQuery(places((1, 0), (2, 0)))).values()) == ["1", "two"]
