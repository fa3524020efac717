"""Triggers of MariaDB and MySQL: one line for each row, as these databases have no triggers of statements.

A trigger runs as its definer, so writers need no privilege on the change table. It does not fire for rows that a
foreign key deletes or changes: triggers of the parents name these, see ``cascades``. TRUNCATE fires none either. It
gives the table another number, which the relay looks at in each drain.

A column or table that a trigger names may be renamed or dropped later. The trigger catches the error, because a user's
write must not fail, and its line names the whole table. So it is until the triggers are made anew.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.triggers.cascades import CascadeLine, ForeignKeyRow, TableName, cascade_lines
from aiomodelcache.relay.triggers.definitions import (
    CHANGES,
    COVERAGE,
    INSTALL,
    NAME_PREFIX,
    TABLE_STATE,
    CatalogueRows,
    Definition,
    backquoted,
    is_denied,
    literal,
    select,
    tag,
)

EXACT_TYPES: Final = frozenset(
    [
        *("tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double", "year"),
        *("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "uuid"),
        *("date", "datetime", "time"),
    ]
)
"""The types of columns whose values lines hold exactly. A line of a table with another one names the whole table."""

_COLUMNS: Final = """
    SELECT c.table_schema AS db, c.table_name AS tab, c.column_name AS name, c.data_type AS type, t.engine AS engine
    FROM information_schema.columns c JOIN information_schema.tables t
    ON t.table_schema = c.table_schema AND t.table_name = c.table_name
    WHERE t.table_type = 'BASE TABLE' AND ({})
"""
_FOREIGN_KEYS: Final = """
    SELECT k.table_schema AS db, k.table_name AS tab, k.constraint_name AS name, k.column_name AS col,
        k.referenced_table_schema AS parent_db, k.referenced_table_name AS parent,
        k.referenced_column_name AS parent_col, r.delete_rule AS on_delete, r.update_rule AS on_update
    FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r
    ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name
        AND r.table_name = k.table_name
    WHERE k.referenced_table_name IS NOT NULL AND k.table_schema NOT IN ('mysql', 'sys')
    ORDER BY k.table_schema, k.table_name, k.constraint_name, k.ordinal_position
"""
_TRIGGERS: Final = f"""
    SELECT event_object_schema AS db, event_object_table AS tab, trigger_name AS name,
        SHA2(action_statement, 256) AS state
    FROM information_schema.triggers WHERE trigger_name LIKE '{NAME_PREFIX.replace("_", "!_")}%' ESCAPE '!'
"""
_OWN_TABLES: Final = (
    "SELECT table_name AS name, table_comment AS state FROM information_schema.tables WHERE table_schema = DATABASE() "
    f"AND table_name IN ('{CHANGES}', '{COVERAGE}')"
)
_EVENTS: Final = {"insert": "I", "update": "U", "delete": "D"}

_GONE: Final = "1054, 1146"
"""The errors of columns and tables that are gone. Others are not caught, as they may have ended the transaction."""
_UNTRUSTED: Final = 1419
"""The error of a trigger that a user without the privilege SUPER creates on a server with a binary log."""
_TRUST: Final = ": run SET GLOBAL log_bin_trust_function_creators = 1 before, as a user who may."

_MODE: Final = "NO_ENGINE_SUBSTITUTION"
"""The mode of triggers, which keep that of the session that creates them. In a strict mode, conversions fail."""
SET_MODE: Final = ("SET @aiomodelcache_mode = @@SESSION.sql_mode", f"SET SESSION sql_mode = {literal(_MODE)}")
RESET_MODE: Final = ("SET SESSION sql_mode = @aiomodelcache_mode",)
"""The first and the last statements around those that create triggers, in a session of another program."""


class MySQLTriggers:
    """The triggers of MariaDB and MySQL."""

    coverage = COVERAGE
    missing = "no triggers are installed"
    remedy = INSTALL

    async def wanted(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Definition]:
        """Returns the objects that capture the tables' writes. Raises ``RelayError``."""
        database = await Database.of_connection(client)
        types = await column_types(client, database, tables)
        changes = backquoted(database.name, CHANGES)
        found = _own_tables(changes, backquoted(database.name, COVERAGE))
        captured: dict[TableName, CapturedTable] = {}
        for table in tables:
            place = database.place(table)
            captured[place] = table
            values = {row: _values(table, types[place], row) for row in ("OLD", "NEW")}
            for event, letter in _EVENTS.items():
                old = values["OLD"] if letter != "I" else "NULL"
                new = values["NEW"] if letter != "D" else "NULL"
                line = f"INSERT INTO {changes} (source, op, old, new) "
                line += f"VALUES ({_text(table.name)}, '{letter}', {old}, {new})"
                body = _never_failing(changes, table.name, line)
                found.append(_trigger(database, place, event, "AFTER", body, table.name))
        lines: dict[tuple[TableName, str], list[str]] = defaultdict(list)
        for each in cascade_lines(await _foreign_keys(client), captured):
            lines[each.parent, each.event].append(_cascade(changes, each, captured, types))
        for (parent, event), statements in sorted(lines.items()):
            body = f"BEGIN {'; '.join(statements)}; END"
            found.append(_trigger(database, parent, event, "BEFORE", body, ".".join(parent)))
        return found

    async def installed(self, client: BaseDBAsyncClient) -> dict[tuple[str, str], str]:
        """Returns the state of each installed object of the connection's database."""
        triggers = await select(client, _TRIGGERS)
        mark = (await Database.of_connection(client)).mark
        found = {
            (backquoted(str(row["db"]), str(row["tab"])), str(row["name"])): str(row["state"])
            for row in triggers
            if str(row["name"]).endswith(mark)
        }
        return found | {("", str(row["name"])): str(row["state"]) for row in await select(client, _OWN_TABLES)}

    async def check_visible(self, client: BaseDBAsyncClient, triggers: Sequence[Definition]) -> None:
        """Raises ``RelayError`` if triggers seem to be missing or changed because this user may not see them."""
        for each in triggers:
            database = each.on.partition("`.`")[0] + "`"
            try:
                await select(client, f"SHOW CREATE TRIGGER {database}.{backquoted(each.name)}")
            except OperationalError as error:
                if is_denied(error):
                    raise RelayError(
                        f"{client.connection_name}: the triggers on {each.on} cannot be seen by this user: GRANT "
                        f"TRIGGER ON {each.on} TO it, or use another one."
                    ) from error

    def drop(self, place: tuple[str, str]) -> str:
        """Returns the statement that drops an installed object."""
        on, name = place
        if not on:
            return f"DROP TABLE IF EXISTS {backquoted(name)}"
        return f"DROP TRIGGER IF EXISTS {on.partition('`.`')[0]}`.{backquoted(name)}"

    async def run(self, client: BaseDBAsyncClient, statements: Sequence[str]) -> None:
        """Runs the statements one by one on one connection. Each of them commits. Raises ``RelayError``."""
        pool: Any = client
        async with pool.acquire_connection() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT @@SESSION.sql_mode, @@SESSION.sql_notes")
            [[mode, notes]] = await cursor.fetchall()
            await cursor.execute(f"SET SESSION sql_mode = {literal(_MODE)}, sql_notes = 0")
            try:
                for statement in statements:
                    await cursor.execute(statement)
            except Exception as error:  # of the driver
                remedy = _TRUST if error.args[:1] == (_UNTRUSTED,) else ""
                raise RelayError(f"{client.connection_name}: {error}{remedy}") from error
            finally:
                # Not by the cursor, which would pass on what MySQL thinks of Tortoise's mode.
                await connection.query(f"SET SESSION sql_mode = {literal(mode)}, sql_notes = {notes}")


class Database(NamedTuple):
    """The connection's database."""

    name: str
    folds: bool
    """True if the server spells all names of tables in lower case."""

    @classmethod
    async def of_connection(cls, client: BaseDBAsyncClient) -> "Database":
        """Returns the database of a connection."""
        [row] = await select(client, "SELECT DATABASE() AS db, @@lower_case_table_names AS folds")
        return cls(str(row["db"]), int(row["folds"]) == 1)

    def place(self, table: CapturedTable) -> TableName:
        """Returns the database and the name of a captured table."""
        place = table.schema or self.name, table.table
        return (place[0].lower(), place[1].lower()) if self.folds else place

    @property
    def mark(self) -> str:
        """The end of the names of triggers that write into this database's change table."""
        return f"_{tag(self.name)}"


async def column_types(
    client: BaseDBAsyncClient, database: Database, tables: Sequence[CapturedTable]
) -> dict[TableName, dict[str, str]]:
    """Returns the types of the captured tables' columns. Raises ``RelayError`` for a table that cannot be captured."""
    places = map(database.place, tables)
    conditions = [f"(c.table_schema = {literal(db)} AND c.table_name = {literal(name)})" for db, name in places]
    rows = await select(client, _COLUMNS.format(" OR ".join(conditions)))
    found: dict[TableName, dict[str, str]] = defaultdict(dict)
    engines: dict[TableName, str] = {}
    for row in rows:
        place = str(row["db"]), str(row["tab"])
        found[place][str(row["name"])] = str(row["type"]).lower()
        engines[place] = str(row["engine"])
    for table in tables:
        place = database.place(table)
        if place not in found:
            raise RelayError(f"{table.name} does not exist, or is a view: create the table before its triggers.")
        if engines[place].lower() != "innodb":
            raise RelayError(
                f"{table.name} is a table of {engines[place]}, whose writes survive a rollback that removes their "
                f"lines: ALTER TABLE {backquoted(table.schema, table.table)} ENGINE = InnoDB."
            )
        missing = set(table.columns) - set(found[place])
        if missing:
            raise RelayError(f"{table.name} has no column {sorted(missing)[0]}: migrate the table before its triggers.")
    return found


def is_exact(table: CapturedTable, types: Mapping[str, str]) -> bool:
    """Returns True if lines can hold the values of all captured columns exactly."""
    return all(types[column] in EXACT_TYPES for column in table.columns)


def _own_tables(changes: str, coverage: str) -> list[Definition]:
    columns = (
        "(id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, source VARCHAR(200) NOT NULL, op CHAR(1) NOT NULL, "
        "old LONGTEXT, new LONGTEXT, written TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)) "
        "DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )
    tables = (
        (CHANGES, changes, columns),
        (COVERAGE, coverage, "(id TINYINT NOT NULL DEFAULT 1 PRIMARY KEY, captured TEXT, owner CHAR(64))"),
    )
    settings = f"ENGINE = InnoDB COMMENT = {literal(TABLE_STATE)}"
    return [
        Definition("table", "", name, TABLE_STATE, (f"CREATE TABLE IF NOT EXISTS {place} {columns} {settings}",))
        for name, place, columns in tables
    ]


def _trigger(database: Database, place: TableName, event: str, when: str, body: str, source: str) -> Definition:
    on = backquoted(*place)
    name = f"{NAME_PREFIX}{tag('.'.join(place))}_{'cascade_' * (when == 'BEFORE')}{event}{database.mark}"
    drop = f"DROP TRIGGER IF EXISTS {backquoted(place[0], name)}"
    create = f"CREATE TRIGGER {backquoted(place[0], name)} {when} {event.upper()} ON {on} FOR EACH ROW {body}"
    state = hashlib.sha256(body.encode()).hexdigest()  # as SHA2, because MySQL 9.6 and later have no MD5
    return Definition("trigger", on, name, state, (drop, create), source)


def _never_failing(changes: str, source: str, line: str) -> str:
    """Returns the block that writes a line, or one that names the whole table if a column or table is gone."""
    whole = f"INSERT INTO {changes} (source, op) VALUES ({_text(source)}, 'A')"
    return f"BEGIN DECLARE EXIT HANDLER FOR {_GONE} {whole}; {line}; END"


def _text(text: str) -> str:
    """Returns a text for the body of a trigger, which MySQL would keep with a quote in another spelling."""
    return f"CONVERT(0x{text.encode().hex()} USING utf8mb4)" if "'" in text else literal(text)


def _values(table: CapturedTable, types: Mapping[str, str], row: str, nulls: Sequence[str] = ()) -> str:
    """Returns the expression for the captured values of a row; NULL if they cannot be exact."""
    if not is_exact(table, types):
        return "NULL"
    return f"JSON_ARRAY({', '.join(_value(column, types, row, nulls) for column in table.columns)})"


def _value(column: str, types: Mapping[str, str], row: str, nulls: Sequence[str]) -> str:
    name = f"{row}.{backquoted(column)}"
    if column in nulls:
        return "NULL"
    # Other types become texts, because JSON of MariaDB has neither dates nor decimals.
    return name if types[column].endswith("int") else f"CAST({name} AS CHAR CHARACTER SET utf8mb4)"


def _cascade(
    changes: str,
    line: CascadeLine,
    captured: Mapping[TableName, CapturedTable],
    types: Mapping[TableName, Mapping[str, str]],
) -> str:
    """Returns the block that writes the lines of a captured table whose rows a change of a parent changes."""
    table = captured[line.child]
    source = _text(table.name)
    old = _values(table, types[line.child], line.alias)
    if line.whole or not is_exact(table, types[line.child]):
        selected = f"'A', NULL, NULL FROM DUAL WHERE EXISTS (SELECT 1 {line.rows})"
    elif line.nulled:
        new = _values(table, types[line.child], line.alias, line.nulled)
        selected = f"'U', {old}, {new} {line.rows}"
    else:
        selected = f"'D', {old}, NULL {line.rows}"
    insert = f"INSERT INTO {changes} (source, op, old, new) SELECT {source}, {selected}"
    return _never_failing(changes, table.name, insert)


async def _foreign_keys(client: BaseDBAsyncClient) -> list[ForeignKeyRow]:
    rows: CatalogueRows = await select(client, _FOREIGN_KEYS)
    found: dict[tuple[str, str, str], ForeignKeyRow] = {}
    for row in rows:
        child = str(row["db"]), str(row["tab"])
        parent = str(row["parent_db"]), str(row["parent"])
        key = found.setdefault(
            (*child, str(row["name"])),
            ForeignKeyRow(child, parent, [], [], str(row["on_delete"]).upper(), str(row["on_update"]).upper()),
        )
        cast("list[str]", key.columns).append(str(row["col"]))
        cast("list[str]", key.parent_columns).append(str(row["parent_col"]))
    return list(found.values())
