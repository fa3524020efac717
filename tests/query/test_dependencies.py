"""The dependencies of a tracked computation where several lookups, or many rows, share one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, cached, writes_without_cache
from aiomodelcache.backends.protocol import Lease, Leased
from aiomodelcache.testing import CountingBackend
from tests.support.models.derived_models import Happening, Organizer

pytestmark = pytest.mark.models("tests.support.models.derived_models")

MANY = range(1, 75)


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await Organizer.bulk_create([Organizer(id=number, name=f"o{number}") for number in MANY])
        await Happening.bulk_create([Happening(id=number, slug=f"h{number}", organizer_id=1) for number in MANY])


class HeldLeases:
    """Holds one request for leases, after ``passing`` others, until it is released."""

    def __init__(self, backend: CountingBackend, passing: int = 1) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self._passing = passing
        self._lease = backend.lease
        backend.lease = self.lease  # type: ignore[method-assign]

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        if leases:
            self._passing -= 1
            if self._passing == -1:
                self.reached.set()
                await self.released.wait()
        return await self._lease(leases, token, ttl_ms, versions)


class TestEpochs:
    """A bulk write past ``bulk_limit`` leaves the rows' tokens alone, and changes the epoch."""

    async def test_rows_of_two_epochs_are_no_result_to_store(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        @cached
        async def levels() -> Any:
            return [row.level for row in await Happening.cache.get_many([1, 2])]

        async with ModelCache(backend, bulk_limit=1):
            await Happening.cache.get(id=1)
            held = HeldLeases(backend)
            computing = asyncio.create_task(levels())
            await held.reached.wait()  # row 1 was read; row 2 is not leased yet
            await Happening.filter(id__lte=50).update(level=5)
            held.released.set()
            assert await computing == [0, 5]
            assert await levels() == [5, 5]

    async def test_rows_of_two_epochs_are_no_snapshot(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend, bulk_limit=1):
            await Happening.cache.get(id=1)
            held = HeldLeases(backend, passing=0)
            query = BatchCacheQuery(both=Happening.cache.get_many([1, 2]))
            answering = asyncio.create_task(query.get(snapshot=True))
            await held.reached.wait()
            await Happening.filter(id__lte=50).update(level=5)
            held.released.set()
            assert [row.level for row in (await answering)["both"]] == [5, 5]
