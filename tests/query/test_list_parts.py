"""Slices, first rows and pages of lists: they have exactly the rows that the database would return at that moment."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, ModelCache, Page, QuerysetCache, cached, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import GatedBackend
from tests.support.models.list_models import Country, Post, Talk, Thread, TopPosts, TopTalks, Track

pytestmark = pytest.mark.models("tests.support.models.list_models")


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    """Ten talks in one track and ten posts in one thread, named by their order, which is descending by place."""
    await Track.bulk_create([Track(id=n, name=str(n)) for n in (1, 2)])
    await Thread.bulk_create([Thread(id=n) for n in (1, 2)])
    for model, parent in ((Talk, "track_id"), (Post, "thread_id")):
        await model.bulk_create([model(place=9 - n, title=str(n), **{parent: 1}) for n in range(10)])


@pytest.fixture
async def cache(rows: None, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend) as opened:
        yield opened


@pytest.fixture
def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend)


@pytest.fixture
async def gated(rows: None, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


def titles(rows: list[Any]) -> str:
    return "".join([row.title for row in rows])


def filled_rows(cache: ModelCache, model: type[Talk] | type[Post]) -> int:
    """Returns the number of rows that were stored so far."""
    return cache.open_cache.entries_of(model).rows.counters.fills


class TestSlices:
    async def test_a_slice_loads_its_rows_and_is_then_one_round_trip(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Post.cache.filter(thread=1)[2:5]
        async with assert_ops(backend, sql=2):  # the primary keys of the list, and three rows
            assert titles(await query) == "234"
        assert filled_rows(cache, Post) == 3
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert titles(await query) == "234"
        async with assert_ops(backend, sql=1):  # the rows that the first slice lacked
            assert titles(await Post.cache.filter(thread=1)[4:8]) == "4567"
        assert filled_rows(cache, Post) == 6
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert titles(await Post.cache.filter(thread=1)[3:7]) == "3456"

    async def test_slices_of_a_list_that_is_not_paged_read_the_rows_before(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Talk.cache.filter(track=1)[2:5]
        async with assert_ops(backend, sql=2):
            assert titles(await query) == "234"
        assert filled_rows(cache, Talk) == 3
        async with assert_ops(backend, sql=1):  # rows 0 and 1, to see whether they have left
            assert titles(await query) == "234"
        assert filled_rows(cache, Talk) == 5
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert titles(await query) == "234"

    async def test_slices_have_the_bounds_of_python(self, cache: ModelCache, backend: CountingBackend) -> None:
        whole = "0123456789"
        for source in (Post.cache.filter(thread=1), Talk.cache.filter(track=1), Talk.cache.all()):
            for start, stop in ((None, None), (8, 30), (10, 12), (40, 50), (3, 3), (5, 2), (7, None), (None, 2)):
                for _ in range(2):
                    assert titles(await source[start:stop]) == whole[start:stop], (source, start, stop)
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Post.cache.filter(thread=1)[0:0] == []
        assert await Post.cache.filter(thread=2)[0:3] == []
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Post.cache.filter(thread=2)[0:3] == []

    async def test_first_is_the_first_row_or_none(self, cache: ModelCache, backend: CountingBackend) -> None:
        for source in (Post.cache.filter(thread=1), Talk.cache.filter(track=1), Talk.cache.all(), TopTalks(1)):
            assert (await source.first()).title == "0"  # type: ignore[union-attr]
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert (await source.first()).title == "0"  # type: ignore[union-attr]
        for empty in (Post.cache.filter(thread=2), Talk.cache.filter(track=2), Country.cache.all()):
            assert await empty.first() is None
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert await empty.first() is None

    async def test_a_limit_ends_the_list(self, cache: ModelCache) -> None:
        for _ in range(2):
            assert titles(await TopTalks(1)[4:8]) == "45"
            assert titles(await TopPosts(1)[4:8]) == "54"
            page = await TopPosts(1).page(2, 4)
            assert (titles(page.items), page.total, page.has_next) == ("54", 6, False)
        await Talk.filter(title="0").delete()
        await Post.filter(title="9").delete()
        assert titles(await TopTalks(1)[4:8]) == "56"
        assert titles(await TopPosts(1)[4:8]) == "43"

    async def test_slices_batch_with_other_queries(self, cache: ModelCache, backend: CountingBackend) -> None:
        queries = {
            "slice": Post.cache.filter(thread=1)[2:4],
            "first": Talk.cache.all().first(),
            "page": Talk.cache.all().page(2, 3),
        }
        await BatchCacheQuery(queries)
        async with assert_ops(backend, sql=0, redis=["read"]):
            result = await BatchCacheQuery(queries)
        assert titles(result["slice"]) == "23"
        assert result["first"].title == "0"
        assert titles(result["page"].items) == "345"
        async with assert_ops(backend, sql=0, redis=["read"]):
            await asyncio.gather(*queries.values())

    async def test_many_slices_that_miss_in_one_tick_share_their_statements(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=2):
            found = await asyncio.gather(*[Post.cache.filter(thread=n)[at : at + 2] for n in (1, 2) for at in (0, 2)])
        assert list(map(titles, found)) == ["01", "23", "", ""]

    @pytest.mark.only_on("sqlite", because="bad slices are errors before anything is sent")
    async def test_what_is_no_slice_is_an_error(self, cache: ModelCache) -> None:
        query: Any = Talk.cache.filter(track=1)
        for bad in (3, "a", slice("a", None), slice(1.0, 2), slice(True)):
            with pytest.raises(TypeError, match=r"<FilterQuery Talk\(track=<int>\)> takes slices"):
                query[bad]
        for bad in (slice(-3, None), slice(0, -1), slice(0, 5, 2), slice(0, 5, -1), slice(0, 5, 0)):
            with pytest.raises(ValueError, match=r"<FilterQuery Talk\(track=<int>\)> takes no"):
                query[bad]
        for bad in ((0, 5), (1, 0), (-1, 5)):
            with pytest.raises(ValueError, match="must be 1 or more"):
                query.page(*bad)
        for bad in (("1", 5), (1, 2.0), (True, 5), (1, None)):
            with pytest.raises(TypeError, match="is a whole number; got"):
                query.page(*bad)


@pytest.mark.only_on("sqlite", because="it is an error before anything is sent")
@pytest.mark.parametrize("declared", [{}, {"order_by": ["-id"]}, {"order_by": ("-id",)}], ids=str)
def test_calling_the_order_of_a_class_says_what_to_do(declared: dict[str, Any]) -> None:
    ordered: Any = type("Ordered", (QuerysetCache,), {"model": Talk, "key_fields": ("track",), **declared})
    assert list(ordered.order_by) == list(declared.get("order_by", ()))
    with pytest.raises(TypeError, match=r"^Ordered\.order_by is the order .* or use Talk\.cache\.filter\(\.\.\.\)"):
        ordered(1).order_by("-id")


class TestPages:
    async def test_a_page_of_a_paged_list_reads_only_its_rows(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Post.cache.filter(thread=1).page(2, size=3)
        page = await query
        rows = await Post.filter(title__in=["3", "4", "5"]).order_by("id")
        assert page == Page(rows, 10, has_next=True, cursor=page.cursor)
        assert filled_rows(cache, Post) == 3
        async with assert_ops(backend, sql=0, redis=["read"]):
            page = await query
        assert (titles(page.items), page.total, page.has_next) == ("345", 10, True)
        last = await Post.cache.filter(thread=1).page(4, size=3)
        assert (titles(last.items), last.total, last.has_next) == ("9", 10, False)
        after = await Post.cache.filter(thread=1).page(5, size=3)
        assert (after.items, after.total, after.has_next) == ([], 10, False)
        empty = await Post.cache.filter(thread=2).page(1, size=3)
        assert (empty.items, empty.total, empty.has_next) == ([], 0, False)

    async def test_a_page_of_another_list_reads_all_rows_for_the_total(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        query = Talk.cache.filter(track=1).page(1, size=3)
        assert (await query).total == 10
        await query
        async with assert_ops(backend, sql=0, redis=["read"]):
            page = await query
        assert (titles(page.items), page.total, page.has_next) == ("012", 10, True)
        await Talk.filter(title="9").update(track_id=2)
        assert (await query).total == 9

    async def test_the_number_of_rows_of_an_exact_list_needs_no_rows(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        numbers = (Talk.cache.count(), 10), (Post.cache.count(thread=1), 10), (Post.cache.count(thread=2), 0)
        for query, number in numbers:
            async with assert_ops(backend, sql=1):
                assert await query == number
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert await query == number
        assert await Post.cache.exists(thread=1)
        assert not await Post.cache.exists(thread=2)
        assert filled_rows(cache, Post) == filled_rows(cache, Talk) == 0
        await Post.filter(title="3").delete()
        assert await Post.cache.count(thread=1) == 9
        async with in_transaction():
            await Post.create(thread_id=2)
            assert await Post.cache.count(thread=2) == 1
            assert await Post.cache.exists(thread=2)


MOVES = ["saved", "updated", "saved in part", "deleted", "deleted by query", "in bulk", "in a transaction"]


async def leave(model: Any, title: str, how: str) -> None:
    """Lets the row of this title leave its list."""
    name = "track_id" if model is Talk else "thread_id"
    row = await model.get(title=title)
    setattr(row, name, 2)
    if how == "saved":
        await row.save()
    elif how == "saved in part":
        await row.save(update_fields=[name])
    elif how == "updated":
        await model.filter(id=row.id).update(**{name: 2})
    elif how == "in bulk":
        await model.bulk_update([row], [name])
    elif how == "deleted":
        await row.delete()
    elif how == "deleted by query":
        await model.filter(id=row.id).delete()
    else:
        async with in_transaction():
            await row.save()


@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("model", [Talk, Post])
async def test_a_row_that_leaves_before_a_slice_moves_it_up(cache: ModelCache, model: Any, how: str) -> None:
    source: Any = Talk.cache.filter(track=1) if model is Talk else Post.cache.filter(thread=1)
    for _ in range(2):
        assert titles(await source[4:6]) == "45"
        assert (await source.page(2, 4)).total == 10
    await leave(model, "1", how)
    assert titles(await source[4:6]) == "56"
    page = await source.page(2, 4)
    assert (titles(page.items), page.total) == ("5678", 9)
    assert titles(await source[4:6]) == "56"
    assert await model.cache.count(**{"track" if model is Talk else "thread": 1}) == 9
    if "deleted" not in how:
        other: Any = Talk.cache.filter(track=2) if model is Talk else Post.cache.filter(thread=2)
        assert titles(await other[0:5]) == "1"


async def test_rows_that_the_database_deletes_along_leave_parts(cache: ModelCache) -> None:
    await Talk.create(track_id=2, place=20, title="n")
    assert titles(await Talk.cache.all()[4:6]) == "34"
    assert await Post.cache.count(thread=1) == 10
    await (await Track.get(id=2)).delete()
    await Thread.filter(id=1).delete()
    assert titles(await Talk.cache.all()[4:6]) == "45"
    assert await Post.cache.count(thread=1) == 0
    page = await Post.cache.filter(thread=1).page(1, 3)
    assert (page.items, page.total) == ([], 0)
    assert await Post.cache.filter(thread=1).first() is None


@pytest.mark.exhaustive(because="tries many orders of writes and reads")
@pytest.mark.slow(because="makes and compares two hundred pages")
@pytest.mark.parametrize("model", [Talk, Post])
async def test_parts_are_those_of_the_database_after_any_writes(cache: ModelCache, model: Any) -> None:
    chance = random.Random(1)
    name = "track_id" if model is Talk else "thread_id"

    def a_place() -> int:
        return chance.randrange(12)

    async def write() -> None:
        found = await model.all()
        row = chance.choice(found) if found else None
        kind = chance.randrange(7)
        if row is None or kind == 0:
            await model.create(place=a_place(), title="n", **{name: chance.choice((1, 2))})
        elif kind == 1:
            await row.delete()
        elif kind == 2:
            row.place = a_place()
            await row.save()
        elif kind == 3:
            setattr(row, name, 3 - getattr(row, name))
            row.place = a_place()
            await row.save()
        elif kind == 4:
            await model.filter(place__gt=chance.randrange(8, 13)).update(**{name: 2})
        elif kind == 5:
            await model.filter(id=row.id).update(place=a_place())
        else:
            async with in_transaction():
                await model.filter(id=row.id).delete()
                await model.bulk_create([model(place=a_place(), title="b", **{name: 1})])

    for _ in range(100):
        await write()
        for value in (1, 2):
            start, size = chance.randrange(6), chance.randrange(1, 5)
            key = {name: value}
            expected = model.filter(**key).order_by("-place", "id")
            source = model.cache.filter(**key)
            assert await source[start : start + size] == await expected.offset(start).limit(size)
            page = await source.page(start + 1, size)
            assert page.items == await expected.offset(start * size).limit(size)
            assert page.total == await expected.count() == await model.cache.count(**key)
            assert await source.first() == await expected.first()
            assert await source == await expected


class TestRaces:
    @pytest.mark.parametrize("model", [Talk, Post])
    async def test_a_row_of_the_part_that_leaves_while_the_part_is_loaded_is_not_in_it(
        self, gated: ModelCache, store: GatedBackend, model: Any
    ) -> None:
        source: Any = Talk.cache.filter(track=1) if model is Talk else Post.cache.filter(thread=1)
        gate = store.hold("lease", skip=1)  # the leases of the rows, after that of the list
        reading = asyncio.create_task(source[2:4].resolve())
        await gate.reached()
        await model.filter(title="3").delete()
        gate.open()
        assert titles(await reading) == "24"
        assert titles(await source[2:4]) == "24"

    async def test_a_list_that_another_reader_fills_is_waited_for(self, gated: ModelCache, store: GatedBackend) -> None:
        gate = store.hold("fill")
        first = asyncio.create_task(Talk.cache.filter(track=1)[0:2].resolve())
        await gate.reached()
        second = asyncio.create_task(Talk.cache.filter(track=1)[1:3].resolve())
        await asyncio.sleep(0)
        gate.open()
        assert titles(await first) == "01"
        assert titles(await second) == "12"

    async def test_a_write_between_the_primary_keys_and_the_rows_is_seen_by_the_next_reader(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        gate = store.hold("fill")
        reading = asyncio.create_task(Post.cache.filter(thread=1)[0:2].resolve())
        await gate.reached()
        await Post.filter(title="0").update(thread_id=2)
        gate.open()
        await reading
        assert titles(await Post.cache.filter(thread=1)[0:2]) == "12"
        assert await Post.cache.count(thread=1) == 9


@cached
async def talks_of_a_part() -> str:
    """Returns the titles of a part of a list, and depends on all that decides it."""
    return titles(await Talk.cache.filter(track=1)[4:6])


@cached
async def posts_of_a_page() -> str:
    """Returns the titles of a page of a paged list, and its total."""
    page = await Post.cache.filter(thread=1).page(3, 2)
    return f"{titles(page.items)} {page.total}"


class TestInsideCachedFunctions:
    @pytest.mark.parametrize("warm", [False, True])
    async def test_a_result_depends_on_the_list_and_on_the_rows_before_the_part(
        self, cache: ModelCache, backend: CountingBackend, warm: bool
    ) -> None:
        if warm:
            for _ in range(2):
                await Talk.cache.filter(track=1)[4:6]
                await Post.cache.filter(thread=1).page(3, 2)
        assert [await talks_of_a_part(), await posts_of_a_page()] == ["45", "45 10"]
        async with assert_ops(backend, sql=0):
            assert [await talks_of_a_part(), await posts_of_a_page()] == ["45", "45 10"]
        await leave(Talk, "1", "updated")
        await leave(Post, "1", "updated")
        assert [await talks_of_a_part(), await posts_of_a_page()] == ["56", "56 9"]
        async with assert_ops(backend, sql=0):
            assert [await talks_of_a_part(), await posts_of_a_page()] == ["56", "56 9"]
        await leave(Talk, "5", "deleted")
        await leave(Post, "9", "deleted")
        assert [await talks_of_a_part(), await posts_of_a_page()] == ["67", "56 8"]
        await Post.filter(title="5").update(title="f")
        assert await posts_of_a_page() == "f6 8"


class TestMovedMeanwhile:
    """A save of all columns that moves a row back, which another writer has moved since it was loaded."""

    async def test_the_row_leaves_the_list_that_it_was_moved_to(self, gated: ModelCache, store: GatedBackend) -> None:
        post = await Post.get(title="1")
        await Post.filter(id=post.id).update(thread_id=2)
        assert await Post.cache.count(thread=2) == 1
        assert await Post.cache.count(thread=1) == 9
        gate = store.hold("clear")
        saving = asyncio.create_task(post.save())
        await gate.reached()  # the row is written, and its keys are not cleared yet
        assert await Post.cache.count(thread=2) == 0
        gate.open()
        await saving
        assert await Post.cache.count(thread=2) == 0
        assert await Post.cache.count(thread=1) == 10


@pytest.mark.exhaustive(because="tries many orders of writes and reads")
@pytest.mark.slow(because="makes a hundred and twenty writes beside readers")
@pytest.mark.parametrize("model", [Talk, Post])
async def test_no_part_is_older_than_the_last_acknowledged_write(cache: ModelCache, model: Any) -> None:
    """Rows leave a list from its beginning, one after the other, while readers read its parts and its number."""
    name = "track_id" if model is Talk else "thread_id"
    await model.bulk_create([model(place=100 - n, title="n", **{name: 1}) for n in range(120)])
    pks = [row.id for row in await model.filter(**{name: 1}).order_by("-place", "id")]
    begun = acknowledged = 0

    async def write() -> None:
        nonlocal begun, acknowledged
        for at, pk in enumerate(pks[:120]):
            begun = at + 1
            if at % 3 == 0:
                await model.filter(id=pk).update(**{name: 2})
            elif at % 3 == 1:
                row = await model.get(id=pk)
                setattr(row, name, 2)
                await row.save()
            else:
                await (await model.get(id=pk)).delete()
            acknowledged = at + 1

    async def read(start: int) -> None:
        source = model.cache.filter(**{name: 1})
        while acknowledged < 120:
            least = acknowledged
            page = await source.page(start // 2 + 1, 2)
            part = await source[start : start + 2]
            gone = len(pks) - page.total
            assert least <= gone <= begun
            assert [row.id for row in page.items] == pks[gone + start : gone + start + 2]
            assert any([row.id for row in part] == pks[at + start : at + start + 2] for at in range(gone, begun + 1))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for start in (0, 2, 4, 6):
            tasks.create_task(read(start))
    assert await model.cache.count(**{name: 1}) == len(pks) - 120


class TestWithoutTheStore:
    async def test_a_transaction_reads_its_own_writes(self, cache: ModelCache, backend: CountingBackend) -> None:
        await Post.cache.filter(thread=1)[0:2]
        async with in_transaction():
            await Post.filter(title="0").delete()
            assert titles(await Post.cache.filter(thread=1)[0:2]) == "12"
            page = await Talk.cache.all().page(1, 2)
            assert (titles(page.items), page.total) == ("01", 10)
        assert titles(await Post.cache.filter(thread=1)[0:2]) == "12"

    async def test_parts_come_from_the_database_while_the_cache_is_disabled(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Post.cache.filter(thread=1)[0:2]
        with cache.disabled():
            async with assert_ops(backend, redis=0):
                assert titles(await Post.cache.filter(thread=1)[0:2]) == "01"
                assert (await Talk.cache.all().page(1, 2)).total == 10


@pytest.mark.only_on("sqlite", because="what a scope remembers depends on no database")
class TestInAScope:
    @pytest.mark.parametrize("model", [Talk, Post])
    async def test_a_part_is_remembered_until_a_write_changes_it(
        self, cache: ModelCache, backend: CountingBackend, model: Any
    ) -> None:
        source: Any = Talk.cache.filter(track=1) if model is Talk else Post.cache.filter(thread=1)
        async with local_cache():
            first = await source[4:6]
            async with assert_ops(backend, sql=0, redis=0):
                assert (await source[4:6])[0] is first[0]
            assert await model.cache.get(id=first[0].id) is first[0]
            page = await source.page(1, 2)
            await leave(model, "1", "updated")
            assert titles(await source[4:6]) == "56"
            assert (await source.page(1, 2)).total == page.total - 1 == 9
            row = await model.create(place=20, title="n", **{"track_id" if model is Talk else "thread_id": 1})
            assert titles(await source[0:2]) == "n0"
            await row.delete()
            assert titles(await source[0:2]) == "02"

    async def test_a_list_that_is_known_as_a_whole_is_sliced(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with local_cache():
            talks = await Talk.cache.all()
            async with assert_ops(backend, sql=0, redis=0):
                assert (await Talk.cache.all()[3:5])[0] is talks[3]
                assert await Talk.cache.all().first() is talks[0]
                assert (await Talk.cache.all().page(1, 4)).total == 10
                assert await Talk.cache.count() == 10
