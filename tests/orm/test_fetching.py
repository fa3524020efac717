"""``fetch_instances`` returns the instances that Tortoise would return, built by the cache itself or by Tortoise."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.orm import hydrate
from aiomodelcache.orm.hydrate import fetch_instances
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema
from tests.support.models import fetched_models
from tests.support.models.fetched_models import Author, Book

pytestmark = [
    pytest.mark.models("tests.support.models.fetched_models"),
    pytest.mark.only_on("no store", because="it is about what the database returns"),
]
OVERRIDING: list[Any] = [
    model
    for model in vars(fetched_models).values()
    if isinstance(model, type) and issubclass(model, Book) and model != Book
]


def contents(instance: Any) -> dict[str, Any]:
    """Returns the class and all attributes of an instance, related instances by their contents."""
    values = {name: contents(value) if isinstance(value, Model) else value for name, value in vars(instance).items()}
    return {"class": type(instance), **values}


async def test_a_plain_query_is_not_run_by_tortoise(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydrate, "_CHUNK_SIZE", 2)
    monkeypatch.setattr(hydrate, "_has_known_slots", True)
    for number in range(5):
        await Author.create(id=number + 1, name=f"author {number}", born=number or None)
    expected = await Author.all().order_by("name")
    query: Any = Author.all().using_db(database).order_by("name")
    monkeypatch.setattr(type(query), "__await__", None)
    monkeypatch.setattr(hydrate._queryset, "__await__", None)
    found = await fetch_instances(ModelSchema(Author), query)
    assert list(map(contents, found)) == list(map(contents, expected))
    assert [instance._await_when_save for instance in found] == [{}] * 5
    assert found[0]._await_when_save is not found[1]._await_when_save


@pytest.mark.parametrize("model", OVERRIDING, ids=lambda model: model.__name__)
async def test_a_model_with_its_own_queries_or_construction_is_left_to_tortoise(
    database: BaseDBAsyncClient, model: Any
) -> None:
    author = await Author.create(name="author")
    await model.create(id=1, number=7, author=author)
    [expected] = await model.all()
    [found] = await fetch_instances(ModelSchema(model), model.all().using_db(database))
    assert contents(found) == contents(expected)
    assert (found.number, getattr(found, "text", "text")) != (7, "text") or len(vars(found)) != len(
        {"id", "number", "text", "author_id", "_partial", "_saved_in_db", "_custom_generated_pk", "_await_when_save"}
    )


async def test_rows_of_another_model_are_left_to_tortoise(database: BaseDBAsyncClient) -> None:
    await Author.create(name="author")
    [found] = await fetch_instances(ModelSchema(fetched_models.Made), Author.all().using_db(database))
    assert type(found) is Author


async def test_an_executor_that_overrides_select_is_used(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = database.executor_class

    async def execute_select(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ["its own"]

    own = type("Executor", (kind,), {"execute_select": execute_select})
    monkeypatch.setattr(type(database), "executor_class", own)
    found: Any = await fetch_instances(ModelSchema(Author), Author.all().using_db(database))
    assert found == ["its own"]


async def test_values_of_another_type_are_converted_as_tortoise_converts_them(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of another type than the field's is converted to it, unless it is None."""
    meta: Any = meta_of(Author)
    monkeypatch.setattr(meta, "db_native_fields", [])
    monkeypatch.setattr(meta, "db_default_fields", [("born", "born", meta.fields_map["born"])])
    convert = hydrate.row_converter(Author)
    assert convert([{"born": stored} for stored in (None, "7", 8)]) == [{"born": None}, {"born": 7}, {"born": 8}]


@pytest.mark.only_on("sqlite", because="other databases return a column's name as the statement has it")
async def test_a_column_is_found_by_its_name_in_another_case(database: BaseDBAsyncClient) -> None:
    """Tortoise leaves its attribute out."""
    await Author.create(id=1, name="kim", born=2000)
    await database.execute_script("ALTER TABLE author RENAME COLUMN full_name TO Full_Name")
    [found] = await fetch_instances(ModelSchema(Author), Author.all().using_db(database))
    assert (found.id, found.name, found.born) == (1, "kim", 2000)


async def test_queries_of_an_unknown_release_are_left_to_tortoise(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LeftToTortoise(Exception):
        pass

    def leave(query: Any) -> None:
        raise LeftToTortoise

    monkeypatch.setattr(hydrate, "_has_known_slots", False)
    monkeypatch.setattr(hydrate._queryset, "__await__", leave)
    with pytest.raises(LeftToTortoise):
        await fetch_instances(ModelSchema(Author), Author.all().using_db(database))
