"""``get_many`` on a real Redis Cluster, alone in its read and beside other lookups."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached, no_invalidation
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.encoding.together import MAX_PAIRS
from tests.backends.opening import PATIENT
from tests.observe.recorder import Recorder
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]
NUMBER = MAX_PAIRS + 10
SOME = random.Random(1).sample(range(1, NUMBER + 1), 60)
COMPANY: dict[str, Callable[[], list[Any]]] = {
    "alone": list,
    "itself": lambda: [Artist.cache.get_many(SOME)],
    "others": lambda: [Artist.cache.get_many(range(50, 90)), Artist.cache.in_bulk(range(7))],
    "a row": lambda: [Artist.cache.get(id=SOME[0])],
    "an absent row": lambda: [Artist.cache.get_or_none(id=0)],
    "rows by an index": lambda: [Artist.cache.get(name=f"artist{SOME[1]}"), Artist.cache.filter(rank=3)],
    "a value": lambda: [count()],
}
"""Lookups of the same tick, after or before it."""


@cached(timeout=60)
async def count() -> int:
    return 7


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(3)])


@pytest.fixture(params=["plain", "observed", "signed", "near"])
async def cache(
    request: pytest.FixtureRequest, cluster: Cluster, database: BaseDBAsyncClient
) -> AsyncIterator[ModelCache]:
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n % 10) for n in range(1, NUMBER + 1)])
    for node in cluster.nodes:
        node.flush()
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "observed": {"observers": [Recorder()]},
        "signed": {"secret": bytes(32)},
        "near": {"near": True},
    }
    backend = RedisBackend(cluster.url, socket_timeout=PATIENT)
    async with ModelCache(backend, **settings[request.param]) as opened:
        yield opened
    await backend.close()


async def found_by(lookups: list[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*lookups))


@pytest.mark.parametrize("company", COMPANY)
async def test_rows_are_those_of_the_database_in_any_company(company: str, cache: ModelCache) -> None:
    async def assert_right() -> None:
        stored = {row.id: row for row in await Artist.all()}
        expected = [vars(stored[pk]) for pk in SOME if pk in stored]
        for first in (True, False):
            others = COMPANY[company]()
            lookups = [Artist.cache.get_many(SOME), *others] if first else [*others, Artist.cache.get_many(SOME)]
            found = await found_by(lookups)
            assert list(map(vars, found[0 if first else -1])) == expected

    for _ in range(4):
        await assert_right()
    before = cache.stats.statements
    await found_by([Artist.cache.get_many(SOME), *COMPANY[company]()])
    assert cache.stats.statements == before
    await Artist(id=SOME[3], name="new", rank=1).save(force_update=True)
    await Artist.filter(id=SOME[5]).delete()
    for _ in range(2):
        await assert_right()
    with no_invalidation():
        await Artist.filter(id__in=SOME[10:40]).update(rank=55)
    epoch = cache.open_cache.entries_of(Artist).rows.epoch_of(
        Artist.cache.get(id=SOME[20]).locate(cache.open_cache).key
    )
    await cache.backend.delete([epoch])
    async with asyncio.timeout(PATIENT):
        while cache.open_cache.guarded.near.holds(epoch):  # the message about it is on its way
            await asyncio.sleep(0.001)
    found = {row.id: row.rank for row in await Artist.cache.get_many(SOME)}
    assert found[SOME[20]] == 55  # of the partition whose epoch is lost
    await Artist.cache.clear()
    for _ in range(2):
        await assert_right()


@pytest.mark.parametrize("number", [1, MAX_PAIRS, MAX_PAIRS + 1])
async def test_any_number_of_rows(number: int, cache: ModelCache) -> None:
    pks = random.Random(2).sample(range(1, NUMBER + 1), number)
    for _ in range(4):
        assert [row.id for row in await Artist.cache.get_many(pks)] == pks
        assert list(await Artist.cache.in_bulk(pks)) == pks
        assert [row.id for row in await Artist.cache.get_many(list(map(str, pks)))] == pks


async def test_a_cached_function_depends_on_the_rows(cache: ModelCache) -> None:
    @cached(timeout=60)
    async def ranks() -> list[int]:
        return [row.rank for row in await Artist.cache.get_many(SOME[:20])]

    for _ in range(3):
        assert await ranks() == [pk % 10 for pk in SOME[:20]]
    await Artist(id=SOME[7], name="new", rank=99).save(force_update=True)
    assert (await ranks())[7] == 99
