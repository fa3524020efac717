"""``isolated_cache``: nothing in it was there before, and nothing of it is left behind."""

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfigurationError, CacheError, CacheNotOpen, ModelCache
from aiomodelcache.testing import assert_ops, isolated_cache
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer


async def use_everything() -> None:
    kim = await User.create(username="kim")
    await Event.create(slug="pycon", organizer=kim)
    await User.cache.get(username="kim")
    await Event.cache.filter(organizer=kim)
    await User.cache.get_or_none(username="lee")
    await kim.save()
    await User.filter(id=kim.id).update(team=2)
    await User.cache.get(id=kim.id)
    await User.cache.clear()


async def test_two_after_another_share_nothing(database: BaseDBAsyncClient, backend_url: str) -> None:
    kim = await User.create(username="kim")
    for _ in range(2):
        async with isolated_cache(backend_url):
            async with assert_ops(sql=1):
                assert await User.cache.get(id=kim.id) == kim
            async with assert_ops(sql=0, redis=1):
                assert await User.cache.get(id=kim.id) == kim


@pytest.mark.only_on("redis", because="the server is asked what is left")
async def test_it_takes_along_what_it_wrote_and_nothing_else(
    database: BaseDBAsyncClient, redis_server: RedisServer
) -> None:
    redis_server.flush()
    with redis_server.client() as client:
        client.set("amc:somebody:elses", "value")
        async with isolated_cache(redis_server.patient_url):
            await use_everything()
            assert len(client.keys()) > 5
        assert client.keys() == [b"amc:somebody:elses"]


async def test_inside_a_transaction_it_works_as_in_autocommit_mode(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with in_transaction() as transaction:
        async with isolated_cache(backend_url):
            kim = await User.create(username="kim")
            await User.cache.get(id=kim.id)
            async with assert_ops(sql=0, redis=1):
                await User.cache.get(id=kim.id)
            await use_nothing_stale(kim)
        await transaction.rollback()
    assert await User.all().count() == 0


async def use_nothing_stale(kim: User) -> None:
    await User.filter(id=kim.id).update(team=2)
    assert (await User.cache.get(id=kim.id)).team == 2


async def test_a_cache_that_is_open_is_refused(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(backend_url):
        with pytest.raises(CacheError, match="open already"):
            async with isolated_cache(backend_url):
                pass


async def test_without_tortoise() -> None:
    with pytest.raises(CacheConfigurationError, match="Tortoise is not initialised"):
        async with isolated_cache():
            pass


async def test_settings_and_mistakes_are_those_of_a_cache(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with isolated_cache(backend_url, timeout=7) as cache:
        assert cache.config.timeout == 7
    with pytest.raises(CacheConfigurationError, match="not a URL"):
        async with isolated_cache("nowhere"):
            pass
    with pytest.raises(CacheNotOpen):
        await User.cache.get(id=1)


@pytest.mark.only_on("redis", because="its server is killed")
async def test_a_test_may_leave_a_dead_server(database: BaseDBAsyncClient, own_redis: RedisServer) -> None:
    async with isolated_cache(own_redis.patient_url):
        await use_everything()
        own_redis.kill()
