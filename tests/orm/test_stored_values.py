"""``StoredRows``: what a save knows of its row is what the database returns, or it is not known."""

from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException

from aiomodelcache import ModelCache
from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.orm.catalogue import RealType, stores_as_declared
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.stored_values import StoredRows
from tests.support.models.through_models import VALUES, Account, Typed

pytestmark = pytest.mark.models("tests.support.models.through_models")

SENT = [(name, value) for name, values in VALUES.items() for value in [None, *values]]
UNKNOWN_EVERYWHERE = {"document": 3}


def written(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in meta_of(type(row)).fields_db_projection}


async def test_a_row_is_known_as_the_database_returns_it_or_not_at_all(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    rows = StoredRows(cache.open_cache.models[Typed].schema)
    codec, known = cache.open_cache.models[Typed].schema.codec, dict.fromkeys(VALUES, 0)
    for number, (name, value) in enumerate(SENT):
        row = Typed(id=number)
        with suppress(ValueError, TypeError, AttributeError):  # what a constructor refuses is set without it
            row = Typed(id=number, **{name: value})
        row.__dict__[name] = value
        try:
            await row.save()
        except (BaseORMException, ValueError, TypeError, OverflowError, AttributeError):
            continue
        payload = rows.payload(written(row))
        if payload is None:
            continue
        stored = await Typed.get(id=number)
        try:
            assert payload == codec.encode(vars(stored)), f"{name}: {value!r} was stored as {getattr(stored, name)!r}"
        except EncodeError:
            pytest.fail(f"{name}: {value!r} is known, and what the database returns cannot be encoded")
        known[name] += value is not None
    dialect = database.capabilities.dialect
    expected = {name for name in VALUES if name != "document" and not (dialect == "mysql" and name == "number")}
    assert {name for name, number in known.items() if number} == expected


async def test_ordinary_values_are_known(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    """Else the test above would pass with nothing known."""
    rows = StoredRows(cache.open_cache.models[Typed].schema)
    mysql = database.capabilities.dialect == "mysql"
    usual = {name: VALUES[name][0] for name in VALUES if name != "document" and not (mysql and name == "number")}
    usual |= {"big": 2**40, "char": "Ada", "text": "a text", "price": VALUES["price"][2]}
    row = await Typed.create(id=1, **usual)
    assert rows.payload(written(row)) is not None


async def test_an_expression_is_not_known(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    from tortoise.expressions import F

    rows = StoredRows(cache.open_cache.models[Account].schema)
    row = await Account.create(id=1, email="a@example.org")
    values = written(row)
    assert rows.payload(values) is not None
    assert rows.payload({**values, "balance": F("balance") + 1}) is None


async def test_a_value_that_was_not_sent_is_not_known(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    rows = StoredRows(cache.open_cache.models[Account].schema)
    values = written(await Account.create(id=1, email="a@example.org"))
    del values["email"]
    assert rows.payload(values) is None


async def test_a_missing_value_of_a_column_without_null_is_not_known(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    rows = StoredRows(cache.open_cache.models[Account].schema)
    values = written(await Account.create(id=1, email="a@example.org"))
    assert rows.payload({**values, "balance": None}) is None


@pytest.mark.parametrize(
    ("dialect", "column", "real", "same"),
    [
        ("postgres", "integer", "integer", True),
        ("postgres", "integer", "smallint", False),
        ("postgres", "char", "character varying(40)", True),
        ("postgres", "char", "character(40)", False),
        ("postgres", "char", "character varying(20)", False),
        ("postgres", "price", "numeric(12,3)", True),
        ("postgres", "price", "numeric(12,1)", False),
        ("postgres", "moment", "timestamp with time zone", True),
        ("postgres", "moment", "timestamp(0) with time zone", False),
        ("postgres", "flag", "boolean", True),
        ("mysql", "integer", "int(11)", True),
        ("mysql", "integer", "int(11) unsigned", False),
        ("mysql", "integer", "smallint(6)", False),
        ("mysql", "flag", "tinyint(1)", True),
        ("mysql", "moment", "datetime(6)", True),
        ("mysql", "moment", "datetime", False),
        ("mysql", "text", "longtext", True),
        ("mysql", "text", "tinytext", False),
        ("sqlite", "char", "TEXT", True),
        ("sqlite", "char", "INTEGER", False),
        ("sqlite", "number", "INTEGER", False),
    ],
)
def test_a_column_of_another_type_is_not_as_declared(dialect: str, column: str, real: str, same: bool) -> None:
    assert stores_as_declared(meta_of(Typed).fields_map[column], dialect, RealType(real)) is same


@pytest.mark.no_tables
async def test_a_column_of_another_type_makes_rows_unknown(database: BaseDBAsyncClient, backend_url: str) -> None:
    kind = "CHAR(64)" if database.capabilities.dialect != "sqlite" else "INTEGER"
    moment = {"sqlite": "TIMESTAMP", "postgres": "TIMESTAMPTZ", "mysql": "DATETIME(6)"}[database.capabilities.dialect]
    await database.execute_script(
        f"CREATE TABLE account (id INT PRIMARY KEY, email {kind} UNIQUE, balance INT, visits INT, saved_at {moment})"
    )
    async with ModelCache(backend_url) as opened:
        schema: ModelSchema = opened.open_cache.models[Account].schema
        assert "email" not in schema.as_declared
        row = await Account.create(id=1, email="a@example.org")
        assert StoredRows(schema).payload(written(row)) is None
        assert opened.stats.by_cache["Account"].unknown_rows == 1
