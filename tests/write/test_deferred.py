"""``deferred_invalidation``: writes that stay marked until the end of a block."""

import asyncio

import pytest
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, ModelCache, cached, deferred_invalidation, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops, count_ops
from tests.support.gates import PATIENCE
from tests.support.models.derived_models import Happening, Label, Organizer
from tests.support.stored import states

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.only_on("sqlite", because="the block decides when requests to the store are sent"),
]


@cached
async def levels() -> list[int]:
    return [row.level for row in await Happening.all().order_by("id")]


@pytest.fixture(autouse=True)
async def rows(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="kim")
    for number in (1, 2):
        await Happening.create(id=number, slug=f"h{number}", organizer_id=1)
    await Label.create(id=1, name="new")
    await Happening.cache.get(id=1)


async def save(number: int, level: int) -> None:
    happening = await Happening.get(id=number)
    happening.level = level
    await happening.save()


async def test_writes_are_marked_at_once_and_cleared_at_the_end(cache: ModelCache, backend: CountingBackend) -> None:
    row = Happening.cache.get(id=1)
    with count_ops(backend) as ops:
        async with deferred_invalidation():
            await save(1, 5)
            await save(2, 6)
            await save(1, 7)
            assert [*ops.operations] == ["mark"] * 3
            assert await states(cache, row) == "W"
        assert [*ops.operations].count("clear") == 3
    assert (await row).level == 7
    assert await states(cache, row) == "V"


async def test_lookups_inside_and_outside_see_each_write_and_store_nothing(
    cache: ModelCache, backend: CountingBackend
) -> None:
    row = Happening.cache.get(id=1)

    async def outside() -> tuple[int, list[int]]:
        return (await row).level, await levels()

    context = asyncio.Queue[asyncio.Future[tuple[int, list[int]]]]()

    async def answer() -> None:
        while True:
            future = await context.get()
            future.set_result(await outside())

    task = asyncio.create_task(answer())
    assert await outside() == (0, [0, 0])
    async with deferred_invalidation():
        for level in (3, 4):
            await save(1, level)
            asked = asyncio.get_running_loop().create_future()
            context.put_nowait(asked)
            async with asyncio.timeout(PATIENCE):
                assert await asked == await outside() == (level, [level, 0])
        assert await states(cache, row) == "W"
    assert await outside() == (4, [4, 0])
    async with assert_ops(backend, sql=0):
        assert await outside() == (4, [4, 0])
    task.cancel()


async def test_every_kind_of_write_is_deferred(cache: ModelCache, backend: CountingBackend) -> None:
    happening, label = await Happening.get(id=1), await Label.get(id=1)
    with count_ops(backend) as ops:
        async with deferred_invalidation():
            await Happening.filter(id=2).update(level=5)
            await Happening.bulk_create([Happening(id=3, slug="h3", organizer_id=1)])
            await happening.labels.add(label)
            async with in_transaction():
                await save(1, 5)
                await save(2, 6)
            await Happening.filter(id=3).delete()
            assert "clear" not in [*ops.operations]
    assert [*ops.operations].count("clear") == 5
    assert await levels() == [5, 6]


async def test_manual_invalidation_takes_effect_at_once(cache: ModelCache, backend: CountingBackend) -> None:
    await Happening._meta.db.execute_query("UPDATE happening SET level = 9")  # type: ignore[attr-defined]
    async with deferred_invalidation():
        async with assert_ops(backend, redis=["clear"]):
            await Happening.cache.invalidate(1)
        assert (await Happening.cache.get(id=1)).level == 9


async def test_a_write_that_could_not_be_marked_is_not_deferred(
    cache: ModelCache, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this process would read the old row as soon as the store answers again."""

    async def unreachable(*_: object) -> None:
        raise BackendError("away")

    async with deferred_invalidation():
        with monkeypatch.context() as patch:
            patch.setattr(backend, "mark", unreachable)
            async with assert_ops(backend, redis=["clear"]):
                await save(1, 5)
        assert (await Happening.cache.get(id=1)).level == 5


async def test_a_failed_write_is_withdrawn_at_once(cache: ModelCache) -> None:
    row = Happening.cache.get(id=1)
    async with deferred_invalidation():
        happening = await Happening.get(id=1)
        happening.slug = "h2"
        with pytest.raises(IntegrityError):
            await happening.save()
        await row
        assert await states(cache, row) == "V"


@pytest.mark.parametrize("ending", [ValueError, asyncio.CancelledError])
async def test_a_block_that_fails_clears_too(ending: type[BaseException], cache: ModelCache) -> None:
    async def block() -> None:
        async with deferred_invalidation():
            await save(1, 5)
            raise ending

    with pytest.raises(ending):
        await block()
    row = Happening.cache.get(id=1)
    await row
    assert await states(cache, row) == "V"


async def test_blocks_inside_end_with_the_outermost(cache: ModelCache, backend: CountingBackend) -> None:
    with count_ops(backend) as ops:
        async with deferred_invalidation():
            async with deferred_invalidation():
                await save(1, 5)
            assert [*ops.operations] == ["mark"]
        assert [*ops.operations] == ["mark", "clear"]


async def test_a_task_that_outlives_the_block_clears_at_once(cache: ModelCache, backend: CountingBackend) -> None:
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        await save(1, 5)

    async with deferred_invalidation():
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    async with assert_ops(backend, redis=["mark", "clear"]):
        go.set()
        await task


async def test_a_request_sees_its_own_writes(cache: ModelCache) -> None:
    async with local_cache(), deferred_invalidation():
        assert (await Happening.cache.get(id=1)).level == 0
        await save(1, 5)
        assert (await Happening.cache.get(id=1)).level == 5
        await save(1, 6)
        assert (await Happening.cache.get(id=1)).level == 6
