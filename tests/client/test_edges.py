"""Edge cases: a cache that closes before a transaction ends, refused values, and wrong attributes."""

import logging

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import (
    CacheConfigurationError,
    InstanceCache,
    ModelCache,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
    local_cache,
)
from aiomodelcache.encoding.values import ValueCodec
from aiomodelcache.testing import CountingBackend
from tests.support.models.models import Event, User

pytestmark = pytest.mark.only_on("sqlite", because="no statement differs in it")


@pytest.mark.parametrize("on_write_error", ["retry", "raise"])
async def test_a_transaction_that_commits_after_its_cache_closed_leaves_nothing_stale(
    database: BaseDBAsyncClient, backend: CountingBackend, on_write_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = await ModelCache(backend, on_write_error=on_write_error).open()  # type: ignore[arg-type]
    user = await User.create(username="kim")
    assert (await User.cache.get(id=user.id)).username == "kim"
    async with in_transaction():
        user.username = "ada"
        await user.save()
        await cache.close()
    async with ModelCache(backend):
        assert (await User.cache.get(id=user.id)).username == "ada"
        assert (await User.cache.get(username="ada")).id == user.id
        assert await User.cache.get_or_none(username="kim") is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_values_that_the_database_refused_are_not_remembered_by_the_scope(cache: ModelCache) -> None:
    kim, _ada = await User.create(username="kim"), await User.create(username="ada")
    async with local_cache():
        found = await User.cache.get(id=kim.id)
        found.username = "ada"
        with pytest.raises(IntegrityError):
            await found.save()
        assert (await User.cache.get(id=kim.id)).username == "kim"
        assert (await User.cache.get(username="kim")).username == "kim"


async def compute(self: object, **params: object) -> int:
    return 1


class TestAttributesOfCacheClasses:
    @pytest.mark.only_on("no store", because="the cache does not open")
    @pytest.mark.parametrize(
        ("base", "attributes", "message"),
        [
            (QuerysetCache, {"get_instance": lambda self: None}, "get_instance has no effect"),
            (QuerysetCache, {"get_result": lambda self: 1}, "get_result is not a coroutine function"),
            (QuerysetExistsCache, {"get_result": compute}, "get_result has no effect"),
            (QuerysetCountCache, {"codec": ValueCodec()}, "codec is for computed results"),
            (QuerysetCache, {"get_result": compute, "limit": 3}, "limit is for lists"),
            (InstanceCache, {"get_result": compute}, "get_result has no effect"),
            (ResultCache, {}, "has no get_result"),
            (ResultCache, {"get_results": compute}, "get_results is not a class method"),
            (ResultCache, {"get_results": classmethod(lambda cls: 1)}, "get_results is not a class method"),
            (
                ResultCache,
                {"get_results": classmethod(compute), "get_result": compute},
                "get_results replaces get_result",
            ),
            (InstanceCache, {"get_results": classmethod(compute)}, "get_results has no effect"),
            (QuerysetExistsCache, {"get_results": classmethod(compute)}, "get_results has no effect"),
            (QuerysetCache, {"get_instances": classmethod(compute)}, "get_instances has no effect"),
            (QuerysetCache, {"get_results": None}, "get_results is not a class method"),
            (InstanceCache, {"get_instances": compute}, "get_instances is not a class method"),
            (
                InstanceCache,
                {"get_instances": classmethod(compute), "get_instance": compute},
                "get_instances replaces get_instance",
            ),
            (InstanceCache, {"limit": 3}, "limit is for lists"),
            (InstanceCache, {"order_by": ["slug"]}, "order_by is for lists"),
            (InstanceCache, {"timeuot": 5}, "timeuot is not a setting of the cache: use timeout"),
            (InstanceCache, {"key_fields": ("id",), "timeout": 5}, r"set it in Event\.CacheMeta"),
            (QuerysetCache, {"filter_key_fields_list": []}, "belongs to a ModelCacheManager"),
        ],
    )
    async def test_attributes_without_an_effect_are_refused(
        self, database: BaseDBAsyncClient, base: type, attributes: dict[str, object], message: str
    ) -> None:
        body = {"model": Event, "key_fields": ("slug",), "__module__": __name__, **attributes}
        cls = type("Wrong", (base,), body)
        with pytest.raises(CacheConfigurationError, match=rf"Wrong.*{message}"):
            await ModelCache("memory://").open()
        del cls

    async def test_classes_can_have_attributes_of_their_own(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        class BySlug(InstanceCache[Event]):
            model = Event
            key_fields = ("slug",)
            calls = 0

            async def get_instance(self, slug: str) -> None:
                type(self).calls += 1

            @property
            def shout(self) -> str:
                return "!"

            def timeouts(self) -> int:
                return 1

        async with ModelCache(backend):
            assert BySlug("x").shout == "!"
            assert await BySlug("x") is None
            assert BySlug.calls == 1


def test_a_namespace_that_is_no_string_is_an_error() -> None:
    with pytest.raises(CacheConfigurationError, match="namespace is 5"):
        ModelCache("memory://", namespace=5)  # type: ignore[arg-type]
