"""Columns whose real types and collations compare otherwise than the models declare. A cache reads them as it opens."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext, get_current_context
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.orm.catalogue import inspect_columns
from aiomodelcache.testing import assert_ops
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.real_types import Typed, TypedById, TypedChild, TypedCount
from tests.support.servers import mysql
from tests.support.servers.server import free_port

MODULE = "tests.support.models.real_types"
pytestmark = pytest.mark.models(MODULE)

SPELLINGS = ["pycon", "PYCON", "pycon  ", "PYCON  ", "1", "1.0"]
exhaustive = pytest.mark.exhaustive(because="makes every lookup by every spelling after each of many writes")
slow = pytest.mark.slow(because="compares every lookup with the database after each of many writes")
WITHOUT_STORE = "the store does not affect the types of columns"

TEXTS = {
    "sqlite": ["VARCHAR(40) COLLATE NOCASE", "VARCHAR(40) COLLATE RTRIM", "VARCHAR(40) collate nocase", "NUMERIC"],
    "postgres": ["citext", "CHAR(40)", 'VARCHAR(40) COLLATE "loose"', "loose_text", "padded_text"],
    "mysql": [
        "VARCHAR(40) COLLATE utf8mb4_bin",
        "CHAR(40) COLLATE utf8mb4_bin",
        f"VARCHAR(40) COLLATE {'utf8mb4_0900_bin' if mysql.IS_USED else 'utf8mb4_nopad_bin'}",
    ],
}
"""Types that hold some spellings of a text to be equal, or store another spelling than was written, by dialect."""

NUMBERS = {
    "sqlite": {"price": "NUMERIC", "ratio": "TEXT"},
    "postgres": {"price": "NUMERIC(6,1)", "ratio": "REAL", "at": "TIMESTAMPTZ(0)"},
    "mysql": {"price": "DECIMAL(6,1)", "ratio": "FLOAT", "at": "DATETIME"},
}
"""Types of another precision than declared, by dialect."""

SETUP = """
    CREATE EXTENSION citext;
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE DOMAIN loose_text AS citext;
    CREATE DOMAIN padded AS CHAR(40);
    CREATE DOMAIN padded_text AS padded CHECK (VALUE <> 'refused');
"""


def declared_loose(dialect: str) -> set[str]:
    """Returns the columns of ``Typed`` that compare loosely by its declaration."""
    return {"slug", "text"} if dialect in ("mysql", "mariadb") else set()


async def retype(database: BaseDBAsyncClient, table: str, **columns: str) -> None:
    """Gives columns of an empty table other types."""
    dialect = database.capabilities.dialect
    if dialect == "postgres":
        await database.execute_script(SETUP)
    for column, sql_type in columns.items():
        if dialect == "postgres":
            await database.execute_script(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE {sql_type}')
        elif dialect == "mysql":
            await database.execute_script(f"ALTER TABLE `{table}` MODIFY `{column}` {sql_type}")
        else:
            [row] = await database.execute_query_dict(f"SELECT sql FROM sqlite_master WHERE name = '{table}'")
            before, _, after = row["sql"].partition(f'"{column}" ')
            _, _, after = after.partition("NOT NULL")
            await database.execute_script(f'DROP TABLE "{table}"; {before} "{column}" {sql_type} NOT NULL {after}')


@pytest.fixture(params=range(5))
async def text_type(request: pytest.FixtureRequest, database: BaseDBAsyncClient) -> str:
    """One of the types of ``TEXTS`` for the test's database, of which some come twice."""
    types = TEXTS[database.capabilities.dialect]
    return types[request.param % len(types)]


async def check_lists(field: str, values: Iterable[Any]) -> None:
    """Compares lists by a field with the database, three times each."""
    for value in values:
        expected = await Typed.filter(**{field: value})
        for _ in range(3):
            assert await Typed.cache.filter(**{field: value}) == expected, value
            assert await Typed.cache.count(**{field: value}) == len(expected), value


async def check_texts() -> None:
    """Compares every kind of lookup by text with the database, three times each."""
    await check_lists("text", SPELLINGS)
    singly = {value: await Typed.get_or_none(slug=value) for value in SPELLINGS}
    for value in SPELLINGS:
        for _ in range(3):
            assert await TypedCount(value) == await Typed.filter(text=value).count(), value
            assert await Typed.cache.get_or_none(slug=value) == singly[value], value
    found = {value: row for value, row in singly.items() if row is not None}
    assert await Typed.cache.in_bulk(SPELLINGS, key="slug") == found


async def write_texts() -> None:
    """Makes writes of each kind, and compares every lookup with the database after each."""
    await check_texts()
    row = await Typed.create(slug="pycon", text="pycon")
    await check_texts()
    other = await Typed.create(slug="1.0", text="PYCON")
    await check_texts()
    row.slug = row.text = "PYCON  "
    await row.save()
    await check_texts()
    await Typed.filter(text="PYCON").update(text="pycon")
    await check_texts()
    await other.delete()
    await check_texts()
    await Typed.filter(text="pycon").delete()
    await check_texts()
    await Typed.bulk_create([Typed(slug="PYCON", text="pycon  "), Typed(slug="x", text="1.0")])
    await check_texts()


@exhaustive
async def test_every_lookup_by_text_gets_the_answer_of_the_database(
    database: BaseDBAsyncClient, backend_url: str, text_type: str
) -> None:
    await retype(database, "typed", slug=text_type, text=text_type)
    async with ModelCache(backend_url):
        await write_texts()


@pytest.mark.only_on("sqlite", "postgres", because="every text of MySQL is taken to compare loosely")
async def test_without_the_real_types_some_answers_are_wrong(
    database: BaseDBAsyncClient, backend_url: str, text_type: str
) -> None:
    """Shows that the test above finds something."""
    await retype(database, "typed", slug=text_type, text=text_type)
    async with ModelCache(backend_url, inspect_columns=False):
        with pytest.raises(AssertionError):
            await write_texts()


async def check_rows() -> None:
    """Compares lookups by primary key with the database, three times each."""
    stored = await TypedById.all()
    for value in dict.fromkeys([*SPELLINGS, *[row.key for row in stored]]):
        expected = [vars(row) for row in await TypedById.filter(key=value)]
        for _ in range(3):
            found = await TypedById.cache.get_or_none(key=value)
            assert ([] if found is None else [vars(found)]) == expected, value


@exhaustive
async def test_every_write_of_a_row_by_another_spelling_of_its_key_is_seen(
    database: BaseDBAsyncClient, backend_url: str, text_type: str
) -> None:
    await retype(database, "typedbyid", key=text_type)
    async with ModelCache(backend_url):
        row = await TypedById.create(key="pycon", size=1)
        await check_rows()
        row.size = 2
        await row.save()
        await check_rows()
        await TypedById.cache.update(row, size=3)
        await check_rows()
        for spelling in SPELLINGS:
            if not await TypedById.exists(key=spelling):
                continue
            other = TypedById(key=spelling, size=4)
            await other.save(force_update=True)
            await check_rows()
            other.size = 5
            await TypedById.bulk_update([other], ["size"])
            await check_rows()
            async with in_transaction():
                other.size = 6
                await other.save()
            await check_rows()
            await other.delete()
            await check_rows()
            await TypedById.create(key="pycon", size=7)
            await check_rows()


@slow
async def test_numbers_and_times_of_another_precision_get_the_answer_of_the_database(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    await retype(database, "typed", **NUMBERS[database.capabilities.dialect])
    at = datetime(2026, 11, 29, 12, 0, 0, 600_000, tzinfo=UTC)
    values: dict[str, Collection[Any]] = {
        "price": [Decimal("1.24"), Decimal("1.2"), Decimal("1.20"), Decimal("1.3")],
        "ratio": [0.1, 0.10000000149011612, 1e22, 1.0],
        "at": [at, at + timedelta(milliseconds=400), at.replace(microsecond=0)],
    }

    async def check() -> None:
        for field, each in values.items():
            await check_lists(field, each)

    async with ModelCache(backend_url):
        await check()
        row = await Typed.create(slug="a", text="a", price=Decimal("1.24"), ratio=0.1, at=at)
        await check()
        await Typed.create(slug="b", text="b", price=Decimal("1.28"), ratio=1e22, at=at)
        await check()
        row.price, row.ratio, row.at = Decimal("1.26"), 1.0, at.replace(microsecond=0)
        await row.save()
        await check()
        await Typed.filter(slug="b").update(price=Decimal("1.24"), ratio=0.1, at=at)
        await check()


# Opening -------------------------------------------------------------------------------------------------


async def is_cached(text: str = "pycon") -> bool:
    """Returns True if a list by text is answered without SQL the second time."""
    await Typed.cache.filter(text=text)
    try:
        async with assert_ops(sql=0):
            await Typed.cache.filter(text=text)
    except AssertionError:
        return False
    return True


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_opening_costs_one_statement_for_each_connection_or_model(database: BaseDBAsyncClient) -> None:
    models = 3  # of this module, all of them cached
    async with assert_ops(sql=models if database.capabilities.dialect == "sqlite" else 1), ModelCache("memory://"):
        pass
    async with assert_ops(sql=0), ModelCache("memory://", inspect_columns=False):
        pass


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@pytest.mark.models("tests.support.models.field_models", "tests.support.models.models")
async def test_the_columns_that_tortoise_creates_compare_as_declared(
    database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Every type of field is among these models."""
    async with ModelCache("memory://", inspect_columns=False) as cache:
        schemas = [entries.schema for entries in cache.open_cache.models.values()]
        declared = {schema.name: frozenset(schema.loose_columns) for schema in schemas}
        await inspect_columns(schemas)
        assert {schema.name: schema.loose_columns for schema in schemas} == declared
    assert caplog.messages == []


@pytest.mark.only_on("postgres", because="it alone has a declared type that pads, and calls the text exact")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_a_column_that_is_declared_to_pad_compares_loosely(database: BaseDBAsyncClient) -> None:
    async with ModelCache("memory://") as cache:
        assert cache.open_cache.models[TypedChild].schema.loose_columns == {"code"}


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@pytest.mark.parametrize("tenant", [None, lambda: "acme"], ids=["alone", "tenant"])
async def test_integers_beyond_the_declared_range_are_found_where_the_column_is_wider(
    database: BaseDBAsyncClient, tenant: Callable[[], str] | None
) -> None:
    if database.capabilities.dialect != "sqlite":  # whose integers are all alike
        await retype(database, "typed", id="BIGINT")
    await Typed.create(id=2**40, slug="far", text="far")
    async with ModelCache("memory://", tenant=tenant) as cache:
        for _ in range(2):
            assert (await Typed.cache.get(id=2**40)).slug == "far"
            assert await Typed.cache.get_or_none(id=2**63 - 1) is None
            assert await Typed.cache.get_or_none(id=2**70) is None
        assert "id" not in cache.open_cache.models[Typed].schema.loose_columns


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@slow
async def test_a_batch_of_spellings_is_answered_by_the_database_while_the_cache_is_disabled(
    database: BaseDBAsyncClient,
) -> None:
    types = TEXTS[database.capabilities.dialect]
    await retype(database, "typed", slug=types[0], text=types[0])
    async with ModelCache("memory://", enabled=False):
        await write_texts()


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@slow
async def test_a_table_that_does_not_exist_yet_is_taken_as_declared(
    database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await database.execute_script("DROP TABLE typed")
    async with ModelCache("memory://") as cache:
        assert cache.open_cache.models[Typed].schema.loose_columns == declared_loose(database.capabilities.dialect)
        assert not caplog.messages
        context = get_current_context()
        assert context is not None
        await context.generate_schemas()
        await write_texts()


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_a_cache_may_open_inside_a_transaction_and_sees_its_tables(database: BaseDBAsyncClient) -> None:
    types = TEXTS[database.capabilities.dialect]
    async with in_transaction() as connection:
        await retype(connection, "typed", text=types[0])
        async with asyncio.timeout(30), ModelCache("memory://"):
            assert not await is_cached()


@pytest.mark.only_on("postgres", because="the other databases let every user read the types of what it may read")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_text_is_taken_to_compare_loosely_where_the_catalogue_may_not_be_read(
    database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await retype(database, "typed", slug="citext", text="citext")
    async with in_transaction() as connection:
        await connection.execute_script(
            "CREATE ROLE limited; GRANT ALL ON ALL TABLES IN SCHEMA public TO limited;"
            "REVOKE SELECT ON pg_catalog.pg_attribute FROM PUBLIC; SET LOCAL ROLE limited"
        )
        async with ModelCache("memory://") as cache:
            schema = cache.open_cache.models[Typed].schema
            assert schema.loose_columns == {"slug", "text", "price", "ratio", "at"}
            assert await connection.execute_query_dict("SELECT 1 AS one") == [{"one": 1}]  # not aborted
        await connection.rollback()
    [message] = caplog.messages
    assert "cannot be read on the connection 'postgres' (OperationalError)" in message


@pytest.mark.only_on("sqlite", because="its collations are functions of the program")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@pytest.mark.parametrize("known", [True, False])
@slow
async def test_a_collation_of_the_program_may_do_anything(
    database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture, *, known: bool
) -> None:
    connection: Any = database
    create = connection._connection._conn.create_collation

    def compare(one: str, other: str) -> int:
        one, other = one.replace("1", ""), other.replace("1", "")
        return (one > other) - (one < other)

    await connection._connection._execute(create, "without_ones", compare)
    await retype(database, "typed", text="VARCHAR(40) COLLATE without_ones")
    if not known:  # as in a process that lacks the function
        await connection._connection._execute(create, "without_ones", None)
    async with ModelCache("memory://") as cache:
        assert "text" in cache.open_cache.models[Typed].schema.loose_columns
        if known:
            await write_texts()
    assert len(caplog.messages) == (not known)


@pytest.mark.only_on("postgres", "sqlite", because="every text of MySQL is taken to compare loosely")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_a_view_has_the_types_of_its_table(database: BaseDBAsyncClient) -> None:
    await retype(database, "typed", text=TEXTS[database.capabilities.dialect][0])
    await database.execute_script("ALTER TABLE typed RENAME TO below; CREATE VIEW typed AS SELECT * FROM below")
    async with ModelCache("memory://") as cache:
        assert cache.open_cache.models[Typed].schema.loose_columns == {"text"} | declared_loose(
            database.capabilities.dialect
        )
        assert not await is_cached()


@pytest.mark.only_on("postgres", because="it alone has partitions and a search path in one database")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_a_partitioned_table_in_the_search_path_is_found(database: BaseDBAsyncClient) -> None:
    await retype(database, "typed")
    async with in_transaction() as connection:
        await connection.execute_script(
            "CREATE SCHEMA nearer; CREATE TABLE nearer.typed (LIKE typed INCLUDING DEFAULTS) PARTITION BY LIST (id);"
            "ALTER TABLE nearer.typed ALTER COLUMN text TYPE citext; SET LOCAL search_path TO nearer, public"
        )
        async with ModelCache("memory://") as cache:
            assert cache.open_cache.models[Typed].schema.loose_columns == {"text"}


@pytest.mark.only_on("postgres", "sqlite", because="a schema of MySQL is a database")
@pytest.mark.only_on("no store", because=WITHOUT_STORE)
@pytest.mark.no_tables
async def test_a_table_is_found_in_its_schema(db_url: DatabaseUrl) -> None:
    async with tortoise_on(db_url, "tests.support.models.schema_models", create=False) as connection:
        columns = "(id INT PRIMARY KEY, number {} UNIQUE, street INT, house_id INT)"
        for schema, number in (("north", "INT"), ("south", "REAL")):
            await connection.execute_script(
                f"ATTACH ':memory:' AS {schema}" if db_url.dialect == "sqlite" else f"CREATE SCHEMA {schema}"
            )
            await connection.execute_script(f"CREATE TABLE {schema}.house {columns.format(number)}")
        async with ModelCache("memory://") as cache:
            loose = {entries.schema.table: entries.schema.loose_columns for entries in cache.open_cache.models.values()}
    assert loose == {"north.house": set(), "south.house": {"number"}, "south.room": set()}


@pytest.mark.only_on("no store", because=WITHOUT_STORE)
async def test_a_database_that_does_not_answer_leaves_other_connections_alone(
    db_url: DatabaseUrl, caplog: pytest.LogCaptureFixture
) -> None:
    gone = {"host": "127.0.0.1", "port": free_port(), "user": "missing", "password": "", "database": "none"}
    async with TortoiseContext() as context:
        await context.init(
            config={
                "connections": {
                    "here": str(db_url),
                    "gone": {"engine": "tortoise.backends.asyncpg", "credentials": gone},
                },
                "apps": {
                    "app": {"models": [MODULE], "default_connection": "here"},
                    "other": {"models": ["tests.support.models.namesake_models"], "default_connection": "gone"},
                },
            }
        )
        async with ModelCache("memory://") as cache:
            schemas = {entries.schema.name: entries.schema for entries in cache.open_cache.models.values()}
    assert schemas["Typed"].loose_columns == declared_loose(db_url.dialect)
    assert schemas["Club"].loose_columns == {"name"}
    [message] = caplog.messages
    assert "on the connection 'gone'" in message
