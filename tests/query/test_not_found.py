"""``get_or_404``: the row, or an exception that a web framework turns into a response. Also Sentry's names."""

import asyncio
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned

from aiomodelcache import BatchCacheQuery, CacheConfigurationError, ModelCache, NotFoundError, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, State, User


class HTTPException(Exception):
    """An exception like those of web frameworks."""

    def __init__(self, status: int = 500, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status


class NotFound(HTTPException):
    def __init__(self) -> None:
        super().__init__(404)


class Gone(NotFoundError):
    status_code = 410


async def test_get_or_404_returns_the_row_or_raises_an_error_with_status_404(
    cache: ModelCache, backend: CountingBackend
) -> None:
    user = await User.create(username="kim")
    assert await User.cache.get_or_404(username="kim") == user
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await User.cache.get_or_404(username="kim") == user
    for sql, redis in ((1, ["read", "lease", "fill"]), (0, ["read"])):
        async with assert_ops(backend, sql=sql, redis=redis):
            with pytest.raises(NotFoundError, match=r'Object "User" does not exist') as caught:
                await User.cache.get_or_404(id=404)
    assert caught.value.status_code == 404
    assert isinstance(caught.value, DoesNotExist)
    assert caught.value.model is User


async def test_get_or_404_raises_multiple_objects_returned_for_several_rows(cache: ModelCache) -> None:
    for slug in "ab":
        organizer = await User.create(username=slug)
        await Event.create(slug=slug, organizer=organizer, state=State.OPEN)
    with pytest.raises(MultipleObjectsReturned):
        await Event.cache.get_or_404(state=State.OPEN)


@pytest.mark.parametrize(
    ("not_found", "raised", "status"),
    [
        (NotFound, NotFound, 404),
        (Gone, Gone, None),
        (lambda error: HTTPException(404, str(error)), HTTPException, 404),
    ],
    ids=["class", "kind of NotFoundError", "function"],
)
async def test_the_not_found_setting_replaces_the_exception(
    not_found: Any, raised: type[Exception], status: int | None, database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async with ModelCache(backend, not_found=not_found):
        for _ in range(2):
            with pytest.raises(raised) as caught:
                await User.cache.get_or_404(id=404)
            assert type(caught.value) is raised
            assert getattr(caught.value, "status", None) == status
            assert isinstance(caught.value.__cause__, DoesNotExist)
        batch = BatchCacheQuery(lost=User.cache.get_or_404(id=404))
        assert type((await batch.get(return_exceptions=True))["lost"]) is raised
        async with local_cache():
            assert await User.cache.get_or_none(id=404) is None
            for _ in range(2):
                with pytest.raises(raised):
                    await User.cache.get_or_404(id=404)
        with pytest.raises(DoesNotExist):
            await User.cache.get(id=404)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (404, "use a class of exceptions, or a function of the NotFoundError that returns one"),
        (int, "use a class of exceptions"),
        (KeyboardInterrupt, "use a class of exceptions"),
        (type("Detailed", (Exception,), {"__init__": lambda self, detail: None}), "cannot be made without arguments"),
        (lambda: NotFound(), r"must take one argument, the NotFoundError .* use a function like lambda error"),
    ],
)
def test_a_not_found_setting_that_makes_no_exception_is_refused_by_the_constructor(wrong: Any, message: str) -> None:
    with pytest.raises(CacheConfigurationError, match=rf"CacheConfig\.not_found is .*{message}"):
        ModelCache("memory://", not_found=wrong)


async def test_a_not_found_function_that_returns_no_exception_is_an_error(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(backend_url, not_found=lambda error: None):  # type: ignore[arg-type,return-value]
        with pytest.raises(CacheConfigurationError, match="not_found returned None: it must return an exception"):
            await User.cache.get_or_404(id=404)


async def test_the_method_names_of_sentrys_manager_work(cache: ModelCache, backend: CountingBackend) -> None:
    kim, lee = await User.create(username="kim"), await User.create(username="lee")
    await User.cache.get_many_from_cache(["kim", "lee"], "username")
    await User.cache.get_or_none(id=404)
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await asyncio.gather(
            User.cache.get_from_cache(username="kim"), User.cache.get_many_from_cache([lee.id, 404, kim.id])
        ) == [kim, [lee, kim]]
