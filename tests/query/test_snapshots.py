"""``BatchCacheQuery.get(snapshot=True)``: all rows of the answer were in the database at one moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, ModelCache, cached, writes_without_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Organizer

pytestmark = pytest.mark.models("tests.support.models.derived_models")


class Meddling(CountingBackend):
    """A store whose reads are followed by a write of another task, as often as asked."""

    writes: int = 0

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = await super().read(keys)
        if self.writes:
            self.writes -= 1
            await write_both()
        return values


async def write_both() -> None:
    """Raises the level of both rows by one, in one transaction."""
    async with in_transaction():
        for at in (1, 2):
            row = await Happening.select_for_update().get(id=at) if not is_sqlite() else await Happening.get(id=at)
            await Happening.filter(id=at).update(level=row.level + 1)


def is_sqlite() -> bool:
    return bool(Happening._meta.db.capabilities.dialect == "sqlite")


@pytest.fixture
async def store(database: BaseDBAsyncClient, backend: CountingBackend) -> Meddling:
    with writes_without_cache():
        await Organizer.create(id=1, name="kim")
        await Happening.bulk_create([Happening(id=at, slug=f"h{at}", organizer_id=1) for at in (1, 2)])
    return Meddling(backend.backend)


@pytest.fixture
async def warm(store: Meddling) -> AsyncIterator[ModelCache]:
    """A cache with everything stored, and no predictions: a lookup by slug takes two reads."""
    async with ModelCache(store):
        await both().get()
    async with ModelCache(store) as cache:
        yield cache


def both() -> BatchCacheQuery:
    return BatchCacheQuery(one=Happening.cache.get(id=1), two=Happening.cache.get(slug="h2"))


def levels(answers: dict[str, Happening]) -> list[int]:
    return [answers["one"].level, answers["two"].level]


async def test_without_it_a_batch_may_be_torn(warm: ModelCache, store: Meddling) -> None:
    """Shows that the other tests can fail."""
    store.writes = 1
    assert levels(await both().get()) == [0, 1]


async def test_a_snapshot_is_read_again_if_rows_are_written_meanwhile(warm: ModelCache, store: Meddling) -> None:
    store.writes = 1
    assert levels(await both().get(snapshot=True)) == [1, 1]


async def test_a_write_after_the_last_answer_counts_as_well(warm: ModelCache, store: Meddling) -> None:
    """The second answer of the first attempt is read, then both rows are written, then the tokens are compared."""
    await both().get()  # predicts, so that one read answers both
    store.writes = 1
    assert levels(await both().get(snapshot=True)) == [1, 1]


async def test_writers_without_pause_are_answered_by_a_transaction(warm: ModelCache, store: Meddling) -> None:
    store.writes = 100
    one, two = levels(await both().get(snapshot=True))
    assert one == two
    assert 0 < store.writes < 100, "it gave up after some attempts"


async def test_it_costs_one_round_trip_more(warm: ModelCache, store: Meddling) -> None:
    await both().get()
    async with assert_ops(store, sql=0, redis=["read", "read"]):
        await both().get(snapshot=True)


async def test_a_cold_snapshot_is_stored_and_of_one_moment(store: Meddling) -> None:
    async with ModelCache(store):
        assert levels(await both().get(snapshot=True)) == [0, 0]
        async with assert_ops(store, sql=0):
            await both().get(snapshot=True)


async def test_without_the_store_a_transaction_answers(store: Meddling) -> None:
    async with ModelCache(store, enabled=False):
        assert levels(await both().get(snapshot=True)) == [0, 0]


async def test_inside_a_transaction_its_own_isolation_decides(warm: ModelCache) -> None:
    async with in_transaction():
        await Happening.filter(id=1).update(level=7)
        assert (await both().get(snapshot=True))["one"].level == 7


async def test_errors_are_handled_as_in_other_batches(warm: ModelCache) -> None:
    batch = BatchCacheQuery(none=Happening.cache.get(id=99), one=Happening.cache.get(id=1))
    answers = await batch.get(snapshot=True, none_on_exception=True)
    assert answers["none"] is None
    assert answers["one"].level == 0


async def test_what_cannot_be_is_refused(warm: ModelCache, store: Meddling) -> None:
    with pytest.raises(ValueError, match="cannot be had with only_cache=True"):
        await both().get(snapshot=True, only_cache=True)
    async with ModelCache("memory://") as other:
        batch = both().push(other=other.manager(Happening).get(id=1))
        with pytest.raises(ValueError, match="a snapshot is of one ModelCache"):
            await batch.get(snapshot=True)


async def test_in_a_cached_function_it_is_a_dependency(warm: ModelCache, store: Meddling) -> None:
    @cached
    async def total() -> int:
        return sum(levels(await both().get(snapshot=True)))

    assert [await total(), await total()] == [0, 0]
    await write_both()
    assert await total() == 2


@pytest.mark.only_on("postgres", "mariadb", because="writers of SQLite take turns with its only connection")
@pytest.mark.parametrize("look_up", [both], ids=["rows"])
async def test_beside_writers_all_answers_are_of_one_moment(
    look_up: Callable[[], BatchCacheQuery], warm: ModelCache
) -> None:
    async def write() -> None:
        for _ in range(20):
            await write_both()

    async def read() -> list[list[int]]:
        return [levels(await look_up().get(snapshot=True)) for _ in range(60)]

    answers = await together([write(), write(), read(), read(), read()])
    torn = [pair for pairs in answers if pairs for pair in pairs if pair[0] != pair[1]]
    assert torn == []


async def together(work: list[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*work))
