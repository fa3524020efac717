"""``isolated_cache``: a cache that starts without entries, and leaves none behind."""

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


async def test_consecutive_isolated_caches_share_no_entries(database: BaseDBAsyncClient, backend_url: str) -> None:
    kim = await User.create(username="kim")
    for _ in range(2):
        async with isolated_cache(backend_url):
            async with assert_ops(sql=1):
                assert await User.cache.get(id=kim.id) == kim
            async with assert_ops(sql=0, redis=1):
                assert await User.cache.get(id=kim.id) == kim


@pytest.mark.only_on("redis", because="the server is asked for the keys that are left")
async def test_an_isolated_cache_deletes_its_own_keys_and_no_others(
    database: BaseDBAsyncClient, redis_server: RedisServer
) -> None:
    redis_server.flush()
    with redis_server.client() as client:
        client.set("amc:another:key", "value")
        async with isolated_cache(redis_server.patient_url):
            await use_everything()
            assert len(client.keys()) > 5
        assert client.keys() == [b"amc:another:key"]


async def test_in_a_transaction_an_isolated_cache_works_as_in_autocommit_mode(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with in_transaction() as transaction:
        async with isolated_cache(backend_url):
            kim = await User.create(username="kim")
            await User.cache.get(id=kim.id)
            async with assert_ops(sql=0, redis=1):
                await User.cache.get(id=kim.id)
            await assert_a_write_is_seen(kim)
        await transaction.rollback()
    assert await User.all().count() == 0


async def assert_a_write_is_seen(kim: User) -> None:
    await User.filter(id=kim.id).update(team=2)
    assert (await User.cache.get(id=kim.id)).team == 2


async def test_an_isolated_cache_is_refused_while_another_cache_is_open(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(backend_url):
        with pytest.raises(CacheError, match="open already"):
            async with isolated_cache(backend_url):
                pass


async def test_an_isolated_cache_needs_an_initialised_tortoise() -> None:
    with pytest.raises(CacheConfigurationError, match="Tortoise is not initialised"):
        async with isolated_cache():
            pass


async def test_an_isolated_cache_has_the_settings_and_errors_of_a_model_cache(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with isolated_cache(backend_url, timeout=7) as cache:
        assert cache.config.timeout == 7
    with pytest.raises(CacheConfigurationError, match="not a URL"):
        async with isolated_cache("nowhere"):
            pass
    with pytest.raises(CacheNotOpen):
        await User.cache.get(id=1)


@pytest.mark.only_on("redis", because="its server is killed")
async def test_an_isolated_cache_ends_without_an_error_if_its_server_is_dead(
    database: BaseDBAsyncClient, own_redis: RedisServer
) -> None:
    async with isolated_cache(own_redis.patient_url):
        await use_everything()
        own_redis.kill()
