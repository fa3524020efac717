"""Writes that the table of cells does not list: each row that differs afterwards is named, or the relay notices.

The rows before and after a write are the judge. So no expected lines are written down here.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.source import Change, Source
from tests.relay.capture import StreamCapture, TriggerCapture
from tests.relay.cells import RESET
from tests.relay.outside import Run, other_program
from tests.relay.test_triggers import drained, run_all, tables
from tests.support.databases import DatabaseUrl

__all__ = ["tables"]

pytestmark = pytest.mark.models("tests.support.models.relay_models")

NEW: Final = "INSERT INTO seat (id, code, price)"
FUNCTION: Final = "CREATE OR REPLACE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$"
POSTGRES: Final = {
    "MERGE that inserts and deletes": [
        "MERGE INTO seat USING (VALUES (3, 'c'), (9, 'q')) v (id, code) ON seat.id = v.id "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, code, price) VALUES (v.id, v.code, 0)"
    ],
    "upsert that changes a primary key": [f"{NEW} VALUES (9, 'c', 0) ON CONFLICT (code) DO UPDATE SET id = 44"],
    "upsert that does nothing for one": [f"{NEW} VALUES (9, 'a', 0), (10, 'n', 0) ON CONFLICT DO NOTHING"],
    "COPY FREEZE": [
        "BEGIN",
        "TRUNCATE reading",
        r"""COPY reading (id, region) FROM PROGRAM 'printf "9\t2\n"' WITH (FREEZE)""",
        "COMMIT",
    ],
    "a view with INSTEAD OF": [
        "CREATE VIEW seats AS SELECT id, code FROM seat",
        FUNCTION.format("UPDATE seat SET code = NEW.code WHERE id = OLD.id; RETURN NEW;"),
        "CREATE TRIGGER theirs INSTEAD OF UPDATE ON seats FOR EACH ROW EXECUTE FUNCTION theirs()",
        "UPDATE seats SET code = 'by view' WHERE id = 2",
        "DROP VIEW seats",
    ],
    "a rule": [
        "CREATE RULE theirs AS ON INSERT TO label DO ALSO UPDATE seat SET code = 'r' || id",
        "INSERT INTO label (id, text) VALUES (5, '')",
        "DROP RULE theirs ON label",
    ],
    "a trigger that changes the row": [
        FUNCTION.format("NEW.code = NEW.code || '!'; RETURN NEW;"),
        "CREATE TRIGGER theirs BEFORE UPDATE ON seat FOR EACH ROW EXECUTE FUNCTION theirs()",
        "UPDATE seat SET price = 3 WHERE id = 1",
        "DROP TRIGGER theirs ON seat",
    ],
    "a trigger that writes the same table": [
        FUNCTION.format("IF pg_trigger_depth() < 2 THEN UPDATE seat SET code = 'x' WHERE id = 3; END IF; RETURN NULL;"),
        "CREATE TRIGGER theirs AFTER UPDATE ON seat FOR EACH ROW EXECUTE FUNCTION theirs()",
        "UPDATE seat SET price = 3 WHERE id = 1",
        "DROP TRIGGER theirs ON seat",
    ],
    "rows that move by WITH": [
        "WITH gone AS (DELETE FROM seat WHERE id = 3 RETURNING *) "
        "INSERT INTO seat (id, code, venue_id, price) SELECT id + 100, code || 'm', venue_id, price FROM gone"
    ],
    "DELETE USING": ["DELETE FROM seat USING venue WHERE venue.id = seat.venue_id AND venue.id = 2"],
    "values that are swapped": [
        "ALTER TABLE seat DROP CONSTRAINT seat_code_key",
        "UPDATE seat SET code = CASE id WHEN 1 THEN 'b' WHEN 2 THEN 'a' ELSE code END",
        "ALTER TABLE seat ADD CONSTRAINT seat_code_key UNIQUE (code)",
    ],
    "a savepoint": [
        "BEGIN",
        "UPDATE seat SET code = 's1' WHERE id = 1",
        "SAVEPOINT point",
        "UPDATE seat SET code = 's2' WHERE id = 2",
        "ROLLBACK TO point",
        "UPDATE seat SET code = 's3' WHERE id = 3",
        "COMMIT",
    ],
    "a procedure that commits": [
        "CREATE PROCEDURE in_parts() LANGUAGE plpgsql AS $$ BEGIN UPDATE seat SET code = 'p1' WHERE id = 1; COMMIT; "
        "UPDATE seat SET code = 'p2' WHERE id = 2; ROLLBACK; UPDATE seat SET code = 'p3' WHERE id = 3; END $$",
        "CALL in_parts()",
        "DROP PROCEDURE in_parts",
    ],
    "TRUNCATE CASCADE": ["TRUNCATE venue CASCADE"],
    "a table of another name for a while": [
        "ALTER TABLE seat RENAME TO chair",
        "UPDATE chair SET code = 'x' WHERE id = 1",
        "ALTER TABLE chair RENAME TO seat",
    ],
    "COPY by a worker of replication": [
        "SET session_replication_role = replica",
        r"""COPY reading (id, region) FROM PROGRAM 'printf "9\t2\n"'""",
        "RESET session_replication_role",
    ],
    "row security": [
        "ALTER TABLE seat ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE seat FORCE ROW LEVEL SECURITY",
        "CREATE POLICY theirs ON seat USING (false)",
        "UPDATE seat SET code = 'x' WHERE id = 1",
        "DROP POLICY theirs ON seat",
        "ALTER TABLE seat NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE seat DISABLE ROW LEVEL SECURITY",
    ],
    "names of the writer's schemas": [
        "CREATE SCHEMA theirs",
        "CREATE FUNCTION theirs.more(bigint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR theirs.> (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = theirs.more)",
        "CREATE FUNCTION theirs.count(anyelement) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        "CREATE TEMP TABLE aiomodelcache_changes (source text, size int, old jsonb, new jsonb)",
        "SET search_path = theirs, public, pg_catalog",
        "UPDATE public.seat SET code = 'x' WHERE id = 1",
        "RESET search_path",
        "DROP TABLE pg_temp.aiomodelcache_changes",
        "DROP SCHEMA theirs CASCADE",
    ],
    "settings of the writer": [
        "SET DateStyle = 'German'",
        "SET TimeZone = 'Asia/Kathmandu'",
        "SET standard_conforming_strings = off",
        "SET default_transaction_isolation = 'serializable'",
        "UPDATE seat SET code = 'x' WHERE id = 1",
        "RESET ALL",
    ],
    "triggers that are off for a while": [
        "ALTER TABLE seat DISABLE TRIGGER USER",
        "UPDATE seat SET code = 'x' WHERE id = 1",
        "ALTER TABLE seat ENABLE TRIGGER USER",
    ],
    "a column with other values": ["ALTER TABLE reading ALTER COLUMN region TYPE bigint USING region + 1"],
    "another table in its place": [
        "ALTER TABLE reading RENAME TO old",
        "CREATE TABLE reading AS SELECT id, region + 5 AS region FROM old",
    ],
}
MARIADB: Final = {
    "UPDATE of a join": [
        "UPDATE seat JOIN venue ON venue.id = seat.venue_id SET seat.code = CONCAT(seat.code, 'm'), venue.name = 'v' "
        "WHERE venue.id = 1"
    ],
    "DELETE of two tables": [
        "DELETE seat_label, seat FROM seat JOIN seat_label ON seat_label.seat_id = seat.id WHERE seat.id = 1"
    ],
    "DELETE of a parent and its child": [
        "DELETE venue, estate FROM venue JOIN estate ON venue.estate_id = estate.id",
    ],
    "INSERT IGNORE": [f"INSERT IGNORE {NEW.removeprefix('INSERT ')} VALUES (9, 'a', 0), (10, 'n', 0)"],
    "upsert that changes a primary key": [f"{NEW} VALUES (9, 'c', 0) ON DUPLICATE KEY UPDATE id = 44"],
    "REPLACE of two rows by one": ["REPLACE INTO seat (id, code, price) VALUES (1, 'b', 0)"],
    "REPLACE of a parent": ["REPLACE INTO venue (id, name) VALUES (1, 'again')"],
    "REPLACE of a grandparent": ["REPLACE INTO estate (id) VALUES (1)"],
    "LOAD DATA REPLACE": [
        "SELECT 9, 'a', 0 INTO OUTFILE '{folder}/seats'",
        "LOAD DATA INFILE '{folder}/seats' REPLACE INTO TABLE seat (id, code, price)",
    ],
    "LOAD DATA REPLACE of a parent": [
        "SELECT 1, 'x' INTO OUTFILE '{folder}/venues'",
        "LOAD DATA INFILE '{folder}/venues' REPLACE INTO TABLE venue (id, name)",
    ],
    "UPDATE with LIMIT": ["UPDATE seat SET code = CONCAT('o', id) ORDER BY id DESC LIMIT 2"],
    "an XA transaction": [
        "XA START 'x'",
        "UPDATE seat SET code = 'x' WHERE id = 1",
        "XA END 'x'",
        "XA PREPARE 'x'",
        "XA COMMIT 'x'",
    ],
    "a trigger of their own": [
        "CREATE TRIGGER theirs AFTER UPDATE ON venue FOR EACH ROW UPDATE seat SET code = CONCAT(code, 't')",
        "UPDATE venue SET name = 'n' WHERE id = 1",
        "DROP TRIGGER theirs",
    ],
    "a trigger that changes the row": [
        "CREATE TRIGGER theirs BEFORE UPDATE ON seat FOR EACH ROW SET NEW.code = CONCAT(NEW.code, 'b')",
        "UPDATE seat SET price = 2 WHERE id = 1",
        "DROP TRIGGER theirs",
    ],
    "a foreign key that is not checked": [
        "SET foreign_key_checks = 0",
        "DELETE FROM venue WHERE id = 1",
        "UPDATE seat SET venue_id = 2 WHERE venue_id = 1",
        "TRUNCATE seat_label",
        "SET foreign_key_checks = 1",
    ],
    "modes of the writer": [
        "SET sql_mode = 'ANSI,TRADITIONAL,NO_BACKSLASH_ESCAPES'",
        """UPDATE "seat" SET "code" = 'a"b\\c' WHERE id = 1""",
        "SET sql_mode = DEFAULT, NAMES latin1",
        "UPDATE seat SET code = CONCAT('x', CHAR(233 USING latin1)) WHERE id = 2",
        "SET NAMES utf8mb4",
    ],
    "a table of another name for a while": [
        "RENAME TABLE seat TO chair",
        "UPDATE chair SET code = 'x' WHERE id = 1",
        "RENAME TABLE chair TO seat",
    ],
    "another table in its place": [
        "CREATE TABLE other LIKE reading",
        "INSERT INTO other SELECT id, region + 5 FROM reading",
        "RENAME TABLE reading TO old, other TO reading",
    ],
}
SQLITE: Final = {
    "REPLACE of two rows by one": ["INSERT OR REPLACE INTO seat (id, code, price) VALUES (1, 'b', 0)"],
    "REPLACE of a parent": ["INSERT OR REPLACE INTO venue (id, name) VALUES (1, 'again')"],
    "REPLACE with recursive triggers": [
        "PRAGMA recursive_triggers = ON",
        "INSERT OR REPLACE INTO seat (id, code, price) VALUES (9, 'a', 0)",
    ],
    "REPLACE without foreign keys": [
        "PRAGMA foreign_keys = OFF",
        "INSERT OR REPLACE INTO seat (id, code, price) VALUES (9, 'a', 0)",
    ],
    "REPLACE by a query": ["REPLACE INTO seat (id, code, price) SELECT 20, 'a', 0 UNION SELECT 21, 'b', 1"],
    "UPDATE OR REPLACE of two rows": ["UPDATE OR REPLACE seat SET id = 2, code = 'a' WHERE id = 3"],
    "upsert that changes a primary key": [f"{NEW} VALUES (9, 'c', 0) ON CONFLICT (code) DO UPDATE SET id = 44"],
    "INSERT OR IGNORE": [f"INSERT OR IGNORE {NEW.removeprefix('INSERT ')} VALUES (9, 'a', 0), (10, 'n', 0)"],
    "DELETE of all rows": ["DELETE FROM seat_label", "DELETE FROM seat"],
    "UPDATE FROM": ["UPDATE seat SET code = v.code FROM (SELECT 1 AS id, 'u' AS code) v WHERE seat.id = v.id"],
    "a view with INSTEAD OF": [
        "CREATE VIEW seats AS SELECT id, code FROM seat",
        "CREATE TRIGGER theirs INSTEAD OF UPDATE ON seats BEGIN UPDATE seat SET code = NEW.code WHERE id = OLD.id; END",
        "UPDATE seats SET code = 'by view' WHERE id = 1",
        "DROP VIEW seats",
    ],
    "a temporary trigger": [
        "CREATE TEMP TRIGGER theirs AFTER UPDATE ON main.venue BEGIN UPDATE seat SET code = 'x' WHERE id = 2; END",
        "UPDATE venue SET name = 'n' WHERE id = 1",
    ],
    "a savepoint": [
        "SAVEPOINT first",
        "UPDATE seat SET code = 's1' WHERE id = 1",
        "SAVEPOINT second",
        "UPDATE seat SET code = 's2' WHERE id = 2",
        "ROLLBACK TO second",
        "RELEASE first",
    ],
    "an attached file": [
        "ATTACH '{folder}/other' AS other",
        "CREATE TABLE other.seat (id INTEGER PRIMARY KEY, code)",
        "INSERT INTO other.seat VALUES (1, 'o')",
        "UPDATE main.seat SET code = (SELECT code FROM other.seat) WHERE id = 1",
    ],
    "VACUUM": ["VACUUM"],
    "another table in its place": [
        "CREATE TABLE other (id INTEGER PRIMARY KEY, region INT NOT NULL) WITHOUT ROWID",
        "INSERT INTO other SELECT id, region + 5 FROM reading",
        "DROP TABLE reading",
        "ALTER TABLE other RENAME TO reading",
    ],
}
WRITES: Final = {"postgres": POSTGRES, "mariadb": MARIADB, "sqlite": SQLITE}

Rows = dict[str, set[tuple[Any, ...]]]


def as_texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, values))


async def rows_of(run: Run, tables: Sequence[CapturedTable]) -> Rows:
    """The captured values of all rows, as texts."""
    found: Rows = {}
    for table in tables:
        rows = await run(f"SELECT {', '.join(table.columns)} FROM {table.table}")
        found[table.name] = {as_texts([*row]) for row in rows}
    return found


def unnamed(before: Rows, after: Rows, changes: Sequence[Change]) -> set[tuple[str, tuple[Any, ...]]]:
    """Returns the rows that are gone or new, and that no change names."""
    left = {(name, row) for name in before for row in before[name] ^ after[name]}
    for change in changes:
        name = change.table.name
        if change.rows is None:
            left = {each for each in left if each[0] != name}
        for pair in change.rows or ():
            left -= {(name, as_texts([*row.values()])) for row in pair if row is not None}
    return left


async def problems(
    url: DatabaseUrl, tables: Sequence[CapturedTable], source: Source, install: Callable[[], Awaitable[None]], at: Path
) -> dict[str, Any]:
    """Makes all writes of a database. Returns those of which a relay would not learn all."""
    found: dict[str, Any] = {}
    for name, statements in WRITES[url.dialect].items():
        async with other_program(url) as run:
            await run_all(run, RESET)
            await drained(source)
            guard, before = await source.check(), await rows_of(run, tables)
            await run_all(run, [statement.replace("{folder}", str(at)) for statement in statements])
            after, is_noticed = await rows_of(run, tables), False
            try:
                is_noticed = await source.check() != guard
            except RelayError:
                is_noticed = True
            left = unnamed(before, after, await drained(source))
        if before == after and name != "VACUUM":
            found[name] = "nothing was written, so that the test shows nothing"
        elif left and not is_noticed:
            found[name] = left
        if is_noticed:
            await install()
    return found


@pytest.mark.exhaustive(because="many kinds of writes")
@pytest.mark.every_pair(because="each database has triggers of its own")
async def test_each_row_that_differs_is_named_or_the_relay_notices(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], tmp_path: Path
) -> None:
    capture = TriggerCapture()
    await capture.install(database, tables)
    source = capture.source(database, tables)
    found = await problems(db_url, tables, source, lambda: capture.install(database, tables), tmp_path)
    await source.close()
    assert found == {}


@pytest.mark.exhaustive(because="many kinds of writes")
@pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding")
async def test_each_row_that_differs_is_sent_or_the_relay_notices(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],
    tmp_path: Path,
    stream_capture: StreamCapture,
) -> None:
    await stream_capture.install(database, tables)
    source = stream_capture.source(database, tables)
    found = await problems(db_url, tables, source, lambda: stream_capture.install(database, tables), tmp_path)
    await source.close()
    assert found == {}
