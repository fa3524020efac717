"""What the cache asks the database for is what Tortoise would have returned, however it comes."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.orm import hydrate as fetching
from aiomodelcache.orm.hydrate import fetch
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema
from tests.support.models import fetched_models
from tests.support.models.fetched_models import Author, Book

pytestmark = [
    pytest.mark.models("tests.support.models.fetched_models"),
    pytest.mark.only_on("no store", because="it is about what the database returns"),
]
OTHERS: list[Any] = [
    each for each in vars(fetched_models).values() if isinstance(each, type) and issubclass(each, Book) and each != Book
]


def held(instance: Any) -> dict[str, Any]:
    """All that an instance holds, relations by what they hold."""
    values = {name: held(value) if isinstance(value, Model) else value for name, value in vars(instance).items()}
    return {"class": type(instance), **values}


async def test_a_plain_query_is_not_left_to_tortoise(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_CHUNK_SIZE", 2)
    monkeypatch.setattr(fetching, "_has_known_slots", True)
    for number in range(5):
        await Author.create(id=number + 1, name=f"author {number}", born=number or None)
    expected = await Author.all().order_by("name")
    query: Any = Author.all().using_db(database).order_by("name")
    monkeypatch.setattr(type(query), "__await__", None)
    monkeypatch.setattr(fetching._queryset, "__await__", None)
    found = await fetch(ModelSchema(Author), query)
    assert list(map(held, found)) == list(map(held, expected))
    assert [each._await_when_save for each in found] == [{}] * 5
    assert found[0]._await_when_save is not found[1]._await_when_save


@pytest.mark.parametrize("model", OTHERS, ids=lambda model: model.__name__)
async def test_what_has_a_say_in_its_instances_is_asked(database: BaseDBAsyncClient, model: Any) -> None:
    author = await Author.create(name="author")
    await model.create(id=1, number=7, author=author)
    [expected] = await model.all()
    [found] = await fetch(ModelSchema(model), model.all().using_db(database))
    assert held(found) == held(expected)
    assert (found.number, getattr(found, "text", "text")) != (7, "text") or len(vars(found)) != len(
        {"id", "number", "text", "author_id", "_partial", "_saved_in_db", "_custom_generated_pk", "_await_when_save"}
    )


async def test_rows_of_another_model_are_left_to_tortoise(database: BaseDBAsyncClient) -> None:
    await Author.create(name="author")
    [found] = await fetch(ModelSchema(fetched_models.Made), Author.all().using_db(database))
    assert type(found) is Author


async def test_an_executor_of_its_own_is_asked(database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = database.executor_class

    async def execute_select(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ["its own"]

    own = type("Executor", (kind,), {"execute_select": execute_select})
    monkeypatch.setattr(type(database), "executor_class", own)
    found: Any = await fetch(ModelSchema(Author), Author.all().using_db(database))
    assert found == ["its own"]


async def test_defaults_of_fields_are_converted_as_tortoise_does(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a driver returns as another type becomes one of the field's own, unless it is None."""
    meta: Any = meta_of(Author)
    monkeypatch.setattr(meta, "db_native_fields", [])
    monkeypatch.setattr(meta, "db_default_fields", [("born", "born", meta.fields_map["born"])])
    convert = fetching._row_converter(Author)
    assert [convert({"born": stored}) for stored in (None, "7", 8)] == [{"born": None}, {"born": 7}, {"born": 8}]


async def test_queries_of_an_unknown_release_are_left_to_tortoise(
    database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Exception):
        pass

    def left(query: Any) -> None:
        raise Left

    monkeypatch.setattr(fetching, "_has_known_slots", False)
    monkeypatch.setattr(fetching._queryset, "__await__", left)
    with pytest.raises(Left):
        await fetch(ModelSchema(Author), Author.all().using_db(database))
