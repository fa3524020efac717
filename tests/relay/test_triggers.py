"""Triggers: the writes that they see, and their installation."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.exceptions import RelayError
from aiomodelcache.orm.transactions import transaction
from aiomodelcache.relay.captured import CapturedTable, captured_tables, coverage_of
from aiomodelcache.relay.source import Change, Source, TriggerSource
from aiomodelcache.relay.triggers.installation import (
    check_installation,
    install,
    installation_state,
    installation_statements,
    remove,
    script_of,
)
from tests.relay import cells
from tests.relay.cells import ALL, CELLS, CHECK, PARTITION_TABLES, PARTITIONS, RESET, SCHEMA_CELLS, STOPS, Cell
from tests.relay.outside import Run, other_program
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers.programs import find_program

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("memory", because="triggers know no store"),
]

KEYS = {
    "seat": ("id", "code"),
    "venue": ("id",),
    "branch": ("id",),
    "reading": ("id", "region"),
    "seat_label": ("seat_id", "label_id"),
}
"""The attributes that stand for a row."""


def tables_of(cache: ModelCache) -> list[CapturedTable]:
    [tables] = captured_tables(cache.open_cache).values()
    return tables


@pytest.fixture
def tables(cache: ModelCache) -> list[CapturedTable]:
    """The captured tables."""
    return tables_of(cache)


def seen(changes: Iterable[Change]) -> set[tuple[Any, ...]]:
    """Returns the changes in the form of the cells."""
    found: set[tuple[Any, ...]] = set()
    for change in changes:
        name = change.table.table
        if change.rows is None:
            found.add((name, "*"))
        for old, new in change.rows or ():
            found.add((name, *[row and tuple([row[key] for key in KEYS[name]]) for row in (old, new)]))
    return found


async def drained(source: Source) -> list[Change]:
    """Returns all changes, and deletes them."""
    changes = await source.changes(100_000)
    await source.delete([change.id for change in changes])
    return changes


async def run_all(run: Run, statements: Sequence[str]) -> None:
    for statement in statements:
        await run(statement)


async def outcome(source: Source, run: Run, cell: Cell, dialect: str, folder: Path) -> str:
    """Returns an empty text if a cell's writes are seen as it says, or else how they are seen."""
    await drained(source)
    before = await source.check()
    how = cell.how[dialect]
    try:
        await run_all(run, [statement.replace("{folder}", str(folder)) for statement in cell.on(dialect)])
    except Exception as error:  # of any driver
        return f"the write fails: {error!r}"
    try:
        guard, stops = await source.check(), False
    except RelayError:
        guard, stops = before, True
    found = seen(await drained(source))
    problems = [
        (stops != (how == STOPS), f"the check raises: {stops}"),
        (found != cell.seen.get(dialect, set()), f"seen: {found}"),
        (how == CHECK and guard == before, "the check is the same"),
    ]
    return "; ".join(text for is_wrong, text in problems if is_wrong)


@pytest.mark.exhaustive(because="every kind of write")
@pytest.mark.every_pair(because="each database has triggers of its own")
async def test_every_cell_of_the_table_is_as_it_says(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], tmp_path: Path
) -> None:
    dialect, wrong = db_url.dialect, {}
    await install(database, tables)
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        for cell in [*CELLS, *SCHEMA_CELLS]:
            if dialect in cell.statements:
                await run_all(run, RESET)
                if cell is SCHEMA_CELLS[-1] and dialect != "postgres":
                    [trigger, *_] = [
                        each for each in (await installation_state(database, tables)).objects if each.kind == "trigger"
                    ]
                    await run(f"DROP TRIGGER {trigger.name}")
                    with pytest.raises(RelayError, match=f"{trigger.name} on .* is missing"):
                        await source.check()
                    continue
                if problem := await outcome(source, run, cell, dialect, tmp_path):
                    wrong[cell.what] = problem
                await run_all(run, cell.undo)
                if cell in SCHEMA_CELLS:
                    await install(database, tables)
    await source.close()
    assert wrong == {}


@pytest.mark.only_on("mariadb", because="only its triggers name the columns of other tables")
async def test_a_write_never_fails_because_a_column_or_table_is_gone(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    """Triggers of parents name the foreign keys and the captured columns of the rows below them."""
    await install(database, tables)
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        await run_all(run, RESET)
        await drained(source)
        await run("ALTER TABLE seat RENAME COLUMN venue_id TO place_id")
        await run("DELETE FROM venue WHERE id = 2")
        assert seen(await drained(source)) == {("venue", (2,), None), ("seat", "*"), ("seat_label", "*")}
        await run("DROP TABLE seat_label")
        await run("DELETE FROM estate WHERE id = 1")
        assert {("seat", "*"), ("seat_label", "*")} < seen(await drained(source))
        with pytest.raises(RelayError, match=r"no column venue_id|does not exist"):
            await source.check()
        with pytest.raises(Exception, match="nothing"):  # errors of the statement itself are the user's
            await run("UPDATE venue SET nothing = 1")
    await source.close()


@pytest.mark.only_on("postgres", because="the others have no partitions or no triggers of statements")
async def test_partitions_and_children(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], tmp_path: Path
) -> None:
    wrong = {}
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        await run_all(run, PARTITION_TABLES)
        for cell in PARTITIONS:
            await install(database, tables)
            if problem := await outcome(source, run, cell, "postgres", tmp_path):
                wrong[cell.what] = problem
            await run_all(run, cell.undo)
    await source.close()
    assert wrong == {}


@pytest.mark.only_on("sqlite", because="a page is compared with the cells")
def test_the_page_has_the_table_of_the_cells(db_url: DatabaseUrl) -> None:
    page = cells.PAGE.read_text("utf-8")
    assert page.partition(cells.BEGIN)[2].partition(cells.END)[0] == cells.table()
    tested = [cell for cell in [*CELLS, *PARTITIONS, *SCHEMA_CELLS] for dialect in ALL if dialect in cell.how]
    assert len(tested) > 40


CATALOGUES = {
    "postgres": [
        "SELECT oid, relname, relkind, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace",
        "SELECT oid, proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT oid, tgname, tgenabled FROM pg_trigger",
        "SELECT attrelid, attname, atttypid FROM pg_attribute WHERE attnum > 0",
        "SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_'",
        "SELECT oid, typname FROM pg_type",
    ],
    "mariadb": [
        "SELECT table_name, table_type, engine FROM information_schema.tables WHERE table_schema = DATABASE()",
        "SELECT trigger_name FROM information_schema.triggers",
        "SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()",
    ],
    # SQLite never drops the table that counts for AUTOINCREMENT.
    "sqlite": ["SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name <> 'sqlite_sequence'"],
}


async def catalogue(run: Run, dialect: str) -> list[list[str]]:
    return [sorted(str(tuple(row)) for row in await run(statement)) for statement in CATALOGUES[dialect]]


@pytest.mark.every_pair(because="each database has triggers of its own")
async def test_removing_leaves_nothing_and_installing_twice_changes_nothing(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    async with other_program(db_url) as run:
        bare = await catalogue(run, db_url.dialect)
        with pytest.raises(RelayError, match="no triggers are installed: run `aiomodelcache triggers install`"):
            await check_installation(database, tables)
        assert await install(database, tables)
        source = TriggerSource(database, tables)
        guard, installed = await source.check(), await catalogue(run, db_url.dialect)
        assert installed != bare
        assert await install(database, tables) == []
        assert (await source.check(), await catalogue(run, db_url.dialect)) == (guard, installed)
        state = await installation_state(database, tables)
        assert state.is_current
        assert state.captured == coverage_of(tables)
        await remove(database)
        assert await catalogue(run, db_url.dialect) == bare
        assert await remove(database) == []
        for _ in range(2):
            for statement in await installation_statements(database, tables):
                await run(statement)
        await check_installation(database, tables)
        await source.close()


@pytest.mark.every_pair(because="each driver runs scripts in its own way")
@pytest.mark.parametrize("atomic", [False, True], ids=["", "in a transaction"])
async def test_a_migration_runs_the_script(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], atomic: bool
) -> None:
    script = script_of(database, await installation_statements(database, tables), for_migration=True)
    client: Any
    async with transaction(database) if atomic else nullcontext(database) as client:
        await client.execute_script(f"-- connection default\n{script}")
    await check_installation(database, tables)
    async with other_program(db_url) as run:
        await run_all(run, [*RESET, "UPDATE seat SET code = 'x' WHERE id = 1"])
        source = TriggerSource(database, tables)
        assert ("seat", (1, "a"), (1, "x")) in seen(await drained(source))
        await source.close()
        if db_url.dialect == "mariadb":
            own = "FROM information_schema.triggers WHERE trigger_schema = DATABASE()"  # MySQL has others
            modes = await run(f"SELECT DISTINCT sql_mode {own}")
            assert [*map(tuple, modes)] == [("NO_ENGINE_SUBSTITUTION",)], "no conversion fails"


@pytest.mark.only_on("mariadb", because="only its program ends a statement inside of a trigger")
async def test_a_script_is_what_the_program_of_the_database_reads(
    database: BaseDBAsyncClient, tables: list[CapturedTable]
) -> None:
    client: Any = database
    script = script_of(database, await installation_statements(database, tables))
    place = [f"--host={client.host}", f"--port={client.port}", f"--user={client.user}", client.database]
    program = find_program(["mariadb", "mysql"])
    await anyio.run_process([str(program), "--no-defaults", "--protocol=tcp", *place], input=script.encode())
    await check_installation(database, tables)


async def test_triggers_of_other_declarations_are_out_of_date(
    database: BaseDBAsyncClient, tables: list[CapturedTable]
) -> None:
    fewer = [table for table in tables if table.table != "reading"]
    await install(database, fewer)
    source = TriggerSource(database, tables)
    with pytest.raises(RelayError, match=r"is missing, and \d more: run `aiomodelcache triggers install`"):
        await source.check()
    made = await install(database, tables)
    assert {each.source for each in made if each.kind == "trigger"} == {"reading"}
    await source.check()
    client: Any = database
    await client.execute_query("UPDATE aiomodelcache_coverage SET captured = 'other'")
    with pytest.raises(RelayError, match="installed for other declarations"):
        await source.check()
    await install(database, fewer)
    with pytest.raises(RelayError, match="missing"):
        await source.check()
    await source.close()


@pytest.mark.every_pair(because="each database has triggers of its own")
async def test_triggers_of_further_tables_do_no_harm(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    """Objects that both share are other ones then: triggers of common parents on MariaDB, the lines of SQLite."""
    own = [table for table in tables if table.table in ("seat", "spelling")]
    further = [table for table in tables if table not in own]
    await install(database, tables)
    source = TriggerSource(database, own, further)
    await source.check()
    assert {table.name for table in source.tables} == {table.name for table in tables}
    state = await installation_state(database, own, further=further)
    assert state.is_current
    assert {each.state for each in state.objects} == {"ok", "further"}
    async with other_program(db_url) as run:
        await run_all(run, RESET)
        await drained(source)
        await run_all(
            run, ["UPDATE seat SET code = 'x' WHERE id = 1", "INSERT INTO reading (id, region) VALUES (9, 1)"]
        )
        assert seen(await drained(source)) == {("seat", (1, "a"), (1, "x")), ("reading", None, (9, 1))}
        for table in ("reading", "seat"):
            trigger = next(each for each in state.objects if each.source == table and each.kind == "trigger")
            await run(f"DROP TRIGGER {trigger.name}{f' ON {trigger.on}' * (db_url.dialect == 'postgres')}")
            if table == "reading":
                await source.check()
        with pytest.raises(RelayError, match=f"{trigger.name} on .* is missing"):
            await source.check()
        await install(database, own)
        await source.check()
        assert list(source.tables) == own
        await run("UPDATE reading SET region = 2")
        assert seen(await drained(source)) == set()
    await source.close()


async def test_lines_of_a_table_that_is_gone_name_it_as_a_whole(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    own = [table for table in tables if table.table != "reading"]
    [reading] = [table for table in tables if table not in own]
    await install(database, tables)
    source = TriggerSource(database, own, [reading])
    await source.check()
    async with other_program(db_url) as run:
        await run_all(run, [*RESET, "DELETE FROM seat WHERE id = 1", "INSERT INTO reading (id, region) VALUES (9, 1)"])
        await run("DROP TABLE reading")
        found = {change.table.name: change.rows is None for change in await drained(source)}
        assert found["seat"] is False
        assert found["reading"] is (db_url.dialect != "sqlite")  # whose lines need no types
        await source.check()
    await source.close()


@pytest.mark.only_on("postgres", "mariadb", because="SQLite has no users")
@pytest.mark.every_pair(because="each database has triggers of its own")
async def test_a_writer_needs_no_right_on_the_change_table(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    """Row security of the written table hides no change. Names of the writer's schemas have no effect."""
    await install(database, tables)
    source = TriggerSource(database, tables)
    async with other_program(db_url) as administrator:
        await run_all(administrator, RESET)
        await drained(source)
        writer = f"relay_{database.database}"  # type: ignore[attr-defined]
        if db_url.dialect == "postgres":
            statements = [
                f"CREATE ROLE {writer} LOGIN",
                f"GRANT USAGE ON SCHEMA public TO {writer}",
                f"GRANT SELECT, UPDATE ON seat TO {writer}",
                "ALTER TABLE seat ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY own ON seat USING (id = 1) WITH CHECK (true)",
                f"CREATE SCHEMA {writer} AUTHORIZATION {writer}",
            ]
        else:
            name = database.database  # type: ignore[attr-defined]
            statements = [f"CREATE USER {writer}", f"GRANT SELECT, UPDATE ON {name}.seat TO {writer}"]
        await run_all(administrator, statements)
        try:
            async with other_program(db_url, writer) as run:
                if db_url.dialect == "postgres":
                    await run_all(run, [
                        f"CREATE FUNCTION {writer}.jsonb_agg(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
                        f"CREATE TABLE {writer}.aiomodelcache_changes (source text, old jsonb, new jsonb)",
                        f"SET search_path = {writer}, public, pg_catalog",
                    ])  # fmt: skip
                await run("UPDATE seat SET code = 'x' WHERE id = 1")
                if db_url.dialect == "postgres":
                    rights = "SELECT proname FROM pg_proc WHERE proname LIKE 'aiomodelcache_%' AND {}"
                    assert await run(rights.format("NOT has_function_privilege(oid, 'EXECUTE')"))
                    assert not await run(rights.format("has_function_privilege(oid, 'EXECUTE')"))
                for statement in ("SELECT * FROM {}", "DELETE FROM {}", "INSERT INTO {} (source) VALUES ('x')"):
                    changes = (
                        "public.aiomodelcache_changes" if db_url.dialect == "postgres" else "aiomodelcache_changes"
                    )
                    with pytest.raises(Exception, match="denied"):
                        await run(statement.format(changes))
            assert seen(await drained(source)) == {("seat", (1, "a"), (1, "x"))}
        finally:
            await source.close()
            if db_url.dialect == "postgres":
                await run_all(administrator, [f"DROP OWNED BY {writer} CASCADE", f"DROP ROLE {writer}"])
            else:
                await administrator(f"DROP USER {writer}")


RIGHTS = {
    "postgres": [
        "CREATE ROLE {user} LOGIN",
        "GRANT USAGE ON SCHEMA public TO {user}",
        "GRANT SELECT, DELETE ON aiomodelcache_changes TO {user}",
        "GRANT SELECT, UPDATE ON aiomodelcache_coverage TO {user}",
    ],
    "mariadb": [
        "CREATE USER {user}",
        "GRANT SELECT, DELETE ON {name}.aiomodelcache_changes TO {user}",
        "GRANT SELECT, UPDATE ON {name}.aiomodelcache_coverage TO {user}",
        "GRANT TRIGGER, REFERENCES ON {name}.* TO {user}",
        "GRANT PROCESS ON *.* TO {user}",
    ],
}
"""The rights that the guide asks for a relay's user."""


@pytest.mark.only_on("postgres", "mariadb", because="SQLite has no users")
@pytest.mark.every_pair(because="each database has rights of its own")
async def test_a_relay_needs_no_other_rights(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    await install(database, tables)
    name = database.database  # type: ignore[attr-defined]
    user, module = f"drains_{name}", "tests.support.models.relay_models"
    own_url = DatabaseUrl(str(db_url).replace(f"{database.user}@", f"{user}@", 1), db_url.dialect)  # type: ignore[attr-defined]
    async with other_program(db_url) as administrator:
        await run_all(administrator, RESET)
        await drained(TriggerSource(database, tables))
        await run_all(administrator, [each.format(user=user, name=name) for each in RIGHTS[db_url.dialect]])
        try:
            async with tortoise_on(own_url, module, create=False) as client:
                source = TriggerSource(client, tables)
                await source.check()
                await source.set_owner("a")
                await administrator("UPDATE seat SET code = 'x' WHERE id = 1")
                assert await source.is_owned()
                assert seen(await drained(source)) == {("seat", (1, "a"), (1, "x"))}
                assert await source.changes(10) == []
                with pytest.raises(Exception, match="denied"):
                    await client.execute_query("SELECT code FROM seat")
                await source.close()
        finally:
            if db_url.dialect == "postgres":
                await run_all(administrator, [f"DROP OWNED BY {user}", f"DROP ROLE {user}"])
            else:
                await administrator(f"DROP USER {user}")


@pytest.mark.only_on("mariadb", because="other databases tell of TRUNCATE, or have none")
async def test_a_relay_that_cannot_see_truncate_refuses(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    await install(database, tables)
    name = database.database  # type: ignore[attr-defined]
    user = f"relay_{name}"
    async with other_program(db_url) as administrator:
        await run_all(administrator, [f"CREATE USER {user}", f"GRANT ALL ON {name}.* TO {user}"])
        before = database.user  # type: ignore[attr-defined]
        source = TriggerSource(database, tables)
        await database.close()
        database.user = user  # type: ignore[attr-defined]
        try:
            with pytest.raises(RelayError, match=r"GRANT PROCESS ON \*\.\*"):
                await source.check()
        finally:
            await database.close()
            database.user = before  # type: ignore[attr-defined]
            await administrator(f"DROP USER {user}")


@pytest.mark.models("tests.support.models.relay_schema_models")
@pytest.mark.no_tables
@pytest.mark.only_on("postgres", because="the others have no schemas")
async def test_tables_in_schemas_and_of_odd_names(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, cache: ModelCache
) -> None:
    tables = tables_of(cache)
    async with other_program(db_url) as run:
        await run_all(run, [
            "CREATE SCHEMA north", 'CREATE SCHEMA "So""uth"',
            "CREATE TABLE north.house (id int PRIMARY KEY, number int UNIQUE)",
            """CREATE TABLE "So""uth".house (id int PRIMARY KEY, "num""b'er" int UNIQUE, "xid" int)""",
        ])  # fmt: skip
        await install(database, tables)
        module = "tests.support.models.relay_schema_models"
        north = DatabaseUrl(f"{db_url}?schema=north", "postgres")
        async with tortoise_on(north, module, create=False) as other:
            await install(other, tables)  # of another application, whose change table is in this schema
            await run("INSERT INTO north.house VALUES (1, 10)")
            await run('INSERT INTO "So""uth".house VALUES (2, 20, 3)')
            for client in (database, other):
                source = TriggerSource(client, tables)
                await source.check()
                changes = await drained(source)
                await source.close()
                assert {(change.table.name, str(change.rows)) for change in changes} == {
                    ("north.house", "[(None, {'id': 1, 'number': 10})]"),
                    ('So"uth.house', "[(None, {'id': 2, 'number': 20, 'place': 3})]"),
                }
            await remove(other)
        await check_installation(database, tables)


@pytest.mark.only_on("postgres", "mariadb", because="SQLite shows the text of a table")
async def test_a_change_table_of_another_format_is_made_anew(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    comment = {"postgres": "COMMENT ON TABLE {} IS 'format 0'", "mariadb": "ALTER TABLE {} COMMENT = 'format 0'"}
    await install(database, tables)
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        await run("INSERT INTO reading (id, region) VALUES (1, 1)")
        await run(comment[db_url.dialect].format("aiomodelcache_changes"))
    with pytest.raises(RelayError, match="aiomodelcache_changes is changed"):
        await source.check()
    assert [each.name for each in await install(database, tables)] == ["aiomodelcache_changes"]
    await source.check()
    assert await source.changes(10) == []
    await source.close()


async def test_a_change_table_that_is_emptied_by_hand_is_noticed(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    await install(database, tables)
    source = TriggerSource(database, tables)
    before = await source.check()
    async with other_program(db_url) as run:
        statement = "DROP TABLE" if db_url.dialect == "sqlite" else "TRUNCATE"
        await run(f"{statement} aiomodelcache_changes")
    if db_url.dialect == "sqlite":
        with pytest.raises(RelayError, match="aiomodelcache_changes is missing"):
            await source.check()
    else:
        assert await source.check() != before
    await source.close()


@pytest.mark.only_on("sqlite", because="other databases can change a column into a generated one")
@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
async def test_a_key_may_be_a_generated_column(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], kind: str
) -> None:
    """REPLACE may delete a row by a unique index over it, which no statement names."""
    source = TriggerSource(database, tables)
    region = f"region INT GENERATED ALWAYS AS (double / 2) {kind} UNIQUE"
    async with other_program(db_url) as run:
        await run_all(run, ["DROP TABLE reading", f"CREATE TABLE reading (id INT PRIMARY KEY, double INT, {region})"])
        await install(database, tables)
        for statement, expected in {
            "INSERT INTO reading VALUES (1, 10), (2, 12)": {(None, (1, 5)), (None, (2, 6))},
            "UPDATE reading SET double = 14 WHERE id = 1": {((1, 5), (1, 7))},
            "REPLACE INTO reading VALUES (3, 14)": {((1, 7), None), (None, (3, 7))},
            "UPDATE OR REPLACE reading SET double = 12 WHERE id = 3": {((2, 6), None), ((3, 7), (3, 6))},
        }.items():
            await run(statement)
            assert seen(await drained(source)) == {("reading", *each) for each in expected}
    await source.close()


@pytest.mark.only_on("postgres", because="other databases compute such columns for triggers")
async def test_a_line_names_the_whole_table_if_a_key_is_a_virtual_column(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    async with other_program(db_url) as run:
        [[version]] = await run("SELECT current_setting('server_version_num')::int")
        if version < 180_000:
            pytest.skip("PostgreSQL has no virtual columns before version 18")
        await run_all(run, [
            "ALTER TABLE reading DROP COLUMN region",
            "ALTER TABLE reading ADD COLUMN region int GENERATED ALWAYS AS (id % 2) VIRTUAL",
        ])  # fmt: skip
        await install(database, tables)
        source = TriggerSource(database, tables)
        before = await source.check()
        await run("INSERT INTO reading (id) VALUES (5)")
        assert seen(await drained(source)) == {("reading", "*")}
        await run("ALTER TABLE reading ALTER COLUMN region SET EXPRESSION AS (id % 3)")
        assert await source.check() != before
        await source.close()


@pytest.mark.only_on("sqlite", because="only SQLite lets a table choose how REPLACE compares")
async def test_replaced_rows_are_found_as_the_index_finds_them(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    """An index that ignores case, a table without row ids, a text for an integer, a partial index."""
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        await run_all(run, [
            "DROP TABLE spelling",
            "CREATE TABLE spelling (word TEXT PRIMARY KEY, size INT UNIQUE, part INT) WITHOUT ROWID",
            "CREATE UNIQUE INDEX cased ON spelling (word COLLATE NOCASE)",
            "CREATE UNIQUE INDEX parts ON spelling (part) WHERE part > 0",
            "CREATE UNIQUE INDEX odd ON spelling (word || size)",
        ])  # fmt: skip
        await install(database, tables)
        await run_all(run, [
            "INSERT INTO spelling VALUES ('a', 1, 5)",
            "INSERT OR REPLACE INTO spelling VALUES ('A', 2, 6)",
            "INSERT OR REPLACE INTO spelling VALUES ('b', '2', 7)",
            "INSERT OR REPLACE INTO spelling VALUES ('c', 3, 7)",
        ])  # fmt: skip
        gone = [old["word"] for change in await drained(source) for old, new in change.rows or () if old and not new]
        assert gone == ["a", "A", "b"]
        assert [row[0] for row in await run("SELECT word FROM spelling")] == ["c"]
    await source.close()
