"""Instances and values of all types, stored by value in the answers of queries and in results of cached functions."""

import math
import random
from collections.abc import Awaitable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached
from aiomodelcache.encoding.layout import GUARD, PREFIX_SIZE, VALUE, pack_entry, unpack_entry
from aiomodelcache.entries.base import now_ms
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.query.querysets import query_entries
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.orm.test_fields import assert_same, assert_same_row, values_for
from tests.support.models.field_models import ROWS, Everything, Level, Mood, Owner, Point

pytestmark = pytest.mark.models("tests.support.models.field_models")

UNSTORED = {"point", "point_null", "tag_null"}
"""Columns whose values, outside of an instance, are objects of the user's own."""


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    owner = await Owner.create(name="kim")
    for name in ROWS:
        await Everything.create(slug=name, owner=owner, **values_for(database, name))


def everything() -> Any:
    return Everything.all().order_by("id")


async def test_instances_hold_every_type_as_the_database_returns_it(
    cache: ModelCache, backend: CountingBackend
) -> None:
    def query() -> Awaitable[list[Everything]]:
        return Everything.cache.query(everything().prefetch_related("owner"))

    await query()
    async with assert_ops(backend, sql=0, redis=["read"]):
        found = await query()
    for row, expected in zip(found, await everything(), strict=True):
        assert_same_row(row.owner, await expected.owner)
        del vars(row)["_owner"]
        assert_same_row(row, expected)


async def test_partial_instances_hold_every_type(cache: ModelCache, backend: CountingBackend) -> None:
    names = sorted(Everything._meta.fields_db_projection.keys() - {"big", "char"})
    for _ in range(2):
        found = await Everything.cache.query(everything().only(*names))
    for row, expected in zip(found, await everything().only(*names), strict=True):
        assert_same(vars(row), vars(expected))


@pytest.mark.parametrize("form", ["values", "values_list"])
async def test_values_are_of_the_types_that_tortoise_returns(
    form: str, cache: ModelCache, backend: CountingBackend
) -> None:
    """Members of enums and a driver's own UUIDs included. The latter come back as common ones."""
    names = sorted(Everything._meta.fields_db_projection.keys() - UNSTORED)

    def query() -> Awaitable[Any]:
        return Everything.cache.query(getattr(everything(), form)(*names))

    first = await query()
    async with assert_ops(backend, sql=0, redis=["read"]):
        found = await query()
    assert found == first == await getattr(everything(), form)(*names)
    by_name = [dict(zip(names, row, strict=True)) if form == "values_list" else row for row in found]
    assert [type(row["level"]) for row in by_name] == [Level] * len(ROWS)
    assert {row["mood_null"] for row in by_name} == {None, Mood.BAD}


async def test_a_value_that_cannot_be_stored_is_computed_each_time_and_logged_once(
    cache: ModelCache, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        points = await Everything.cache.query(everything().values_list("point", flat=True))
        assert points[0] == Point(0, 0)
    assert cache.stats.of("Everything.query").unfillable == 2
    (record,) = caplog.records
    assert "a value of Everything.query cannot be stored: <Point> cannot be cached" in record.getMessage()


async def test_a_row_that_is_not_saved_is_not_stored(cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
    @cached
    async def new() -> Any:
        return [await everything().first(), Everything(slug="new")]

    assert [row.slug for row in await new()] == [row.slug for row in await new()]
    assert "an instance of Everything that is not saved cannot be stored" in caplog.text


@pytest.mark.only_on("sqlite", because="the bytes are of no database")
@pytest.mark.only_on("memory", because="the bytes are of no store")
class TestHostile:
    """Bytes with a valid header and checksum whose content is not what this program stores."""

    def query(self) -> Any:
        return Everything.cache.query(everything().only("id", "slug", "level", "owner_id").prefetch_related("owner"))

    async def stored(self) -> tuple[OpenCache, bytes, bytes]:
        cache, query = default_cache(), self.query()
        await query
        entries, key = query.locate(cache)
        (entry,) = await cache.guarded.backend.read([key])
        assert entry is not None
        return cache, key, entry

    async def test_changed_bytes_are_a_miss_or_a_value(self, cache: ModelCache) -> None:
        opened, _, entry = await self.stored()
        entries = query_entries(opened, Everything)
        (epoch,) = await opened.guarded.backend.read([entries.partitions.epochs[0]])
        payload, chance = unpack_entry(entry), random.Random(7)
        assert epoch is not None
        for at in range(len(payload)):
            for changed in (
                payload[:at],
                payload[:at] + bytes([chance.randrange(256)]) + payload[at + 1 :],
                payload[:at] + bytes([chance.randrange(256)]) + payload[at:],
            ):
                hostile = pack_entry(VALUE, entry[1:PREFIX_SIZE], entry[GUARD], now_ms(), changed)
                entries.read(hostile, epoch)  # does not raise

    async def test_such_an_entry_is_a_miss_and_replaced(self, cache: ModelCache, backend: CountingBackend) -> None:
        _, key, entry = await self.stored()
        store: Any = backend.backend
        hostile = pack_entry(VALUE, entry[1:PREFIX_SIZE], entry[GUARD], now_ms(), unpack_entry(entry)[:-3])
        store._put(key, hostile, math.inf, store._now())
        assert len(await self.query()) == len(ROWS)
        assert cache.stats.of("Everything.query").undecodable == 1
        async with assert_ops(backend, sql=0, redis=["read"]):
            await self.query()
