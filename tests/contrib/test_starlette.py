"""``register_model_cache`` of Starlette and FastAPI: the order in which Tortoise and the cache open and close."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from tortoise.contrib.starlette import RegisterTortoise, register_tortoise

from aiomodelcache import CacheConfigurationError, ModelCache, NotFoundError
from aiomodelcache.contrib import fastapi, starlette
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.scopes.request import current_scope
from tests.support.in_process import client_of
from tests.support.models.models import User

CONFIG: dict[str, Any] = {
    "db_url": "sqlite://:memory:",
    "modules": {"app": ["tests.support.models.models"]},
    "generate_schemas": True,
}

no_store = pytest.mark.only_on("no store", because="opening depends on no store")

Start = Callable[[Any], Any]
"""Registers Tortoise and the cache with an application."""


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[Any]:
    async with app.router.lifespan_context(app) as state:
        yield state


def tortoise_first(app: Any) -> None:
    register_tortoise(app, **CONFIG)
    starlette.register_model_cache(app, "memory://")


def cache_first(app: Any) -> None:
    starlette.register_model_cache(app, "memory://")
    register_tortoise(app, **CONFIG)


@no_store
@pytest.mark.parametrize("scope", [True, False])
@pytest.mark.parametrize("timing", [True, False])
async def test_the_scope_and_the_header_are_independent(scope: bool, timing: bool) -> None:
    app = FastAPI()
    register_tortoise(app, **CONFIG)
    fastapi.register_model_cache(app, "memory://", request_scope=scope, server_timing=timing)

    @app.get("/")
    async def scoped() -> bool:
        return await User.cache.get_or_none(id=1) is None and current_scope() is not None

    async with started(app), client_of(app) as client:
        response = await client.get("/")
    assert response.json() is scope
    assert ("server-timing" in response.headers) is timing


@no_store
@pytest.mark.parametrize("make", [Starlette, FastAPI])
@pytest.mark.parametrize("register", [tortoise_first, cache_first])
async def test_registration_in_either_order_opens_the_cache_inside_of_tortoise(
    make: Callable[..., Any], register: Callable[[Any], None]
) -> None:
    app = make()
    register(app)
    for _ in range(2):  # an application may start again
        async with started(app):
            user = await User.create(username="kim")
            assert await User.cache.get(id=user.id) == user
        assert default_cache_or_none() is None


@no_store
@pytest.mark.parametrize("make", [Starlette, FastAPI])
async def test_a_lifespan_may_open_tortoise_and_its_state_is_passed_on(make: Callable[..., Any]) -> None:
    closed: list[bool] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, int]]:
        async with RegisterTortoise(app, **CONFIG):
            yield {"answer": 42}
            closed.append(default_cache_or_none() is None)

    app = make(lifespan=lifespan)
    cache = starlette.register_model_cache(app, "memory://")
    async with started(app) as state:
        assert default_cache_or_none() is cache.open_cache
        assert state["answer"] == 42
    assert closed == [True]


@no_store
async def test_without_tortoise_the_application_does_not_start() -> None:
    app = Starlette()
    starlette.register_model_cache(app, "memory://")
    with pytest.raises(CacheConfigurationError, match=r"Tortoise"):
        async with started(app):
            pass


@no_store
@pytest.mark.parametrize("module", [starlette, fastapi])
def test_settings_and_the_request_scope_are_those_of_the_caller(module: Any) -> None:
    app: Any = FastAPI()
    cache: ModelCache = module.register_model_cache(app, "memory://", namespace="shop", timeout="5m")
    assert (cache.namespace, cache.config.timeout) == ("shop", 300)
    assert [middleware.cls for middleware in app.user_middleware] == [LocalCacheMiddleware]
    with pytest.raises(CacheConfigurationError, match=r"no setting 'colour'"):
        module.register_model_cache(app, "memory://", colour="red")

    own = module.register_model_cache(app := FastAPI(), "memory://", request_scope=False, not_found=LookupError)
    assert app.user_middleware == []
    assert type(own.config.no_row(User)) is LookupError


@no_store
@pytest.mark.parametrize("module", [starlette, fastapi])
def test_a_missing_row_is_the_own_exception_of_the_framework(module: Any) -> None:
    import fastapi as fastapi_library
    import starlette.exceptions

    error = module.not_found(NotFoundError(User))
    expected = fastapi_library if module is fastapi else starlette.exceptions
    assert type(error) is expected.HTTPException
    assert (error.status_code, error.detail) == (404, str(NotFoundError(User)))
