"""Pages by cursor, lists in another order, and ``async for``."""

import asyncio
import base64
import datetime as dt
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, cached, local_cache
from aiomodelcache.encoding.values import ValueCodec
from aiomodelcache.query import cursors, lists
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.list_models import (
    FirstShifts,
    Post,
    Shift,
    ShiftNames,
    ShiftsDown,
    ShiftsUp,
    Talk,
    Thread,
    Track,
)

pytestmark = pytest.mark.models("tests.support.models.list_models")
MORNING = dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC)


@pytest.fixture
async def rows(database: BaseDBAsyncClient) -> None:
    await Track.create(id=1, name="main")
    await Thread.create(id=1)
    for model, parent in ((Talk, "track_id"), (Post, "thread_id")):
        await model.bulk_create([model(place=9 - n, title=str(n), **{parent: 1}) for n in range(10)])
    chance = random.Random(7)
    await Shift.bulk_create(
        [
            Shift(
                id=uuid.UUID(int=chance.getrandbits(128)),
                rank=chance.choice((None, 1, 2)),
                name=chance.choice((None, "b", "a", "C")),
                start=MORNING + dt.timedelta(hours=chance.randrange(3)),
                length=chance.choice((0.5, -1.0, 2.25)),
                price=chance.choice(("1.50", "10.00", "9.99")),
            )
            for _ in range(30)
        ]
    )


@pytest.fixture
async def cache(rows: None, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(backend) as opened:
        yield opened


def titles(rows: list[Any]) -> str:
    return "".join([row.title for row in rows])


SOURCES = {
    "paged": lambda: Post.cache.filter(thread=1),
    "other": lambda: Talk.cache.filter(track=1),
    "all": Talk.cache.all,
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Any:
    return SOURCES[request.param]()


class TestCursors:
    async def test_cursors_lead_from_page_to_page(
        self, cache: ModelCache, backend: CountingBackend, source: Any
    ) -> None:
        for _ in range(2):
            seen, cursor = "", None
            for number in range(1, 5):
                page = await source.after(cursor, size=3)
                assert page == await source.page(number, size=3)
                assert page.total == 10
                assert page.has_next is (number < 4)
                seen, cursor = seen + titles(page.items), page.cursor
            assert seen == "0123456789"
        async with assert_ops(backend, sql=0, redis=["read"]):
            last = await source.after(cursor, size=3)
        assert (last.items, last.total, last.has_next, last.cursor) == ([], 10, False, cursor)
        page = await source.page(9, size=3)
        assert (page.items, page.cursor) == ([], None)

    async def test_a_cursor_marks_the_position_of_a_row_that_was_deleted_or_moved(
        self, cache: ModelCache, backend: CountingBackend, source: Any
    ) -> None:
        model = Post if "Post" in repr(source) else Talk
        cursor = (await source.page(1, size=4)).cursor
        other = (await source.page(1, size=6)).cursor
        await model.filter(title="3").delete()
        page = await source.after(cursor, size=3)
        async with assert_ops(backend, sql=3):  # two numbers and the rows, which no entry names
            assert await source.after(cursor, size=3) == page
        assert (titles(page.items), page.total, page.has_next) == ("456", 9, True)
        await model.filter(title="5").update(place=-1)  # to the end
        page = await source.after(other, size=2)
        assert (titles(page.items), page.total, page.has_next) == ("67", 9, True)
        page = await source.after(page.cursor, size=3)
        assert (titles(page.items), page.has_next) == ("895", False)
        await model.create(place=5, title="n", **{"thread_id" if model is Post else "track_id": 1})
        page = await source.after(cursor, size=2)
        assert (titles(page.items), page.total) == ("4n", 10)

    @pytest.mark.parametrize("listing", [ShiftsDown, ShiftsUp])
    async def test_the_database_continues_every_order_after_a_row_that_is_gone(
        self, cache: ModelCache, listing: Any
    ) -> None:
        whole = await listing(1)
        ordered = await Shift.filter(team=1).order_by(*listing.order_by, "id")
        assert whole == ordered
        assert len({(row.rank is None, row.name is None) for row in whole}) == 4, "NULLs in each column, and in both"
        marks = {at: (await listing(1).after(None, size=at + 1)).cursor for at in range(0, 30, 3)}
        await Shift.filter(id__in=[whole[at].id for at in marks]).delete()
        left = [row for at, row in enumerate(whole) if at not in marks]
        for at, cursor in marks.items():
            page = await listing(1).after(cursor, size=4)
            expected = [row for row in whole[at + 1 :] if row in left]
            assert page.items == expected[:4], at
            assert (page.total, page.has_next) == (20, len(expected) > 4)
            following = await listing(1).after(page.cursor, size=4)
            assert following.items == expected[4:8]

    async def test_pages_after_several_rows_that_are_gone_are_told_apart(self, cache: ModelCache, source: Any) -> None:
        model = Post if "Post" in repr(source) else Talk
        first, second = [(await source.page(1, size=size)).cursor for size in (2, 5)]
        await model.filter(title__in=["1", "4"]).delete()
        queries = [source.after(first, 2), source.after(second, 2), source.after(first, 3), source.after(first, 2)]
        found = await asyncio.gather(*queries)
        assert [titles(page.items) for page in found] == ["23", "56", "235", "23"]
        assert found[0].items[0] is not found[3].items[0]

    async def test_a_limit_ends_the_pages(self, cache: ModelCache) -> None:
        whole = await Shift.filter(team=1).order_by("start", "id")
        first = await FirstShifts(1).page(1, size=3)
        assert (first.items, first.total, first.has_next) == (whole[:3], 5, True)
        page = await FirstShifts(1).after(first.cursor, size=3)
        assert (page.items, page.total, page.has_next) == (whole[3:5], 5, False)
        await whole[2].delete()
        page = await FirstShifts(1).after(first.cursor, size=2)
        assert (page.items, page.total, page.has_next) == (whole[3:5], 5, True)
        page = await FirstShifts(1).after(first.cursor, size=9)
        assert (page.items, page.total, page.has_next) == (whole[3:6], 5, False)

    async def test_cursors_work_in_transactions_and_scopes(
        self, cache: ModelCache, backend: CountingBackend, source: Any
    ) -> None:
        model = Post if "Post" in repr(source) else Talk
        cursor = (await source.page(1, size=4)).cursor
        async with local_cache():
            page = await source.after(cursor, size=2)
            async with assert_ops(backend, sql=0, redis=0):
                again = await source.after(cursor, size=2)
            assert again.items[0] is page.items[0]
            await model.filter(title="5").delete()
            assert titles((await source.after(cursor, size=2)).items) == "46"
        async with in_transaction():
            await model.filter(title__in=["3", "4"]).delete()
            page = await source.after(cursor, size=2)
            assert (titles(page.items), page.total) == ("67", 7)
        with cache.disabled():
            assert titles((await source.after(cursor, size=2)).items) == "67"

    async def test_any_other_text_is_refused(self, cache: ModelCache) -> None:
        source = Talk.cache.filter(track=1)
        cursor: Any = (await source.page(1, size=4)).cursor
        foreign: Any = (await Post.cache.filter(thread=1).page(1, size=4)).cursor
        schema, order = cache.open_cache.entries_of(Talk).schema, ("-place", "id")
        good = cursors.decode_cursor(schema, order, cursor)
        assert good == {"id": (await source)[3].id, "place": 6}

        def forged(values: Any) -> str:
            payload = ValueCodec().encode(values)
            return base64.urlsafe_b64encode(cursors._checksum(schema, order, payload) + payload).decode().rstrip("=")

        assert cursors.decode_cursor(schema, order, forged([1, 6])) == {"id": 1, "place": 6}
        bad = ["", "x", "no cursor", "é", cursor[:-2], cursor + "AAAA", cursor[:-1] + "\n", foreign, "A" * 20_000]
        bad += [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor) - 1)]
        bad += [
            forged(values) for values in ([], [1], [1, 2, 3], 7, ["a", 6], [1, "b"], [None, 6], [1 << 70, 6], [1, {}])
        ]
        for text in bad:
            with pytest.raises(
                ValueError, match=r"This text is no cursor of a list of Talk in the order \(-place, id\)"
            ):
                await source.after(text, size=3)
        for wrong in (7, b"x", object()):
            with pytest.raises(TypeError, match="a cursor is the text that a page has, or None"):
                source.after(wrong, size=3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must be 1 or more"):
            source.after(None, size=0)

    async def test_lists_without_an_entry_have_pages_and_no_cursors(self, cache: ModelCache) -> None:
        page = await ShiftNames(1).page(2, size=10)
        assert page.items == (await ShiftNames(1))[10:20]
        assert (page.total, page.has_next, page.cursor) == (30, True, None)
        with pytest.raises(TypeError, match=r"<ShiftNames\(team=<int>\)> has no cursors"):
            await ShiftNames(1).after(None, size=3)
        with pytest.raises(TypeError, match="has no cursors"):
            await Talk.cache.all().order_by("place").after(None, size=3)


@cached
async def talks_after(cursor: str) -> str:
    """Returns the titles after a cursor."""
    page = await Talk.cache.filter(track=1).after(cursor, 3)
    return f"{titles(page.items)} {page.total}"


@cached
async def all_talks() -> str:
    """Returns the titles of all rows of a list, in two orders."""
    source = Talk.cache.filter(track=1)
    return titles([row async for row in source]) + titles(await source.order_by("place"))


class TestInsideCachedFunctions:
    async def test_a_result_depends_on_what_follows_after_a_cursor(self, cache: ModelCache) -> None:
        cursor: Any = (await Talk.cache.filter(track=1).page(1, 4)).cursor
        assert await talks_after(cursor) == "456 10"
        await Talk.create(track_id=1, place=5, title="n")
        assert await talks_after(cursor) == "4n5 11"
        await Talk.filter(title__in=["0", "3"]).delete()  # 3 is the row that the cursor marks
        for _ in range(2):
            assert await talks_after(cursor) == "4n5 9"
        await Talk.create(track_id=1, place=5, title="m")
        assert await talks_after(cursor) == "4nm 10"
        await Talk.filter(title="4").update(place=20)
        assert await talks_after(cursor) == "nm5 10"

    async def test_a_result_depends_on_the_rows_that_it_iterates_over(self, cache: ModelCache) -> None:
        for _ in range(3):
            assert await all_talks() == "01234567899876543210"
        await Talk.filter(title="1").update(track_id=(await Track.create(id=3, name="other")).id)
        for _ in range(3):
            assert await all_talks() == "023456789987654320"
        await Talk.filter(title="2").update(title="z")
        assert await all_talks() == "0z34567899876543z0"


class TestIteration:
    async def test_a_list_is_read_in_chunks(
        self, cache: ModelCache, backend: CountingBackend, source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lists, "ITERATION_SIZE", 4)
        assert titles([row async for row in source]) == "0123456789"
        async with assert_ops(backend, sql=0, redis=["read"] * 4):  # the list, and three chunks
            assert titles([row async for row in source]) == "0123456789"

    async def test_rows_that_leave_meanwhile_are_left_out(
        self, cache: ModelCache, source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lists, "ITERATION_SIZE", 4)
        model, name, parent = (Post, "thread_id", Thread) if "Post" in repr(source) else (Talk, "track_id", Track)
        other = await parent.create(id=2, name="other")
        seen = ""
        async for row in source:
            seen += row.title
            if row.title == "2":
                await model.filter(title="5").delete()
                await model.filter(title="6").update(**{name: other.id})
                await model.create(title="n", place=20, **{name: 1})
        assert seen == ("01234" + ("6" if "track" not in repr(source) and model is Talk else "") + "789")

    async def test_computed_lists_and_empty_ones_can_be_iterated(self, cache: ModelCache) -> None:
        assert [name async for name in ShiftNames(1)] == await ShiftNames(1)
        assert [row async for row in Talk.cache.filter(track=404)] == []
        async with local_cache():
            talks = await Talk.cache.all()
            assert [row async for row in Talk.cache.all()] == talks
        async with in_transaction():
            await Talk.filter(title="0").delete()
            assert titles([row async for row in Talk.cache.all()]) == "123456789"


class TestOrderBy:
    async def test_rows_are_ordered_as_by_the_database(self, cache: ModelCache, backend: CountingBackend) -> None:
        source = Shift.cache.filter(team=1)
        await source
        for names in (
            ("rank", "-start"),
            ("-rank", "start"),
            ("length", "id"),
            ("-id",),
            ("-price", "rank", "id"),
            ("start",),
        ):
            expected = await Shift.filter(team=1).order_by(*names, *(() if "id" in names[-1] else ("id",)))
            async with assert_ops(backend, sql=0, redis=["read"]):
                found = await source.order_by(*names)
            assert found == expected, names

    async def test_parts_of_an_ordered_list(self, cache: ModelCache, backend: CountingBackend) -> None:
        ordered = Talk.cache.filter(track=1).order_by("place")
        assert titles(await ordered[2:5]) == "765"
        assert (await ordered.first()).title == "9"  # type: ignore[union-attr]
        page = await ordered.page(4, size=3)
        assert (titles(page.items), page.total, page.has_next, page.cursor) == ("0", 10, False, None)
        assert titles([row async for row in ordered]) == "9876543210"
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert titles(await ordered.order_by("-place")[0:2]) == "01"

    async def test_an_order_that_only_the_database_knows_is_refused(self, cache: ModelCache) -> None:
        source = Talk.cache.filter(track=1)
        with pytest.raises(
            ValueError, match=r"Talk.title otherwise than Python: declare a QuerysetCache with order_by = "
        ):
            await source.order_by("place", "-title")
        with pytest.raises(
            ValueError, match=r"'nope' is not a column of Talk\. Its fields: id, place, room, title, track\."
        ):
            await source.order_by("nope")
        with pytest.raises(TypeError, match="is ordered by names of fields; got <int>"):
            source.order_by(7)  # type: ignore[arg-type]
