"""Result classes follow the rows of their own model by key, and those of other models that they read."""

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import InstanceCache, ModelCache, ResultCache, writes_without_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.program_models import Act, Host, Note

pytestmark = pytest.mark.models("tests.support.models.program_models")

calls: list[str] = []


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    calls.clear()
    with writes_without_cache():
        await Host.bulk_create([Host(id=1, name="kim"), Host(id=2, name="lee")])
        await Act.bulk_create([Act(id=at, slug=f"h{at}", host_id=by) for at, by in ((1, 1), (2, 1), (3, 2))])


async def renamed() -> None:
    await Host.filter(id=1).update(name="kay")


class Program(ResultCache[list[str]]):
    """What an host offers: rows of its model count by their host, others once they are read."""

    model = Act
    key_fields = ("host",)

    async def get_result(self, host: int) -> list[str]:
        calls.append(f"program {host}")
        name = (await Host.get(id=host)).name
        await Note.all().count()  # unnoticed, as before
        slugs = await Act.filter(host_id=host).order_by("id").values_list("slug", flat=True)
        return [name, *map(str, slugs)]


class First(InstanceCache[Act | None]):
    """An instance, which is stored as a reference, found by rows of another model."""

    model = Act
    key_fields = ("host",)

    async def get_instance(self, host: int) -> Act | None:
        calls.append(f"first {host}")
        name = (await Host.cache.get(id=host)).name
        return await Act.filter(host_id=host, host__name=name).order_by("id").first()


class TestResultClasses:
    async def test_a_result_depends_on_its_key_and_on_the_other_models_that_it_reads(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        assert await Program(1) == await Program(1) == ["kim", "h1", "h2"]
        assert calls == ["program 1"]
        await Act.create(id=7, slug="h7", host_id=2)
        assert await Program(1) == ["kim", "h1", "h2"]
        assert calls == ["program 1"], "a row of another key"
        await renamed()
        assert await Program(1) == ["kay", "h1", "h2"]
        await Act.filter(id=1).update(host_id=2)
        assert await Program(1) == ["kay", "h2"]
        async with assert_ops(backend, sql=0, redis=["read"]):
            await Program(1)

    async def test_an_instance_in_a_result_is_as_fresh_as_its_row(
        self, database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
    ) -> None:
        first = await First(1)
        assert first is not None
        await database.execute_script("UPDATE act SET level = 5 WHERE id = 1")
        await Act.cache.invalidate(Act(id=1, host_id=99, slug="h1"))
        first = await First(1)
        assert first is not None
        assert first.level == 5
        await First(1)
        async with assert_ops(backend, sql=0, redis=["read"]):
            await First(1)
        await renamed()
        calls.clear()
        await First(1)
        assert calls == ["first 1"]
