"""Lookups return the same instances with the extension and without it."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.orm.test_fields import assert_same_row, values_for
from tests.orm.test_fields import (  # run once more, with the extension
    test_every_type_comes_back_as_the_database_returns_it as test_every_type,
)
from tests.support.models.field_models import ROWS, Everything

pytestmark = [pytest.mark.models("tests.support.models.field_models"), pytest.mark.usefixtures("extension")]
__all__ = ["test_every_type"]


@pytest.mark.parametrize("limit", [0, 1 << 20])
async def test_rows_that_are_not_kept_are_the_same(
    limit: int, database: BaseDBAsyncClient, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pks = [(await Everything.create(slug=name, **values_for(database, name))).pk for name in ROWS]
    found: list[list[Any]] = []
    for switch in ("0", "1"):
        monkeypatch.setenv("AIOMODELCACHE_NATIVE", switch)
        async with ModelCache(backend_url, decoded_memory_limit=limit) as cache:
            rows = cache.open_cache.entries_of(Everything).rows
            assert (rows._decode_rows is not None) is (switch == "1")
            for _ in range(4):
                found.append(await Everything.cache.get_many(pks))
                found.append([await Everything.cache.get(id=pk) for pk in pks])
            assert cache.stats.of("Everything").undecodable == 0
            assert (cache.stats.decoded.hits > 0) is (limit > 0)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_same_row(one, other)


async def test_an_entry_that_is_no_hit_is_none_with_the_extension(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    pks = [(await Everything.create(slug=str(number))).pk for number in range(3)]
    rows = cache.open_cache.entries_of(Everything).rows
    await Everything.cache.get_many(pks)
    keys = list(map(rows.key, pks))
    epoch, *entries = await backend.read([rows.partitions.epochs[0], *keys])
    found: dict[bytes, bytes | None] = dict(zip(keys, entries, strict=True))
    assert rows.hits(found, keys, epoch, pks) is not None
    assert rows.hits(found, keys, epoch, [*pks[1:], 7]) is None, "the row of another key"
    damaged = entries[1] and entries[1][:-1] + b"\xc1"
    for other in (None, b"", b"W" + b"0" * 29, damaged):
        assert rows.hits(found | {keys[1]: other}, keys, epoch, pks) is None
        assert rows.hit(other, epoch, pks[1]) is None
    async with assert_ops(backend, sql=0):
        await Everything.cache.get_many(pks)
