"""A relay on a Redis Cluster: its claims stand for all nodes. One node that fails ends them until it is back."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.triggers.installation import install
from tests.relay.outside import other_program
from tests.support.databases import DatabaseUrl
from tests.support.effort import share
from tests.support.gates import PATIENCE
from tests.support.models.relayed_models import Author
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.models("tests.support.models.relayed_models"),
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]

NODES = 3
AUTHORS = range(1, 41)


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(NODES)])


async def letters() -> set[str]:
    """The first letters of the names that lookups of all authors answer with."""
    found = await asyncio.gather(*[Author.cache.get(id=number) for number in AUTHORS])
    return {author.name[0] for author in found}


@pytest.mark.long(because="it waits for the end of claims")
@pytest.mark.parametrize("victim", share(range(NODES)))
async def test_while_a_node_is_frozen_all_nodes_are_bypassed(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, cluster: Cluster, victim: int
) -> None:
    node = cluster.nodes[victim]
    async with ModelCache(cluster.url) as cache:
        await cache.clear_all()
        await install(database, captured_tables(cache.open_cache)["sqlite"])
    await Author.bulk_create([Author(id=number, name=f"a{number}") for number in AUTHORS])
    settings: dict[str, Any] = {"relay": True, "relay_lag": 3, "socket_timeout": 1, "breaker_cooldown": 0.1}
    async with ModelCache(cluster.url, **settings) as cache, other_program(db_url) as run:

        async def until_answered(letter: str, *, statements: int, bypassed: int) -> None:
            """Waits for lookups of all authors that have these costs. No answer may be old meanwhile."""
            async with asyncio.timeout(PATIENCE):
                costs = (-1, -1)
                while costs != (statements, bypassed):
                    before = cache.stats.statements, cache.stats.relay_bypassed
                    assert await letters() == {letter}
                    costs = cache.stats.statements - before[0], cache.stats.relay_bypassed - before[1]
                    await asyncio.sleep(0.05)

        async def until_fresh(letter: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while await letters() != {letter}:
                    await asyncio.sleep(0.05)

        await until_answered("a", statements=0, bypassed=0)
        await run("UPDATE author SET name = 'b' || id")
        await until_fresh("b")
        await until_answered("b", statements=0, bypassed=0)
        node.stop()
        try:
            await run("UPDATE author SET name = 'c' || id")
            await until_fresh("c")
            await until_answered("c", statements=1, bypassed=len(AUTHORS))
        finally:
            node.cont()
        await until_answered("c", statements=0, bypassed=0)
