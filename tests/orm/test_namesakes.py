"""Results computed from, or containing, instances of two models of the same name, in two apps and two databases."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache, cached
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models import namesake_models, result_models

pytestmark = [
    pytest.mark.no_tables,
    pytest.mark.only_on("sqlite", because="which app a model is of depends on no database"),
]

MODELS: list[Any] = [result_models.Club, namesake_models.Club]


@pytest.fixture
async def database(db_url: DatabaseUrl, other_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:
        await context.init(
            config={
                "connections": {"here": str(db_url), "there": str(other_url)},
                "apps": {
                    "app": {"models": ["tests.support.models.result_models"], "default_connection": "here"},
                    "other": {"models": ["tests.support.models.namesake_models"], "default_connection": "there"},
                },
            }
        )
        await context.generate_schemas(safe=False)
        yield context.connections.get("here")


@cached()
async def name_of(club: Any) -> str:
    return str(club.name)


@cached()
async def all_clubs() -> list[Any]:
    return [club for model in MODELS for club in await model.all()]


def label(model: type[Any]) -> str:
    """Returns the last part of the name of the model's module."""
    return model.__module__.rpartition(".")[2]


async def test_arguments_of_models_with_the_same_name_have_different_keys(cache: ModelCache) -> None:
    here, there = [await model.create(id=1, name=label(model)) for model in MODELS]
    for _ in range(2):
        assert [await name_of(here), await name_of(there)] == [here.name, there.name]


async def test_an_instance_in_a_result_comes_back_as_an_instance_of_its_model(
    cache: ModelCache, backend: CountingBackend
) -> None:
    for model in MODELS:
        await model.create(id=1, name=label(model))
    for _ in range(2):
        assert [(type(club), club.name) for club in await all_clubs()] == [(m, label(m)) for m in MODELS]
    async with assert_ops(backend, sql=0):
        await all_clubs()
