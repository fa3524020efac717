"""Models that share a table: a write through any of them invalidates all cached ones."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.transactions import in_transaction

from aiomodelcache import MemoryBackend, ModelCache
from aiomodelcache.orm.tables import models_by_table
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl, create_tables, tortoise_on
from tests.support.effort import share
from tests.support.models.shared_models import Label, Place, PlacesOfCity, Review, Visit
from tests.support.models.sharing_models import (
    BarePlace,
    NumberedPlace,
    PlaceCard,
    PlainPlace,
    PlainVisit,
    RenamedPlace,
    VisiblePlace,
    VisitText,
)

TABLES, SHARING = "tests.support.models.shared_models", "tests.support.models.sharing_models"
pytestmark = [pytest.mark.models(TABLES), pytest.mark.slow(because="makes all lookups of ten models five times")]
ALIKE = [Place, PlainPlace, PlaceCard, VisiblePlace]
OTHERS = [RenamedPlace, NumberedPlace, BarePlace]
CITIES = (0, 1, 2, 3)


@pytest.fixture
async def database(db_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    """Tortoise with all models, on the tables of the first ones."""
    async with tortoise_on(db_url, TABLES, SHARING, create=False) as connection:
        yield connection


@pytest.fixture
async def rows(cache: ModelCache) -> None:
    """Three places, of which one has visits, reviews and labels. All lookups have been answered once."""
    for number in (1, 2, 3):
        await Place.create(id=number, number=number, city=number % 2 + 1)
    label = await Label.create(id=1)
    for place in await Place.filter(id__in=[1, 2]):
        await place.labels.add(label)
        await Visit.create(id=place.id, place=place)
        await Review.create(id=place.id, place=place)
    await answers()
    await answers()


async def answers() -> dict[str, Any]:
    """Returns the answers to all lookups of all cached models. Those of one model are made at once."""
    found: dict[str, Any] = {}
    for model in (Place, PlaceCard, VisiblePlace):
        lookups = {
            **{f"{number}": model.cache.get_or_none(pk=number) for number in range(1, 6)},
            **{f"number {number}": model.cache.get_or_none(number=number) for number in range(1, 6)},
            **{f"in {city}": model.cache.filter(city=city) for city in CITIES},
        }
        found |= await answered(model.__name__, lookups)
    for model in (Visit, VisitText, Review):
        found |= await answered(model.__name__, {f"{n}": model.cache.get_or_none(pk=n) for n in (1, 2, 3)})
        if model is not VisitText:
            found |= await answered(model.__name__, {f"of {n}": model.cache.filter(place=n) for n in (1, 2, 3)})
    found |= await answered("count", {f"in {city}": PlacesOfCity(city) for city in CITIES})
    found |= await answered("labels", {f"of {place.id}": place.labels for place in await Place.all()})
    return found | await answered("places", {f"of {label.id}": label.places for label in await Label.all()})


async def answered(subject: str, lookups: dict[str, Any]) -> dict[str, Any]:
    """Returns the answers to lookups that are made at once, by their names."""
    found = await asyncio.gather(*map(columns, lookups.values()))
    return {f"{subject} {name}": answer for name, answer in zip(lookups, found, strict=True)}


async def columns(query: Any) -> Any:
    """Returns the rows that a query finds, as their columns."""
    result = await query
    if isinstance(result, list):
        return [dict(row) for row in result]
    return result if isinstance(result, int) else result and dict(result)


async def assert_current(cache: ModelCache) -> None:
    """Asserts that the cache answers as the database does, to lookups that miss and to those that then hit."""
    with cache.disabled():
        expected = await answers()
    for _ in range(2):
        found = await answers()
        assert {name: (found[name], expected[name]) for name in found if found[name] != expected[name]} == {}


def named(model: type[Model], **values: int) -> dict[str, int]:
    """Returns values of ``number`` and ``city`` by the names that a model gives to these columns."""
    names = {"number": "code", "city": "town"} if model is RenamedPlace else {}
    known = {names.get(name, name): value for name, value in values.items()}
    return {name: value for name, value in known.items() if name in model._meta.fields_map}


def row(model: type[Model], number: int) -> dict[str, int]:
    return {"number": number} if model is NumberedPlace else {"id": number}


async def change_all(model: Any, place: Any) -> None:
    await place.update_from_dict(named(model, number=4, city=3, score=5)).save()


async def move(model: Any, place: Any) -> None:
    changed = named(model, city=3, score=5)
    place.update_from_dict(changed)
    await place.save(update_fields=list(changed))


async def hide(model: Any, place: Any) -> None:
    await model.filter(pk=place.pk).update(**named(model, city=0, score=5))


async def hide_and_show(model: Any, place: Any) -> None:
    await hide(model, place)
    await answers()
    await model.filter(pk=place.pk).update(**named(model, city=1, score=6))


async def bulk_update(model: Any, place: Any) -> None:
    changed = named(model, city=2, score=7)
    place.update_from_dict(changed)
    await model.bulk_update([place], list(changed))


async def shift(model: Any, place: Any) -> None:
    [name] = list(named(model, city=1)) or ["score"]
    await model.all().update(**{name: F(name) + 1})


async def in_a_transaction(model: Any, place: Any) -> None:
    async with in_transaction():
        await move(model, place)
        await model.filter(pk=2).delete()


async def roll_back(model: Any, place: Any) -> None:
    async with in_transaction() as transaction:
        await move(model, place)
        await transaction.rollback()


CHANGES: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "save": change_all,
    "save(update_fields)": move,
    "delete": lambda model, place: place.delete(),
    "QuerySet.update": hide,
    "QuerySet.update twice": hide_and_show,
    "QuerySet.update of an expression": shift,
    "QuerySet.delete": lambda model, place: model.filter(pk=place.pk).delete(),
    "bulk_update": bulk_update,
    "update_or_create": lambda model, place: model.update_or_create(named(model, city=3, score=8), **row(model, 1)),
    "in a transaction": in_a_transaction,
    "rolled back": roll_back,
}


@pytest.mark.exhaustive(because="every way of writing, by every model of a table")
@pytest.mark.only_on("sqlite", because="the next test makes each change on every database")
@pytest.mark.only_on("memory", because="the next test makes each change in every store")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", share([*ALIKE, *OTHERS], one_in=2), ids=lambda model: model.__name__)
async def test_a_change_through_any_model_of_a_table_is_seen_through_all(
    cache: ModelCache, rows: None, model: Any, change: str
) -> None:
    await change_and_check(cache, model, change)


@pytest.mark.exhaustive(because="every way of writing, by every model of a table")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", [PlainPlace, RenamedPlace], ids=lambda model: model.__name__)
async def test_a_change_through_a_model_alike_and_another_is_seen_on_every_database(
    cache: ModelCache, rows: None, model: Any, change: str
) -> None:
    await change_and_check(cache, model, change)


async def change_and_check(cache: ModelCache, model: Any, change: str) -> None:
    if model is NumberedPlace and change == "save":
        change = "save(update_fields)"  # its primary key is the number
    if (model, change) == (RenamedPlace, "bulk_update"):
        pytest.skip("Tortoise's bulk_update takes the names of attributes for those of columns")
    place = await model.get(**row(model, 3 if change == "save" else 1))  # reviews refer to the numbers of others
    forget_statements()
    await CHANGES[change](model, place)
    await assert_current(cache)


def forget_statements() -> None:
    """Has Tortoise make its statements anew. It keeps them by table, so that a model would get those of another."""
    EXECUTOR_CACHE.clear()


CREATIONS: dict[str, Callable[[Any, dict[str, int]], Awaitable[object]]] = {
    "create": lambda model, values: model.create(**values),
    "get_or_create": lambda model, values: model.get_or_create(**values),
    "update_or_create": lambda model, values: model.update_or_create(**values),
    "bulk_create": lambda model, values: model.bulk_create([model(**values)]),
    "bulk_create without conflicts": lambda model, values: model.bulk_create([model(**values)], ignore_conflicts=True),
}


@pytest.mark.exhaustive(because="every way of creating, by every model of a table")
@pytest.mark.only_on("sqlite", because="the next test makes each creation on every database")
@pytest.mark.only_on("memory", because="the next test makes each creation in every store")
@pytest.mark.parametrize("creation", CREATIONS)
@pytest.mark.parametrize("model", share([*ALIKE, RenamedPlace], one_in=2), ids=lambda model: model.__name__)
async def test_a_row_created_through_any_model_of_a_table_is_seen_through_all(
    cache: ModelCache, rows: None, model: Any, creation: str
) -> None:
    await create_and_check(cache, model, creation)


@pytest.mark.exhaustive(because="every way of writing, by every model of a table")
@pytest.mark.parametrize("creation", CREATIONS)
@pytest.mark.parametrize("model", [PlainPlace, RenamedPlace], ids=lambda model: model.__name__)
async def test_a_row_created_through_a_model_alike_and_another_is_seen_on_every_database(
    cache: ModelCache, rows: None, model: Any, creation: str
) -> None:
    await create_and_check(cache, model, creation)


async def create_and_check(cache: ModelCache, model: Any, creation: str) -> None:
    forget_statements()
    await CREATIONS[creation](model, {"id": 4, **named(model, number=4, city=3)})
    await assert_current(cache)


@pytest.mark.exhaustive(because="every way of writing, by every model of a table")
@pytest.mark.parametrize(
    "write",
    [
        lambda: PlainVisit.filter(id=1).update(text="x"),
        lambda: PlainVisit.filter(id=1).update(place_id=3),
        lambda: PlainVisit.filter(id=1).delete(),
        lambda: PlainVisit.create(id=3, place_id=1),
        lambda: VisitText.filter(id=1).update(text="x"),
        lambda: VisitText.filter(id=1).delete(),
    ],
)
async def test_a_write_through_any_model_of_the_child_table_is_seen_through_all(
    cache: ModelCache, rows: None, write: Callable[[], Awaitable[object]]
) -> None:
    await write()
    await assert_current(cache)


@pytest.mark.parametrize("write", ["save", "update", "delete"])
async def test_a_write_through_an_uncached_model_affects_no_other_row(
    cache: ModelCache, backend: CountingBackend, rows: None, write: str
) -> None:
    place = await PlainPlace.get(id=1)
    for lookup in (lookups := [Place.cache.get(id=2), Place.cache.get(number=2), Place.cache.filter(city=1)]):
        await lookup
    async with assert_ops(backend, redis=["mark", "clear"]):
        if write == "save":
            await place.save(update_fields=["score"])
        elif write == "update":
            await PlainPlace.filter(id=1).update(score=3)
        else:
            await place.delete()
    async with assert_ops(backend, sql=0):
        for lookup in lookups:
            await lookup


async def test_a_model_with_other_names_invalidates_everything_about_the_cached_ones(
    cache: ModelCache, backend: CountingBackend, rows: None
) -> None:
    await Place.cache.get(id=2)
    forget_statements()
    async with assert_ops(backend, redis=["mark", "clear"], sql=1, transactions=0):
        await RenamedPlace(id=4, code=4).save()
    async with assert_ops(backend, sql=1):
        await Place.cache.get(id=2)


async def test_models_with_the_same_columns_share_entries_unless_one_hides_rows(
    cache: ModelCache, backend: CountingBackend, rows: None
) -> None:
    await PlainPlace.filter(id=1).update(city=0)
    assert await VisiblePlace.cache.get_or_none(id=1) is None
    assert (await Place.cache.get(id=1)).city == 0
    assert await VisiblePlace.cache.get_or_none(id=1) is None
    assert [place.id for place in await Place.cache.filter(city=0)] == [1]
    assert await VisiblePlace.cache.filter(city=0) == []


async def test_a_list_that_another_model_was_predicted_is_not_taken_for_the_own_one(cache: ModelCache) -> None:
    for number in (1, 2, 3):
        await Place.create(id=number, number=number, city=1)
    for _ in range(2):  # a miss, and a hit that is remembered
        assert [place.id for place in await Place.cache.filter(city=1)] == [1, 2, 3]
    await PlaceCard.cache.get_many([1, 2, 3])
    assert [place.id for place in await PlaceCard.cache.filter(city=1)] == [3, 2, 1]


async def test_manual_invalidation_is_of_the_table(cache: ModelCache, rows: None, database: BaseDBAsyncClient) -> None:
    """Entries under old values of a row are detected by readers, except for computed results."""
    for city, invalidate in (
        (3, lambda: PlaceCard.cache.invalidate(1)),
        (0, lambda: Place.cache.invalidate(number=1)),
        (2, lambda: Place.filter(id=1).invalidate_cache()),
    ):
        [before] = [place.city for place in await PlainPlace.filter(id=1)]
        await database.execute_query(f"UPDATE place SET city = {city} WHERE id = 1")
        assert await invalidate() == 1
        await PlacesOfCity(before).invalidate()
        await assert_current(cache)


@pytest.mark.only_on("sqlite", because="connections are compared by their addresses, which every database has")
@pytest.mark.only_on("no store", because="a store of its own shows the keys of both connections")
class TestConnections:
    @pytest.fixture(autouse=True)
    def in_another_app(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets Tortoise load the models into the apps of these tests. A model stays in the app that it was in first."""
        for model in (Label, Place, Visit, Review, *ALIKE, *OTHERS, PlainVisit, VisitText):
            monkeypatch.setattr(model._meta, "app", None)

    async def test_connections_of_two_names_to_one_database_share_its_tables(self, db_url: DatabaseUrl) -> None:
        await create_tables(db_url, TABLES)
        async with TortoiseContext() as context:
            await context.init(
                config={
                    "connections": {"one": str(db_url), "two": str(db_url), "three": "sqlite://:memory:"},
                    "apps": {
                        "app": {"models": [TABLES], "default_connection": "one"},
                        "other": {"models": [SHARING], "default_connection": "two"},
                    },
                }
            )
            tables = models_by_table([Place, PlainPlace, Label])
            assert tables == {Place: [Place, PlainPlace], PlainPlace: [Place, PlainPlace], Label: [Label]}
            async with ModelCache(MemoryBackend()):
                await Place.create(id=1, number=1)
                assert (await Place.cache.get(id=1)).city == 1
                assert await Place.cache.filter(city=2) == []
                await PlainPlace.filter(id=1).update(city=2)
                assert (await Place.cache.get(id=1)).city == 2
                assert [place.id for place in await Place.cache.filter(city=2)] == [1]

    async def test_databases_apart_have_tables_of_their_own(self) -> None:
        async with TortoiseContext() as context:
            await context.init(
                config={
                    "connections": {"one": "sqlite://:memory:", "two": "sqlite://:memory:"},
                    "apps": {
                        "app": {"models": [TABLES], "default_connection": "one"},
                        "other": {"models": [SHARING], "default_connection": "two"},
                    },
                }
            )
            assert models_by_table([Place, PlainPlace])[Place] == [Place]
