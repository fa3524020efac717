"""Results computed from, or containing, instances of two models of the same name, in two apps and two databases."""

import sys
import types
from collections.abc import AsyncIterator
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from aiomodelcache import BatchCacheQuery, ModelCache, ResultCache, ValueCache, cached, local_cache
from aiomodelcache.declare.registry import path_of
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


async def test_namesakes_are_counted_apart(cache: ModelCache) -> None:
    for model in MODELS:
        await model.create(id=1)
    for _ in range(3):
        await MODELS[0].cache.get(id=1)
    await MODELS[1].cache.get(id=1)
    counts = {
        name: counters.hits + counters.misses for name, counters in cache.stats.by_cache.items() if "Club" in name
    }
    assert counts == {
        "tests.support.models.result_models.Club": 3,
        "tests.support.models.namesake_models.Club": 1,
        "ClubSize": 0,
    }


@pytest.fixture
def namesakes() -> list[Any]:
    """Cache classes with the names of others, one of them for the same model and key."""

    class Points(ResultCache[list[str]]):
        model = result_models.Member
        key_fields = ("team",)

        async def get_result(self, team: int) -> list[str]:
            return [member.name for member in await result_models.Member.filter(team=team)]

    class Member(ValueCache[str]):
        async def get_value(self, team: int) -> str:
            return f"of team {team}"

    return [Points, Member]


async def test_cache_classes_of_the_same_name_in_different_modules(
    namesakes: list[Any], cache: ModelCache, backend: CountingBackend
) -> None:
    Points, Value = namesakes
    member = await result_models.Member.create(number=1, team=7, points=5, name="kim")
    for _ in range(2):
        async with local_cache():
            both = BatchCacheQuery(points=result_models.Points(7), names=Points(7), value=Value(7))
            answers = await both
        assert answers["names"] == ["kim"]
        assert answers["points"]["points"] == {1: 5}
        assert answers["value"] == "of team 7"
    keys = {result_models.Member.cache.key(query) for query in (result_models.Points(7), Points(7))}  # type: ignore[attr-defined]
    assert {key.split(":")[4] for key in keys} == {"tests.support.models.result_models.Points", f"{__name__}.Points"}
    member.name = "lee"
    await member.save()
    assert await Points(7) == ["lee"]
    by_cache = cache.stats.by_cache
    assert by_cache["tests.support.models.result_models.Points"].fills == 1
    assert by_cache[f"{__name__}.Points"].fills == 2
    assert by_cache[f"{__name__}.Member"].fills == 1
    assert by_cache["tests.support.models.result_models.Member"].fills > 0
    assert {"Points", "Member"}.isdisjoint(by_cache)


def test_a_class_of_the_main_module_has_the_name_by_which_others_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", started)
    main = type("Main", (), {"__module__": "__main__"})
    assert path_of(main) == "__main__.Main"
    started.__file__ = "/srv/shop/worker.py"
    assert path_of(main) == "worker.Main"
    started.__spec__ = ModuleSpec("shop.worker", None)
    assert path_of(main) == "shop.worker.Main"
    assert path_of(ModelCache) == "aiomodelcache.client.ModelCache"
