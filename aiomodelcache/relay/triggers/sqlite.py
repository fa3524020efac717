"""Triggers of SQLite: one line for each row, with the values themselves in columns without a type.

``REPLACE`` deletes the rows that conflict with a new one, and fires no trigger of DELETE. So triggers before an INSERT
or an UPDATE name these rows. They compare as the unique indexes do. An index over expressions cannot be followed. Rows
that a foreign key deletes or changes do fire their triggers.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.orm.transactions import transaction
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.triggers.definitions import (
    CHANGES,
    COVERAGE,
    INSTALL,
    NAME_PREFIX,
    Definition,
    literal,
    md5_digest,
    quoted,
    select,
    tag,
)

_UNIQUE: Final = """
    SELECT i.name AS name, x.seqno AS seqno, x.name AS col, x.coll AS coll, x.cid AS cid
    FROM pragma_index_list({table}) i, pragma_index_xinfo(i.name) x WHERE i."unique" AND x.key
    ORDER BY i.name, x.seqno
"""
_INSTALLED: Final = f"""
    SELECT CASE type WHEN 'table' THEN '' ELSE lower(tbl_name) END AS place, name, sql FROM sqlite_master
    WHERE name LIKE '{NAME_PREFIX.replace("_", "!_")}%' ESCAPE '!' AND type IN ('table', 'trigger')
"""


class SQLiteTriggers:
    """The triggers of SQLite."""

    coverage = COVERAGE
    missing = "no triggers are installed"
    remedy = INSTALL

    async def wanted(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Definition]:
        """Returns the objects that capture the tables' writes. Raises ``RelayError``."""
        found = _own_tables(max((len(table.columns) for table in tables), default=0))
        for table in tables:
            columns = await _columns(client, table)
            lists = await _unique_columns(client, table, columns)
            found += _triggers(table, lists, {name for name, (_, is_generated) in columns.items() if is_generated})
        return found

    async def installed(self, client: BaseDBAsyncClient) -> dict[tuple[str, str], str]:
        """Returns the state of each installed object."""
        rows = await select(client, _INSTALLED)
        return {(str(row["place"]), str(row["name"])): md5_digest(str(row["sql"])) for row in rows}

    async def check_visible(self, client: BaseDBAsyncClient, triggers: Sequence[Definition]) -> None:
        """Does nothing: there are no users."""

    def drop(self, place: tuple[str, str]) -> str:
        """Returns the statement that drops an installed object."""
        on, name = place
        return f"DROP {'TRIGGER' if on else 'TABLE'} IF EXISTS {quoted(name)}"

    async def run(self, client: BaseDBAsyncClient, statements: Sequence[str]) -> None:
        """Runs the statements in one transaction."""
        own: Any
        async with transaction(client) as own:
            for statement in statements:
                await own.execute_query(statement)


def old_columns(number: int) -> list[str]:
    """Returns the columns of a line with the old values of so many captured columns."""
    return [f"o{at}" for at in range(number)]


def new_columns(number: int) -> list[str]:
    """Returns the columns of a line with the new values."""
    return [f"n{at}" for at in range(number)]


def _own_tables(width: int) -> list[Definition]:
    values = ", ".join([*old_columns(width), *new_columns(width)])
    written = "written DEFAULT (julianday('now'))"
    changes = f"CREATE TABLE {CHANGES} (id INTEGER PRIMARY KEY AUTOINCREMENT, source, op, {written}, {values})"
    coverage = f"CREATE TABLE {COVERAGE} (captured, owner, drained DEFAULT '')"
    return [
        Definition("table", "", name, md5_digest(create), (f"DROP TABLE IF EXISTS {name}", create))
        for name, create in ((CHANGES, changes), (COVERAGE, coverage))
    ]


async def _columns(client: BaseDBAsyncClient, table: CapturedTable) -> dict[str, tuple[int, bool]]:
    """Returns the table's columns with their place in the primary key, or 0, and True if they are generated.

    Raises ``RelayError``.
    """
    rows = await select(client, f"SELECT name, pk, hidden FROM pragma_table_xinfo({literal(table.table)})")
    found = {str(row["name"]): (int(row["pk"]), row["hidden"] > 1) for row in rows}
    views = await select(client, f"SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = {literal(table.table)}")
    if not found or views:
        raise RelayError(f"{table.name} does not exist, or is a view: create the table before its triggers.")
    missing = set(table.columns) - set(found)
    if missing:
        raise RelayError(f"{table.name} has no column {sorted(missing)[0]}: migrate the table before its triggers.")
    return found


async def _unique_columns(
    client: BaseDBAsyncClient, table: CapturedTable, columns: Mapping[str, tuple[int, bool]]
) -> list[list[tuple[str, str]]]:
    """Returns the columns and collations of each unique index by which REPLACE may delete a row."""
    rows = await select(client, _UNIQUE.format(table=literal(table.table)))
    indexes: dict[str, list[tuple[str, str]]] = {}
    expressions = {str(row["name"]) for row in rows if row["cid"] == -2}
    for row in rows:
        if row["cid"] >= 0:
            indexes.setdefault(str(row["name"]), []).append((str(row["col"]), str(row["coll"])))
    found = [index for name, index in indexes.items() if name not in expressions]
    pk = [(name, "BINARY") for name, (place, _) in columns.items() if place]
    if len(pk) == 1 and pk not in found:  # an INTEGER PRIMARY KEY is the rowid, and has no index
        found.insert(0, pk)
    return found


def _triggers(
    table: CapturedTable, unique: Sequence[Sequence[tuple[str, str]]], generated: Collection[str]
) -> list[Definition]:
    number = len(table.columns)
    olds, news = old_columns(number), new_columns(number)

    def line(letter: str, names: Sequence[str], rows: Sequence[str], clauses: str = "") -> str:
        values = ", ".join([f"{row}.{quoted(column)}" for row in rows for column in table.columns])
        into = ", ".join(["source", "op", *names])
        return f"INSERT INTO {CHANGES} ({into}) SELECT {literal(table.name)}, '{letter}', {values}{clauses};"

    def trigger(event: str, when: str, body: str) -> Definition:
        name = f"{NAME_PREFIX}{tag(table.name)}_{event}"
        on = quoted(table.table)
        create = f"CREATE TRIGGER {quoted(name)} {when} ON {on} FOR EACH ROW BEGIN {body} END"
        drop = f"DROP TRIGGER IF EXISTS {quoted(name)}"
        return Definition("trigger", table.table.lower(), name, md5_digest(create), (drop, create), table.name)

    found = [
        trigger("insert", "AFTER INSERT", line("I", news, ["NEW"])),
        trigger("update", "AFTER UPDATE", line("U", [*olds, *news], ["OLD", "NEW"])),
        trigger("delete", "AFTER DELETE", line("D", olds, ["OLD"])),
    ]
    if unique:
        row = "aiomodelcache_row"
        matches = " OR ".join(
            "("
            + " AND ".join(f"{row}.{quoted(name)} = NEW.{quoted(name)} COLLATE {coll}" for name, coll in index)
            + ")"
            for index in unique
        )
        clauses = f" FROM {quoted(table.table)} AS {row} WHERE ({matches})"
        names = dict.fromkeys(name for index in unique for name, _ in index)
        # No statement names a generated column.
        watched = "" if names.keys() & generated else f" OF {', '.join(map(quoted, names))}"
        other = f" AND {row}.{quoted(table.pk)} IS NOT OLD.{quoted(table.pk)}" if table.pk else ""
        found += [
            trigger("replace_insert", "BEFORE INSERT", line("D", olds, [row], clauses)),
            trigger("replace_update", f"BEFORE UPDATE{watched}", line("D", olds, [row], clauses + other)),
        ]
    return found
