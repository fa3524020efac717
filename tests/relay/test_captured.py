"""The captured tables and columns, and their fingerprint."""

from dataclasses import replace

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext

from aiomodelcache import CacheConfigurationError, ModelCache
from aiomodelcache.relay.captured import captured_tables, coverage_of, further_tables
from tests.support.models.relay_models import Branch, Label, Reading, Seat, Spelling, Typed, Unrelayed, Venue
from tests.support.models.shared_models import Place
from tests.support.models.sharing_models import PlaceCard

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("sqlite", because="declarations are the same on every database"),
    pytest.mark.only_on("memory", because="no store is asked"),
]


async def test_tables_of_relayed_models_and_their_through_tables_are_captured(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    [(connection, tables)] = captured_tables(cache.open_cache).items()
    assert connection == database.connection_name
    found = {table.name: (table.pk, table.columns, table.models) for table in tables}
    assert found.pop("typed")[2] == (Typed,)
    assert found == {
        "branch": ("id", ("id",), (Branch,)),
        "reading": ("id", ("id", "region"), (Reading,)),
        "seat": ("id", ("code", "id", "patron_id", "venue_id"), (Seat,)),
        "seat_label": ("", ("label_id", "seat_id"), ()),
        "spelling": ("word", ("word",), (Spelling,)),
        "venue": ("id", ("id",), (Venue,)),
    }
    typed = next(table for table in tables if table.table == "typed")
    assert "character_column" in typed.columns
    assert "char" not in typed.columns


async def test_the_fingerprint_is_of_all_that_is_captured(cache: ModelCache) -> None:
    [tables] = captured_tables(cache.open_cache).values()
    whole = coverage_of(tables)
    assert whole.split() == sorted(table.fingerprint for table in tables)
    assert {len(table.fingerprint) for table in tables} == {16}
    assert coverage_of(tables[::-1]) == whole
    assert coverage_of([replace(table, connection="other", models=()) for table in tables]) == whole
    others = [
        tables[1:],
        [*tables[1:], replace(tables[0], columns=(*tables[0].columns, "more"))],
        [*tables[1:], replace(tables[0], schema="other")],
        [*tables[1:], replace(tables[0], table="other")],
    ]
    assert len({whole, *map(coverage_of, others)}) == 5


@pytest.mark.models("tests.support.models.relay_base_models")
async def test_all_models_of_a_base_are_captured(cache: ModelCache) -> None:
    [tables] = captured_tables(cache.open_cache).values()
    assert {table.name: table.columns for table in tables} == {"crate": ("id",), "box": ("code", "id")}


@pytest.mark.models("tests.support.models.models")
async def test_without_relayed_models_nothing_is_captured_unless_all_are(cache: ModelCache) -> None:
    assert captured_tables(cache.open_cache) == {}
    [tables] = captured_tables(cache.open_cache, every=True).values()
    assert {model for table in tables for model in table.models} == set(cache.open_cache.models)


async def test_all_cached_models_are_captured_along_with_those_that_are_relayed(cache: ModelCache) -> None:
    [relayed] = captured_tables(cache.open_cache).values()
    [tables] = captured_tables(cache.open_cache, every=True).values()
    further = further_tables(cache.open_cache, relayed)
    assert {table.name: (table.columns, table.models) for table in further} == {
        "label": (("id",), (Label,)),
        "unrelayed": (("id",), (Unrelayed,)),
    }
    assert sorted(tables, key=str) == sorted([*relayed, *further], key=str)


async def test_two_connections_to_one_database_are_refused(database: BaseDBAsyncClient) -> None:
    url = f"sqlite://{database.filename}"  # type: ignore[attr-defined]
    apps = {
        "app": {"models": ["tests.support.models.relay_models"], "default_connection": "one"},
        "apart": {"models": ["tests.support.models.relay_apart_models"], "default_connection": "two"},
    }
    async with TortoiseContext() as context:
        await context.init(config={"connections": {"one": url, "two": url}, "apps": apps})
        with pytest.raises(CacheConfigurationError, match="use two connections to one database"):
            await ModelCache("memory://", inspect_columns=False).open()


@pytest.mark.models("tests.support.models.shared_models", "tests.support.models.sharing_models")
@pytest.mark.tables("tests.support.models.shared_models")
async def test_a_table_of_several_models_has_the_columns_of_all_their_keys(cache: ModelCache) -> None:
    """Also if the relayed model has fewer keys than others. The through table of its relation comes along."""
    cache.open_cache.models[PlaceCard].rows.relayed = True
    [[place]] = captured_tables(cache.open_cache).values()
    assert (place.models, place.columns) == ((PlaceCard,), ("city", "id", "number"))
    cache.open_cache.models[Place].rows.relayed = True
    [tables] = captured_tables(cache.open_cache).values()
    found = {table.table: (set(table.models), table.columns) for table in tables}
    assert found == {
        "place": ({Place, PlaceCard}, ("city", "id", "number")),
        "place_label": (set(), ("label_id", "place_id")),
    }
