"""Invalidation follows the columns that are written, not the arguments of ``save``."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from tests.support.models.saved_models import Adding, AddingCount, Heard, HeardCount, Insisting, Narrowing

pytestmark = pytest.mark.models("tests.support.models.saved_models")


def manager(model: Any) -> Any:
    return model.cache


@pytest.mark.parametrize(("model", "asked"), [(Narrowing, None), (Adding, ["c"]), (Heard, ["c"])])
async def test_a_save_of_some_key_columns_invalidates_the_list_of_the_stored_key(
    database: BaseDBAsyncClient, cache: ModelCache, model: Any, asked: list[str] | None
) -> None:
    """The other key column keeps its value in the database, whatever the instance has."""
    await model.create(id=1, a="x", b="stored")
    assert await manager(model).filter(a="y", b="stored") == []
    row = await model.get(id=1)
    row.a, row.b = "y", "unsaved"
    await row.save(update_fields=asked)
    [stored] = await model.all()
    assert (stored.a, stored.b) == ("y", "stored")
    assert [found.id for found in await manager(model).filter(a="y", b="stored")] == [1]
    assert await manager(model).filter(a="x", b="stored") == []


@pytest.mark.parametrize(("model", "count"), [(Adding, AddingCount), (Heard, HeardCount)])
async def test_a_result_is_invalidated_by_a_column_that_update_fields_does_not_name(
    database: BaseDBAsyncClient, cache: ModelCache, model: Any, count: Any
) -> None:
    await model.create(id=1, a="x")
    assert (await count(a="x"), await count(a="y")) == (1, 0)
    row = await model.get(id=1)
    row.a, row.c = "y", "z"
    await row.save(update_fields=["c"])
    assert (await count(a="x"), await count(a="y")) == (0, 1)


async def test_a_create_that_retries_with_another_key_leaves_nothing_under_the_refused_key(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    await Insisting.create(id=1, slug="a")
    assert (await manager(Insisting).get(slug="a")).id == 1
    row = Insisting(id=2, slug="a")
    await row.save(force_create=True)
    assert row.slug == "a-2"
    query = manager(Insisting).get(slug="a")
    assert await cache.open_cache.guarded.backend.read([query.locate(cache.open_cache).key]) == [None]
    assert (await query).id == 1
    assert (await manager(Insisting).get(slug="a-2")).id == 2
