"""The values of captured lines, and what reading and deleting lines costs."""

import asyncio
import json
from time import time
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.exceptions import RelayError
from aiomodelcache.orm.meta import column_names
from aiomodelcache.orm.select import select_values
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.source import TriggerSource
from aiomodelcache.relay.triggers.installation import install
from tests.relay.capture import TriggerCapture
from tests.relay.outside import other_program
from tests.relay.test_triggers import drained, tables_of
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.relay_elsewhere_models import Elsewhere
from tests.support.models.relay_models import Spelling, Typed
from tests.support.servers import PostgresServer

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("memory", because="a source knows no store"),
]

LITERALS: dict[str, list[str]] = {
    "small": ["-32768", "32767", "0"],
    "medium": ["-2147483648", "2147483647"],
    "big": ["9223372036854775807", "-9223372036854775808", "9007199254740993"],
    "flag": ["TRUE", "FALSE"],
    "character_column": [
        *("''", "'a'", "' padded '", "'ä:%,'' # \"'", "'🐍'", "'null'", "'[1]'", "'line\nbreak\t'", "'e\u0301'"),
        "'true'",
    ],
    "text": ["''", f"'{'long ' * 2_000}'", "'{\"a\": 1}'"],
    "number": ["0.1", "1e308", "5e-324", "-1.5", "0.30000000000000004", "123456789.123456789", "7"],
    "price": ["12345678901234.5678", "-0.0001", "1.5", "1.5000", "0", "1e3"],
    "ref": ["'00000000-0000-0000-0000-000000000000'", "'6a1fb1a4-9c2f-4b0f-b6a9-0f6f5d8d7e11'"],
    "day": ["'2024-02-29'", "'1583-10-15'", "'9999-12-31'"],
    "moment": [
        "'2024-02-29 12:30:45.123456'", "'1969-12-31 23:59:59.999999'", "'2024-11-03 05:30:00'",
        "'9999-12-30 00:00:00'",
    ],
    "clock": ["'23:59:59.999999'", "'00:00:00'", "'01:02:03.000004'"],
    "span": ["-1", "8639999913600000000", "0"],
    "level": ["-1", "32767"],
    "hue": ["'red'", "'Grün'"],
    "mood": ["'good'", "'bad'"],
    "point": ["'-3;4'", "'0;1180591620717411303424'"],
}  # fmt: skip
"""Values to write, by column, as literals of SQL that every database takes."""

SESSIONS = {
    "postgres": [
        "SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'German'", "SET IntervalStyle = 'sql_standard'",
        "SET extra_float_digits = -10", "SET bytea_output = 'escape'", "SET lc_numeric = 'C'",
    ],
    "mariadb": ["SET time_zone = '+09:00'", "SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES'", "SET NAMES latin1"],
    "sqlite": [],
}  # fmt: skip
"""Settings of the writer's session, which must not change the captured values."""


@pytest.fixture
def tables(cache: ModelCache) -> list[CapturedTable]:
    """The captured tables."""
    return tables_of(cache)


def shown(row: dict[str, Any]) -> list[str]:
    """Returns a row's values with their types."""
    return [f"{name}: {type(value).__module__}.{type(value).__name__} {value!r}" for name, value in sorted(row.items())]


@pytest.mark.every_pair(because="each database has types of its own")
async def test_values_are_those_that_the_database_returns(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    """Every type that a key can have: written by another program, compared after INSERT, UPDATE and DELETE."""
    await capture.install(database, tables)
    source = capture.source(database, tables)
    rows = [(column, literal) for column, literals in LITERALS.items() for literal in literals]
    async with other_program(db_url) as run:
        statements = [
            f"INSERT INTO typed (id, {column}) VALUES ({number}, {literal})"
            for number, (column, literal) in enumerate(rows)
        ]
        await run(statements[0])  # before the settings, because MySQL's change the literals of the statement
        for statement in SESSIONS[db_url.dialect]:
            await run(statement)
        if db_url.dialect == "mariadb":
            await run("SET NAMES utf8mb4")
        for statement in statements[1:]:
            await run(statement)
        stored = await select_values(Typed, database, "id", range(len(rows)), column_names(Typed))
        expected = {row["id"]: shown(row) for row in stored}
        assert len(expected) == len(rows)
        await run("UPDATE typed SET id = id")
        await run("DELETE FROM typed")
    inserted: dict[int, list[str]] = {}
    updated: dict[int, tuple[list[str], list[str]]] = {}
    deleted: dict[int, list[str]] = {}
    for change in await drained(source):
        assert change.rows is not None, change
        for old, new in change.rows:
            if old is not None and new is not None:
                updated[new["id"]] = shown(old), shown(new)
            elif new is not None:
                inserted[new["id"]] = shown(new)
            elif old is not None:
                deleted[old["id"]] = shown(old)
    await source.close()
    assert inserted == expected
    assert updated == {number: (row, row) for number, row in expected.items()}
    assert deleted == expected


INEXACT = {
    "postgres": [
        ("ALTER TABLE typed ALTER COLUMN point TYPE int[] USING NULL", "'{1,2}'"),
        ("ALTER TABLE typed ALTER COLUMN point TYPE jsonb USING NULL", "'\"text\"'"),
    ],
    "mariadb": [
        ("ALTER TABLE typed MODIFY COLUMN point TIMESTAMP NULL", "'2024-02-29 12:30:45'"),
        ("ALTER TABLE typed MODIFY COLUMN point VARBINARY(40)", "'a'"),
    ],
    "sqlite": [("SELECT 1", "'no point'")],
}


@pytest.mark.every_pair(because="each database has types of its own")
async def test_a_value_that_cannot_be_exact_stands_for_the_whole_table(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run:
        for number, (alter, literal) in enumerate(INEXACT[db_url.dialect]):
            await run(alter)
            await capture.install(database, tables)
            await source.check()
            await run(f"INSERT INTO typed (id, point) VALUES ({number}, {literal})")
            assert [(change.table.table, change.rows) for change in await drained(source)] == [("typed", None)]
    await source.close()


async def test_a_text_as_primary_key_and_lines_of_unknown_tables(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    spelling = next(table for table in tables if table.models == (Spelling,))
    source, other = capture.source(database, tables), capture.source(database, [spelling])
    async with other_program(db_url) as run:
        await run("INSERT INTO spelling (word, size) VALUES ('a''b', 1)")
        await run("INSERT INTO reading (id, region) VALUES (1, 1)")
        change, undeclared = await other.changes(10)
        assert change.rows == [(None, {"word": "a'b"})]
        assert (undeclared.table.name, undeclared.table.models, undeclared.rows) == ("reading", (), None)
        again, declared = await source.changes(10)
        assert (again, declared.id) == (change, undeclared.id)
        await source.delete([change.id, declared.id])
        await other.delete([change.id])
        assert await source.changes(10) == []
        await run("UPDATE spelling SET word = 'c'")
        pairs = [pair for change in await drained(source) for pair in change.rows or ()]
        gone_and_new = [({"word": "a'b"}, None), (None, {"word": "c"})]
        assert pairs == gone_and_new if db_url.dialect == "postgres" else [({"word": "a'b"}, {"word": "c"})]
    await source.close()
    await other.close()


async def test_lines_are_deleted_for_their_owner_alone(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    first, second = capture.source(database, tables), capture.source(database, tables)
    assert await first.find_owner() is None
    guard = await first.check()
    await first.set_owner("a1")
    assert await second.find_owner() == "a1"
    await second.set_owner("b1")
    assert guard != await first.check()
    assert not await first.is_owned()
    async with other_program(db_url) as run:
        await run("INSERT INTO spelling (word, size) VALUES ('a', 1)")
    [change] = await first.changes(10)
    await first.delete([change.id])
    assert await second.changes(10) == [change]
    await second.delete([change.id])
    assert await second.changes(10) == []
    await capture.install(database, tables)
    assert await second.is_owned(), "an installation that changes nothing leaves the owner"
    await first.close()
    await second.close()


async def test_a_limit_leaves_lines_and_deleting_some_loses_none(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run:
        for number in range(5):
            await run(f"INSERT INTO reading (id, region) VALUES ({number}, 0)")
    first = await source.changes(3)
    assert len(first) == 3
    await source.delete([change.id for change in first[:2]])
    left = await source.changes(10)
    assert [change.id for change in left[:1]] == [first[2].id]
    assert len(left) == 3
    await source.delete([change.id for change in left])
    assert await source.changes(10) == []
    await source.close()


@pytest.mark.every_pair(because="each database has a clock of its own")
async def test_the_age_of_the_oldest_line_is_known(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    """Whatever the time zone of the writer's session, and that of the database."""
    await install(database, tables)
    source = TriggerSource(database, tables)
    async with other_program(db_url) as run:
        for statement in SESSIONS[db_url.dialect]:
            await run(statement)
        before = time()
        await run("INSERT INTO reading (id, region) VALUES (1, 0)")
        await asyncio.sleep(0.3)
        await run("INSERT INTO reading (id, region) VALUES (2, 0)")
    assert await source.changes(10)
    assert 0.29 < source.oldest < time() - before + 0.01
    await drained(source)
    assert await source.changes(10) == []
    assert source.oldest == 0
    await source.close()


@pytest.mark.only_on("postgres", because="the watermark is PostgreSQL's")
async def test_the_watermark_loses_no_line_of_a_transaction_that_commits_late(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as late, other_program(db_url) as run:
        await late("BEGIN")
        await late("INSERT INTO reading (id, region) VALUES (1, 0)")
        for number in range(2, 5):
            await run(f"INSERT INTO reading (id, region) VALUES ({number}, 0)")
        assert len(await drained(source)) == 3
        await late("COMMIT")
        [change] = await drained(source)
        assert change.rows == [(None, {"id": 1, "region": 0})]
    await source.close()


@pytest.mark.only_on("postgres", because="the watermark is PostgreSQL's")
async def test_an_empty_drain_passes_no_dead_lines(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    """A long snapshot keeps the lines that were deleted. The pages that an empty read touches are counted."""
    await capture.install(database, tables)
    source = capture.source(database, tables)
    lines: Any = source._lines
    async with other_program(db_url) as reader, other_program(db_url) as run:
        await reader("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await reader("SELECT * FROM reading")
        statement = "INSERT INTO aiomodelcache_changes (source) SELECT 'reading' FROM generate_series(1, 20000)"
        await run(statement)
        while changes := await source.changes(5_000):
            await source.delete([change.id for change in changes])

        async def pages(watermark: int) -> int:
            [[plan]] = await run(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT id, xid FROM aiomodelcache_changes "
                f"WHERE xid >= {watermark} ORDER BY xid, id LIMIT 10"
            )
            return int(json.loads(plan)[0]["Plan"]["Shared Hit Blocks"])

        assert await pages(lines._watermark) < 10
        assert await pages(0) > 100
    await source.close()


@pytest.mark.only_on("postgres", because="only PostgreSQL notifies")
async def test_a_commit_ends_the_wait(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],
    monkeypatch: pytest.MonkeyPatch,
    capture: TriggerCapture,
) -> None:
    """Only a transaction that wrote a captured table notifies. A lost connection is made anew."""
    monkeypatch.setattr("aiomodelcache.relay.postgres_lines.NOTIFIED_INTERVAL", 30.0)
    monkeypatch.setattr("aiomodelcache.relay.postgres_lines.LISTEN_AGAIN", 0.0)
    await capture.install(database, tables)
    source = capture.source(database, tables)
    lines: Any = source._lines
    async with other_program(db_url) as run:
        for _ in range(2):
            waiting = asyncio.create_task(source.wait(30.0))
            while not await run("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"):
                await asyncio.sleep(0.01)
            await run("INSERT INTO unrelayed (id) VALUES ((SELECT count(*) FROM unrelayed))")
            await run("SELECT 1")
            assert not waiting.done()
            await run("UPDATE typed SET id = id WHERE false")
            assert not waiting.done()
            await run("INSERT INTO reading (id, region) VALUES ((SELECT count(*) FROM reading), 0)")
            await asyncio.wait_for(waiting, 10.0)
            await drained(source)
            await run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            while not lines._listener._connection.is_closed():
                await asyncio.sleep(0.01)
    await source.close()


@pytest.mark.only_on("postgres", because="only a line of PostgreSQL holds several rows")
async def test_one_read_returns_a_bounded_number_of_rows(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],
    monkeypatch: pytest.MonkeyPatch,
    capture: TriggerCapture,
) -> None:
    """Further lines name their tables, which costs no memory and loses nothing."""
    monkeypatch.setattr("aiomodelcache.relay.postgres_lines.MAX_READ_ROWS", 5)
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run:
        await run("INSERT INTO reading (id, region) VALUES (1, 0), (2, 0), (3, 0), (4, 0)")
        await run("INSERT INTO reading (id, region) VALUES (5, 0), (6, 0)")
        first, second = await drained(source)
    assert len(first.rows or ()) == 4
    assert second.rows is None
    await source.close()


@pytest.mark.models("tests.support.models.relay_elsewhere_models")
async def test_tortoise_is_told_the_same_with_triggers(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    """Generated keys are those of the row and not of the line. SQLite counts lines as changed rows."""
    await capture.install(database, tables)
    made = [await Elsewhere.create() for _ in range(2)]
    await Elsewhere.filter(id=2).delete()  # a line more than rows
    made.append(await Elsewhere.create())
    assert [each.id for each in made] == [1, 2, 3]
    assert await Elsewhere.filter(id=1).update(size=1) == (2 if db_url.dialect == "sqlite" else 1)
    assert await Elsewhere.filter(id=1).delete() == (2 if db_url.dialect == "sqlite" else 1)


@pytest.mark.only_on("postgres", because="only PostgreSQL notifies")
async def test_one_of_several_open_transactions_notifies(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    """NOTIFY takes a lock that all databases share, so the others only leave their lines."""
    await capture.install(database, tables)
    async with other_program(db_url) as one, other_program(db_url) as two:
        for number, run in enumerate((one, two)):
            await run("BEGIN")
            await run(f"INSERT INTO reading (id, region) VALUES ({number}, 0)")
        held = "SELECT pid = pg_backend_pid() AS own FROM pg_locks WHERE locktype = 'advisory'"
        assert [row["own"] for row in await one(held)] == [True]
        assert [row["own"] for row in await two(held)] == [False]
        await one("COMMIT")
        await two("COMMIT")


async def assert_replicated(server: PostgresServer, url: str, module: str, source: TriggerSource) -> None:
    """Has another database replicate into this one, whose worker fires no triggers of statements."""
    with server.database(module) as origin:
        async with other_program(url) as run, other_program(origin) as elsewhere:
            await elsewhere("CREATE PUBLICATION sent FOR TABLE elsewhere")
            await elsewhere("SELECT pg_create_logical_replication_slot('sent', 'pgoutput')")
            place = f"host={server.folder} port={server.port} user=postgres dbname={origin.rpartition('/')[2]}"
            options = "(create_slot = false, slot_name = 'sent', copy_data = false)"
            await run(f"CREATE SUBSCRIPTION received CONNECTION '{place}' PUBLICATION sent WITH {options}")
            seen: list[Any] = []
            for statement in (
                "INSERT INTO elsewhere (id, size) VALUES (5, 0), (6, 0)",
                "UPDATE elsewhere SET id = 7 WHERE id = 6",
                "DELETE FROM elsewhere WHERE id = 5",
                "TRUNCATE elsewhere",
            ):
                await elsewhere(statement)
                while not (changes := await drained(source)):
                    await source.wait(1.0)
                seen += [change.rows for change in changes]
            assert seen[:4] == [
                [(None, {"id": 5})],
                [(None, {"id": 6})],
                [({"id": 6}, None), (None, {"id": 7})],
                [({"id": 5}, None)],
            ]
            assert seen[4:] == [None]
            await run("ALTER SUBSCRIPTION received DISABLE")
            await run("ALTER SUBSCRIPTION received SET (slot_name = NONE)")
            await run("DROP SUBSCRIPTION received")
            while await elsewhere("SELECT 1 FROM pg_replication_slots WHERE active"):
                await source.wait(0.05)
            await elsewhere("SELECT pg_drop_replication_slot('sent')")


@pytest.mark.slow(because="it starts a server of its own three times")
@pytest.mark.only_on("postgres", because="it needs a server that is stopped and promoted")
async def test_a_restart_a_replica_a_promotion_and_prepared_transactions(own_postgres: PostgresServer) -> None:
    """A replica is refused. A restart and a promotion are noticed. Triggers do not keep transactions from preparing."""
    module = "tests.support.models.relay_elsewhere_models"
    with own_postgres.database(module) as url:
        async with tortoise_on(DatabaseUrl(url, "postgres"), module, create=False) as client:
            async with ModelCache("memory://") as cache:
                tables = tables_of(cache)
            await install(client, tables)
            source = TriggerSource(client, tables)
            states = [await source.check()]
            own_postgres.execute(
                "ALTER SYSTEM SET max_prepared_transactions = 2", "ALTER SYSTEM SET wal_level = logical"
            )
            await client.close()
            own_postgres.stop()
            own_postgres.restart()
            states.append(await source.check())
            async with other_program(url) as run:
                for statement in ("BEGIN", "INSERT INTO elsewhere (size) VALUES (7)", "PREPARE TRANSACTION 'one'"):
                    await run(statement)
                assert await source.changes(10) == []
                await run("COMMIT PREPARED 'one'")
                assert [change.rows for change in await drained(source)] == [[(None, {"id": 1})]]
            async with asyncio.timeout(20.0):
                await assert_replicated(own_postgres, url, module, source)
            await client.close()
            own_postgres.stop()
            (own_postgres.folder / "data" / "standby.signal").touch()
            own_postgres.restart()
            with pytest.raises(RelayError, match="is a replica or recovers"):
                await source.check()
            own_postgres.execute("SELECT pg_promote()")
            states.append(await source.check())
            assert len(set(states)) == 3
            await source.close()


@pytest.mark.only_on("mariadb", because="only MariaDB and MySQL have read-only servers")
async def test_a_read_only_server_is_refused(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: TriggerCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run:
        await run("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(RelayError, match="is read-only, like a replica"):
                await source.check()
        finally:
            await run("SET GLOBAL read_only = 0")
    await source.check()
    await source.close()
