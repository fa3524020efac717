"""A store of one server, whose keys are not divided, costs lookups no search for the epoch of each key."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, local_cache
from aiomodelcache.encoding import partitions
from tests.support.models.music import Artist

pytestmark = pytest.mark.models("tests.support.models.music")

PKS = list(range(1, 21))
NAMES = [f"artist{pk}" for pk in PKS]
LOOK_UPS: dict[str, Callable[[], Awaitable[Any]]] = {
    "a batch by primary key": lambda: BatchCacheQuery({str(pk): Artist.cache.get(id=pk) for pk in PKS}),
    "a batch by an index": lambda: BatchCacheQuery({name: Artist.cache.get(name=name) for name in NAMES}),
    "a list": lambda: Artist.cache.filter(rank=1),
    "in_bulk": lambda: Artist.cache.in_bulk(PKS),
    "in_bulk by an index": lambda: Artist.cache.in_bulk(NAMES, "name"),
    "get_many": lambda: Artist.cache.get_many(PKS),
    "get_many of lists": lambda: Artist.cache.get_many([1, 2], "rank"),
}
MOST: int = 6
"""Maximum number of calls for all keys of a lookup."""


async def calls_of_partitions(work: Callable[[], Awaitable[Any]]) -> int:
    """Returns how many functions of ``encoding.partitions`` a piece of work calls."""
    calls = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == partitions.__file__

    sys.setprofile(profile)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("scoped", [True, False], ids=["in local_cache", "outside"])
@pytest.mark.parametrize("name", LOOK_UPS)
async def test_one_server_asks_for_no_epoch_of_each_key(
    name: str, scoped: bool, database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(backend_url):
        await Artist.bulk_create([Artist(id=pk, name=f"artist{pk}", rank=pk % 3) for pk in PKS])
        for _ in range(2):
            await LOOK_UPS[name]()
        async with local_cache() if scoped else nullcontext():
            assert await calls_of_partitions(LOOK_UPS[name]) <= MOST
