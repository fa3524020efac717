"""``no_invalidation``: writes that invalidate nothing, counted and logged."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, no_invalidation
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Label, Organizer, Plain

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.only_on("sqlite", because="the block decides before anything is sent"),
]


async def first() -> Happening:
    return await Happening.get(id=1)


async def save() -> None:
    happening = await first()
    happening.level = 5
    await happening.save()


async def add_label() -> None:
    await (await first()).labels.add(await Label.get(id=1))


async def bulk_update() -> None:
    happening = await first()
    happening.level = 5
    await Happening.bulk_update([happening], ["level"])


WRITES: dict[str, tuple[Callable[[], Awaitable[object]], str]] = {
    "save": (save, "Happening (1)"),
    "create": (lambda: Happening.create(id=9, slug="new", organizer_id=1), "Happening (1)"),
    "delete": (lambda: of_first(lambda happening: happening.delete()), "Happening (1)"),
    "update": (lambda: Happening.filter(id=1).update(level=5), "Happening (1)"),
    "delete of a queryset": (lambda: Happening.filter(id=1).delete(), "Happening (1)"),
    "cascading delete": (lambda: Organizer.filter(id=1).delete(), "Organizer (1)"),
    "bulk_create": (
        lambda: Happening.bulk_create([Happening(id=9, slug="new", organizer_id=1)]),
        "Happening (1)",
    ),
    "bulk_update": (bulk_update, "Happening (1)"),
    "add": (add_label, "Happening (1)"),
}


async def of_first(write: Callable[[Happening], Awaitable[object]]) -> None:
    await write(await first())


@pytest.fixture(autouse=True)
async def rows(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="kim")
    await Happening.create(id=1, slug="h1", organizer_id=1)
    await Label.create(id=1, name="new")


@pytest.mark.exhaustive(because="every way of writing, inside and outside of a transaction")
@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("within", ["autocommit", "transaction"])
async def test_a_write_leaves_what_is_cached(
    kind: str, within: str, cache: ModelCache, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    write, shown = WRITES[kind]
    rows = Happening.cache.filter(organizer=1)
    before = [row.level for row in await rows]
    async with assert_ops(backend, redis=0):
        with no_invalidation():
            if within == "autocommit":
                await write()
            else:
                async with in_transaction():
                    await write()
    assert [row.level for row in await rows] == before
    assert cache.stats.uninvalidated == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"aiomodelcache: writes inside no_invalidation() left old entries in the cache: {shown}"
    ]
    await Happening.cache.clear()
    assert [row.id for row in await rows] == [row.id for row in await Happening.filter(organizer_id=1).order_by("id")]


async def test_outside_and_in_other_tasks_writes_invalidate(cache: ModelCache) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        with no_invalidation():
            entered.set()
            await leave.wait()

    task = asyncio.create_task(block())
    await entered.wait()
    await Happening.cache.get(id=1)
    await Happening.filter(id=1).update(level=5)
    assert (await Happening.cache.get(id=1)).level == 5
    leave.set()
    await task
    assert cache.stats.uninvalidated == 0


async def test_a_transaction_around_the_block_invalidates_its_other_writes(cache: ModelCache) -> None:
    other = await Happening.create(id=2, slug="h2", organizer_id=1)
    for id in (1, 2):
        await Happening.cache.get(id=id)
    async with in_transaction():
        with no_invalidation():
            await Happening.filter(id=1).update(level=5)
        other.level = 6
        await other.save(update_fields=["level"])
    assert [(await Happening.cache.get(id=id)).level for id in (1, 2)] == [0, 6]


async def test_invalidate_works_inside(cache: ModelCache) -> None:
    await Happening.cache.get(id=1)
    with no_invalidation():
        await Happening.filter(id=1).update(level=5)
        await Happening.cache.invalidate(1)
    assert (await Happening.cache.get(id=1)).level == 5


async def test_writes_without_effect_on_the_cache_are_neither_counted_nor_logged(
    cache: ModelCache, caplog: pytest.LogCaptureFixture
) -> None:
    with no_invalidation():
        await Plain.create(id=1)
    with no_invalidation():
        pass
    assert (cache.stats.uninvalidated, caplog.records) == (0, [])
