"""The dependencies of a tracked computation where several lookups, or many rows, share one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, cached, writes_without_cache
from aiomodelcache.backends.protocol import Fill
from aiomodelcache.entries.derived import MAX_DEPENDENCIES
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import GatedBackend
from tests.support.models.derived_models import Happening, Label, Organizer

pytestmark = pytest.mark.models("tests.support.models.derived_models")

MANY = range(1, MAX_DEPENDENCIES + 11)


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await Organizer.bulk_create([Organizer(id=number, name=f"o{number}") for number in MANY])
        await Happening.bulk_create([Happening(id=number, slug=f"h{number}", organizer_id=1) for number in MANY])


class TestManyRows:
    """Beyond ``MAX_DEPENDENCIES`` the version of a table stands for its rows."""

    @pytest.mark.parametrize("snapshot", [False, True])
    async def test_a_version_does_not_stand_for_rows_that_were_read_before_it(
        self, snapshot: bool, cache: ModelCache
    ) -> None:
        reached, released = asyncio.Event(), asyncio.Event()

        @cached
        async def level(several: bool) -> Any:
            if not several:  # from now on only the version of this table is read before the computation
                return (await Organizer.cache.get(id=1)).name
            batch = BatchCacheQuery(all=Happening.cache.get_many(MANY))
            levels = [row.level for row in (await batch.get(snapshot=snapshot))["all"]]
            reached.set()
            await released.wait()
            await Happening.filter(level=77).count()
            return sum(levels)

        await Happening.cache.get_many(MANY)
        await level(False)
        computing = asyncio.create_task(level(True))
        await reached.wait()
        row = await Happening.get(id=1)
        row.level = 5
        await row.save()
        released.set()
        assert await computing == 0
        assert await level(True) == 5

    @pytest.mark.parametrize("inner_first", [False, True])
    async def test_nor_for_rows_that_an_inner_function_has_read_before_it(
        self, inner_first: bool, cache: ModelCache
    ) -> None:
        reached, released = asyncio.Event(), asyncio.Event()

        @cached
        async def inner(half: int) -> Any:
            return sum([row.level for row in await Happening.cache.get_many(MANY[half::2])])

        @cached
        async def outer(several: bool) -> Any:
            if not several:
                return (await Organizer.cache.get(id=1)).name
            levels = await inner(0) + await inner(1)
            reached.set()
            await released.wait()
            await Happening.filter(level=77).count()
            return levels

        await Happening.cache.get_many(MANY)
        if inner_first:
            await asyncio.gather(inner(0), inner(1))
        await outer(False)
        computing = asyncio.create_task(outer(True))
        await reached.wait()
        row = await Happening.get(id=1)
        row.level = 5
        await row.save()
        released.set()
        assert await computing == 0
        assert await outer(True) == 5

    async def test_nor_for_columns_that_queries_ignore(self, cache: ModelCache) -> None:
        @cached
        async def seen() -> Any:
            return sum([row.seen for row in await Organizer.cache.get_many(MANY)])

        assert await seen() == 0
        row = await Organizer.get(id=2)
        row.seen = 5
        await row.save(update_fields=["seen"])
        assert await seen() == 5

    async def test_nor_for_such_columns_of_a_row_that_was_not_stored(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        @cached
        async def seen() -> Any:
            return (await Organizer.cache.get(id=1)).seen

        async def fill_no_row(fills: Sequence[Fill]) -> list[bool]:
            stored = iter(await fill([each for each in fills if b":r:" not in each.key]))
            return [b":r:" not in each.key and next(stored) for each in fills]

        fill, backend.fill = backend.fill, fill_no_row  # type: ignore[method-assign]
        assert await seen() == 0
        await Organizer.filter(id=1).update(seen=5)
        assert await seen() == 5


class TestEpochs:
    """A bulk write past ``bulk_limit`` leaves the rows' tokens alone, and changes the epoch."""

    async def test_rows_of_two_epochs_are_no_result_to_store(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        @cached
        async def levels() -> Any:
            return [row.level for row in await Happening.cache.get_many([1, 2])]

        async with ModelCache(store := GatedBackend(backend.backend), bulk_limit=1):
            await Happening.cache.get(id=1)
            lease_of_row = store.hold("lease", skip=1)
            computing = asyncio.create_task(levels())
            await lease_of_row.reached()  # row 1 was read; row 2 is not leased yet
            await Happening.filter(id__lte=50).update(level=5)
            lease_of_row.open()
            assert await computing == [0, 5]
            assert await levels() == [5, 5]

    async def test_rows_of_two_epochs_are_no_snapshot(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(store := GatedBackend(backend.backend), bulk_limit=1):
            await Happening.cache.get(id=1)
            lease_of_row = store.hold("lease")
            query = BatchCacheQuery(both=Happening.cache.get_many([1, 2]))
            answering = asyncio.create_task(query.get(snapshot=True))
            await lease_of_row.reached()
            await Happening.filter(id__lte=50).update(level=5)
            lease_of_row.open()
            assert [row.level for row in (await answering)["both"]] == [5, 5]


async def test_an_outer_result_depends_on_no_table_that_neither_function_reads(
    cache: ModelCache, backend: CountingBackend
) -> None:
    @cached
    async def inner() -> Any:
        return (await Organizer.cache.get(id=1)).name

    @cached
    async def outer() -> Any:
        calls.append("outer")
        return await inner()

    calls: list[str] = []
    await outer()
    await Label.create(id=1, name="a")
    await outer()
    async with assert_ops(backend, redis=1, sql=0):
        await outer()
    assert calls == ["outer"]
