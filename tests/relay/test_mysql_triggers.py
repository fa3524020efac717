"""Triggers on settings and names that only MariaDB and MySQL have."""

from collections.abc import AsyncIterator

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache import ModelCache
from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.source import TriggerSource
from aiomodelcache.relay.triggers.definitions import backquoted
from aiomodelcache.relay.triggers.installation import install, remove
from tests.relay.outside import Run, other_program
from tests.relay.test_triggers import drained, run_all, tables_of
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import mysql

MODULE = "tests.support.models.relay_models"
pytestmark = [
    pytest.mark.models(MODULE),
    pytest.mark.only_on("mariadb", because="the settings and the names are those of MariaDB and MySQL"),
    pytest.mark.only_on("memory", because="triggers know no store"),
]

ODD_NAMES = ["naïve", "a b", "a.b/c", "it's", "a$b", "百%_", "A`b", "_", "p#q"]


@pytest.fixture
def tables(cache: ModelCache) -> list[CapturedTable]:
    """The captured tables."""
    return tables_of(cache)


@pytest.fixture
async def run(db_url: DatabaseUrl) -> AsyncIterator[Run]:
    """The administrator's connection."""
    async with other_program(db_url) as administrator:
        yield administrator


async def test_truncate_of_a_table_of_an_odd_name_is_noticed(database: BaseDBAsyncClient, run: Run) -> None:
    """InnoDB spells such names in another way, and MySQL has no function for it."""
    tables = [CapturedTable("mariadb", None, name, "id", ("id",), ()) for name in ODD_NAMES]
    await run_all(run, [f"CREATE TABLE {backquoted(name)} (id INT PRIMARY KEY)" for name in ODD_NAMES])
    await install(database, tables)
    for table in tables:
        source = TriggerSource(database, [table])
        await run(f"INSERT INTO {backquoted(table.table)} VALUES (1)")
        assert [change.rows for change in await drained(source)] == [[(None, {"id": 1})]]
        before = await source.check()
        assert await source.check() == before
        await run(f"TRUNCATE {backquoted(table.table)}")
        assert await source.check() != before, table.table
        await source.close()


PARTS = ", ".join(f"PARTITION p{number} VALUES IN ({number})" for number in range(4))
PARTITIONED = [
    "DROP TABLE reading",
    "CREATE TABLE other (id INT, region INT, PRIMARY KEY (id, region))",
    f"CREATE TABLE reading (id INT, region INT, PRIMARY KEY (id, region)) PARTITION BY LIST (region) ({PARTS})",
]


@pytest.mark.parametrize(
    ("setup", "statements"),
    [
        ([], ["DISCARD TABLESPACE"]),  # and IMPORT, of a file with other rows
        (PARTITIONED, ["TRUNCATE PARTITION p0", "EXCHANGE PARTITION p1 WITH TABLE other", "DROP PARTITION p2"]),
    ],
    ids=["file", "partitions"],
)
async def test_changes_of_a_whole_file_are_noticed(
    database: BaseDBAsyncClient, tables: list[CapturedTable], run: Run, setup: list[str], statements: list[str]
) -> None:
    await run_all(run, setup)
    await install(database, tables)
    source = TriggerSource(database, tables)
    before = await source.check()
    for statement in statements:
        await run(f"ALTER TABLE reading {statement}")
        after = await source.check()
        assert after != before, statement
        before = after
    await source.close()


async def test_another_expression_of_a_virtual_column_is_noticed(
    database: BaseDBAsyncClient, tables: list[CapturedTable], run: Run
) -> None:
    """It changes the values of all rows, and the table keeps its number."""
    expression = "ALTER TABLE reading MODIFY COLUMN region INT GENERATED ALWAYS AS (id * {}) VIRTUAL"
    await run("ALTER TABLE reading DROP COLUMN region, ADD COLUMN region INT GENERATED ALWAYS AS (id) VIRTUAL")
    await install(database, tables)
    source = TriggerSource(database, tables)
    before = await source.check()
    assert await source.check() == before
    await run(expression.format(3))
    assert await source.check() != before
    await source.close()


async def test_servers_that_require_primary_keys_have_them(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], run: Run
) -> None:
    setting = "sql_require_primary_key" if mysql.IS_USED else "innodb_force_primary_key"
    await run(f"SET GLOBAL {setting} = 1")
    try:
        async with tortoise_on(db_url, MODULE, create=False) as client:  # whose sessions have the setting
            with pytest.raises(OperationalError):
                await client.execute_query("CREATE TABLE without (id INT)")
            await install(client, tables)
            await remove(client)
    finally:
        await run(f"SET GLOBAL {setting} = 0")


async def test_writes_fail_without_the_user_who_has_installed_the_triggers(
    db_url: DatabaseUrl, tables: list[CapturedTable], run: Run
) -> None:
    """The guide warns of it."""
    user = f"owns_{db_url.rpartition('/')[2]}"
    await run_all(run, [f"CREATE USER {user}", f"GRANT ALL ON *.* TO {user}"])
    async with tortoise_on(DatabaseUrl(db_url.replace("root@", f"{user}@"), "mariadb"), MODULE, create=False) as client:
        await install(client, tables)
    await run_all(run, ["INSERT INTO reading (id, region) VALUES (1, 1)", f"DROP USER {user}"])
    with pytest.raises(Exception, match="1449"):
        await run("INSERT INTO reading (id, region) VALUES (2, 1)")


@mysql.needed
async def test_with_a_binary_log_the_server_must_trust_who_installs(
    db_url: DatabaseUrl, tables: list[CapturedTable], run: Run
) -> None:
    name = db_url.rpartition("/")[2]
    own_url = DatabaseUrl(db_url.replace("root@", f"owns_{name}@"), "mariadb")
    await run_all(run, [f"CREATE USER owns_{name}", f"GRANT ALL ON {name}.* TO owns_{name}"])
    try:
        async with tortoise_on(own_url, MODULE, create=False) as client:
            with pytest.raises(RelayError, match=r"1419.*: run SET GLOBAL log_bin_trust_function_creators = 1"):
                await install(client, tables)
            await run("SET GLOBAL log_bin_trust_function_creators = 1")
            assert await install(client, tables)
            source = TriggerSource(client, tables)
            await run("INSERT INTO reading (id, region) VALUES (1, 1)")
            assert len(await drained(source)) == 1
    finally:
        await run_all(run, ["SET GLOBAL log_bin_trust_function_creators = 0", f"DROP USER owns_{name}"])
