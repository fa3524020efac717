"""Derived results inside ``local_cache()``, and while the cache is bypassed."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, cached, local_cache, writes_without_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Label, Organizer, Plain

pytestmark = pytest.mark.models("tests.support.models.derived_models")


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        organizer = await Organizer.create(id=1, name="kim")
        happening = await Happening.create(id=1, slug="h1", organizer=organizer)
        await happening.labels.add(await Label.create(id=1, name="free"))


@cached
async def level() -> int:
    return (await Happening.get(id=1)).level


@cached
async def labels() -> int:
    return len(await (await Happening.cache.get(id=1)).labels.all())


async def test_a_write_in_the_request_removes_derived_results_from_its_scope(
    cache: ModelCache, backend: CountingBackend
) -> None:
    with local_cache():
        assert await level() == 0
        async with assert_ops(backend, sql=0, redis=[]):
            assert await level() == 0
        await Happening.filter(id=1).update(level=5)
        assert await level() == 5
        happening = await Happening.get(id=1)
        happening.level = 6
        await happening.save()
        assert await level() == 6
        async with in_transaction():
            await Happening.filter(id=1).update(level=7)
            assert await level() == 7
        assert await level() == 7


async def test_links_written_in_the_request_remove_derived_results_from_its_scope(cache: ModelCache) -> None:
    with local_cache():
        assert await labels() == 1
        await (await Happening.get(id=1)).labels.clear()
        assert await labels() == 0


async def test_a_scope_keeps_no_result_that_is_read_from_a_table_whose_writes_are_not_noticed(
    backend: CountingBackend,
) -> None:
    @cached
    async def number() -> Any:
        return await Plain.all().count()

    async with ModelCache(backend, untracked_reads="ignore"):
        with local_cache():
            assert await number() == 0
            await Plain.create(id=1)
            assert await number() == 1


async def test_a_bypassed_computation_asks_the_store_nothing(backend: CountingBackend) -> None:
    async with ModelCache(backend, enabled=False), assert_ops(backend, sql=1, redis=[]):
        assert await level() == 0
    async with ModelCache(backend) as cache:
        with cache.disabled():
            async with assert_ops(backend, sql=1, redis=[]):
                assert await level() == 0
