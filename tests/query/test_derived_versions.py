"""Which table versions a derived result depends on, and which writes change them."""

import asyncio
from contextvars import copy_context
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached, depends_on, writes_without_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Label, Organizer, Tag, Tagging

pytestmark = pytest.mark.models("tests.support.models.derived_models")

calls: list[str] = []


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    calls.clear()
    with writes_without_cache():
        await Organizer.bulk_create([Organizer(id=at, name=f"o{at}") for at in (1, 2)])
        await Happening.create(id=1, slug="h1", organizer_id=1)
        await (await Happening.get(id=1)).labels.add(await Label.create(id=1, name="free"))


def connection() -> Any:
    return Happening._meta.db


async def sql(statement: str) -> None:
    """Executes a statement that Tortoise does not see."""
    await connection().execute_script(statement)


class TestIgnoredColumns:
    """``queries_ignore`` leaves those results valid that read none of the columns."""

    @pytest.mark.parametrize(
        "statement", ["SELECT * FROM organizer", "SELECT o.* FROM organizer o", "SELECT SEEN FROM organizer"]
    )
    async def test_a_statement_that_names_one_notices_its_writes(self, statement: str, cache: ModelCache) -> None:
        @cached
        async def seen() -> list[int]:
            calls.append("seen")
            rows = await connection().execute_query_dict(statement)
            return [value for row in rows for name, value in row.items() if name.lower() == "seen"]

        assert [await seen(), await seen()] == [[0, 0]] * 2
        assert len(calls) == 1
        await Organizer.filter(id=1).update(seen=5)
        assert sorted(await seen()) == [0, 5]
        organizer = await Organizer.get(id=2)
        organizer.seen = 6
        await organizer.save(update_fields=["seen"])
        assert sorted(await seen()) == [5, 6]

    async def test_whole_rows_notice_it_too(self, cache: ModelCache) -> None:
        @cached
        async def seen() -> int:
            calls.append("seen")
            return (await Organizer.get(id=1)).seen

        assert [await seen(), await seen()] == [0, 0]
        assert len(calls) == 1
        await Organizer.filter(id=1).update(seen=5)
        assert await seen() == 5

    async def test_it_is_noticed_where_a_version_stands_for_many_rows(self, cache: ModelCache) -> None:
        await Organizer.bulk_create([Organizer(id=at, name="o") for at in range(100, 200)])

        @cached
        async def seen() -> int:
            return sum([row.seen for row in await Organizer.cache.get_many(range(100, 200))])

        assert [await seen(), await seen()] == [0, 0]
        await Organizer.filter(id=150).update(seen=5)
        assert await seen() == 5

    async def test_it_is_noticed_where_the_model_is_declared(self, cache: ModelCache) -> None:
        @cached
        async def seen() -> Any:
            await depends_on(Organizer)
            return (await Organizer.get(id=1)).seen

        assert await seen() == 0
        await Organizer.filter(id=1).update(seen=5)
        assert await seen() == 5

    async def test_a_count_stays_valid(self, cache: ModelCache, backend: CountingBackend) -> None:
        @cached
        async def number() -> int:
            return await Organizer.all().count()

        await number()
        await Organizer.filter(id=1).update(seen=5)
        async with assert_ops(backend, sql=0):
            assert await number() == 2
        await Organizer.filter(id=1).delete()
        assert await number() == 1


async def test_a_version_stands_for_rows_only_if_it_was_read_before_them(cache: ModelCache) -> None:
    """The second computation reads rows from their entries, and then the version of their table, already changed."""
    await Happening.bulk_create([Happening(id=at, slug=f"h{at}", organizer_id=2) for at in range(100, 200)])
    await Happening.cache.filter(organizer=2)
    outside = copy_context()

    async def write() -> None:
        await Happening.filter(id=150).update(level=7)

    @cached
    async def total(number: int) -> int:
        if number == 1:
            return await Label.all().count()
        levels = [row.level for row in await Happening.cache.filter(organizer=2)]
        if not calls:
            calls.append("write")
            await asyncio.get_running_loop().create_task(write(), context=outside)
        return sum(levels) + await Happening.filter(slug="none").count()

    await total(1)
    await total(2)
    assert calls == ["write"]
    assert await total(2) == 7


async def test_a_result_depends_on_the_tables_of_an_inner_one_and_on_no_others(cache: ModelCache) -> None:
    @cached
    async def inner() -> int:
        return (await Happening.cache.get(id=1)).level

    @cached
    async def outer() -> int:
        calls.append("outer")
        return await inner()

    await outer()
    await Label.filter(id=1).update(name="paid")
    await outer()
    assert calls == ["outer"]
    await Happening.filter(id=1).update(level=5)
    assert await outer() == 5


class TestByHand:
    """Invalidations by hand, after writes that Tortoise does not see, reach results over the tables and their links."""

    async def test_a_key_that_no_row_has_any_more(self, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            return await Happening.all().count()

        assert await number() == 1
        await sql("DELETE FROM happening_label")
        await sql("DELETE FROM happening WHERE id = 1")
        await Happening.cache.invalidate(slug="h1")
        assert await number() == 0

    @pytest.mark.parametrize("model", [Happening, Label])
    @pytest.mark.parametrize("method", ["invalidate", "clear"])
    async def test_links(self, method: str, model: Any, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            return len(await connection().execute_query_dict("SELECT label_id FROM happening_label"))

        assert await number() == 1
        await sql("DELETE FROM happening_label")
        await (model.cache.invalidate(1) if method == "invalidate" else model.cache.clear())
        assert await number() == 0


async def test_links_that_are_rows_of_a_model_without_queries_are_not_noticed(
    cache: ModelCache, caplog: pytest.LogCaptureFixture
) -> None:
    tag = await Tag.create(id=1, name="red")

    @cached
    async def number() -> int:
        return len(await tag.links.all())

    assert await number() == 0
    await Tagging.create(id=1, tag=tag, organizer_id=1)
    assert await number() == 1
    assert "number reads" in caplog.text
    assert "tagging, whose writes are not noticed" in caplog.text
