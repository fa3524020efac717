"""Lines of the change table of MariaDB and MySQL. Their values are texts, read as the driver reads the columns."""

import datetime
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.lines import DriverValues, Line, Pairs, PolledLines
from aiomodelcache.relay.triggers.definitions import CHANGES, COVERAGE, NAME_PREFIX, literal, select
from aiomodelcache.relay.triggers.mysql import Database, column_types, is_exact

RESTART_TOLERANCE: Final = 2
"""Seconds by which the start of the same run of a server may appear to differ, as it is told in whole seconds."""

_Reader = Callable[[Any], Any]
_TIME: Final = re.compile(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?")
_SERVER: Final = """
    SELECT VERSION() AS version, @@global.read_only AS is_read_only, @@hostname AS host, @@port AS port,
        @@server_id AS id, UNIX_TIMESTAMP() AS now
"""
_GUARD: Final = """
    SELECT 'coverage' AS kind, '' AS name, CONCAT_WS(' ', captured, owner) AS state FROM {coverage}
  UNION ALL
    SELECT 'trigger', CONCAT(event_object_table, '.', trigger_name), CONCAT(created, SHA2(action_statement, 256))
    FROM information_schema.triggers WHERE ({triggers})
  UNION ALL
    SELECT 'key', CONCAT(table_name, '.', constraint_name), CONCAT(referenced_table_name, delete_rule, update_rule)
    FROM information_schema.referential_constraints WHERE constraint_schema IN ({databases})
  UNION ALL
    SELECT 'column', CONCAT(table_name, '.', column_name), CONCAT_WS(' AS ', column_type, generation_expression)
    FROM information_schema.columns WHERE ({columns})
  UNION ALL
    SELECT 'table', CONCAT(CAST(table_id AS CHAR), ''), name FROM information_schema.{innodb} WHERE ({names})
"""
_ENCODED: Final = re.compile("[^0-9A-Za-z_]")
"""Characters that InnoDB spells by an ``@`` and some more in the names of tables, as in those of files."""


class MySQLLines(PolledLines):
    """The change table of a MariaDB or MySQL database."""

    position: tuple[int, str] | None = None

    def __init__(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        super().__init__(client, "TIMESTAMPDIFF(MICROSECOND, written, CURRENT_TIMESTAMP(3)) / 1000000")
        self._all = tables
        self._tables = {table.name: table for table in tables}
        self._types: dict[str, Mapping[str, str]] | None = None
        """The types of columns by table. None: not read yet."""
        self._database: Database | None = None
        self._started = 0

    async def guard(self) -> Hashable:
        """Returns what identifies the server's run, the triggers, the columns and InnoDB's tables.

        Raises ``RelayError`` for a replica, and if the numbers of tables cannot be read.
        """
        [server] = await select(self._client, _SERVER)
        if int(server["is_read_only"]):
            raise RelayError(
                f"{self._client.connection_name}: the database is read-only, like a replica, so lines cannot be "
                "deleted: connect the relay to the primary."
            )
        [uptime] = await select(self._client, "SHOW GLOBAL STATUS LIKE 'Uptime'")
        started = int(server["now"]) - int(uptime["Value"])
        if abs(started - self._started) > RESTART_TOLERANCE:
            self._started = started
        rows = await self._catalogue(str(server["version"]))
        run = str(server["host"]), int(server["port"]), int(server["id"]), self._started
        return run, tuple(sorted((str(row["kind"]), str(row["name"]), str(row["state"])) for row in rows))

    async def _catalogue(self, version: str) -> Any:
        database = await self._own_database()
        places = [database.place(table) for table in self._all]
        innodb = "INNODB_SYS_TABLES" if "mariadb" in version.lower() else "INNODB_TABLES"
        stored = [*places, (database.name, CHANGES)]
        names = [f"{_pattern(db)}/{_pattern(name)}" for db, name in stored]
        matches = [f"name LIKE {literal(each + end)} ESCAPE '!'" for each in names for end in ("", "#%")]
        statement = _GUARD.format(
            coverage=COVERAGE,
            triggers=" OR ".join(
                f"event_object_schema = {literal(db)} AND event_object_table = {literal(name)} "
                f"AND trigger_name LIKE {literal(NAME_PREFIX + '%')}"
                for db, name in places
            ),
            columns=" OR ".join(
                f"table_schema = {literal(db)} AND table_name = {literal(name)}" for db, name in places
            ),
            databases=", ".join({literal(db) for db, _ in places}),
            innodb=innodb,
            names=" OR ".join(matches),
        )
        try:
            return await select(self._client, statement)
        except OperationalError as error:
            if "PROCESS" not in str(error):
                raise
            raise RelayError(
                f"{self._client.connection_name}: a TRUNCATE is seen by the number of its table, which this user may "
                "not read: GRANT PROCESS ON *.* TO the relay's user."
            ) from error

    async def _own_database(self) -> Database:
        if self._database is None:
            self._database = await Database.of_connection(self._client)
        return self._database

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Forgets the types of columns."""
        self._tables = {table.name: table for table in tables}
        self._types = None

    async def read(self, limit: int, *, whole: bool = False) -> list[Line]:
        """Returns up to ``limit`` lines, by number. With ``whole``, each names its whole table."""
        rows = await self.rows(limit, whole=whole)
        if self._types is None and not whole and any(row["op"] != "A" for row in rows):
            self._types = await self._read_types()
        return [
            Line(int(row["id"]), str(row["source"]), None if whole else self._pairs(row), float(row["age"]))
            for row in rows
        ]

    async def _read_types(self) -> dict[str, Mapping[str, str]]:
        database, tables = await self._own_database(), [*self._tables.values()]
        try:
            types = await column_types(self._client, database, tables)
        except RelayError:  # one that is not relayed is gone, so its lines name it as a whole
            tables = [*self._all]
            types = await column_types(self._client, database, tables)
        return {table.name: types[database.place(table)] for table in tables}

    def _pairs(self, row: Mapping[str, Any]) -> Pairs | None:
        table = self._tables.get(str(row["source"]))
        types = {} if self._types is None else self._types
        if table is None or table.name not in types or not is_exact(table, types[table.name]):
            return None
        op = str(row["op"])
        needed = [name for name, ops in (("old", "UD"), ("new", "UI")) if op in ops]
        if not needed or any(row[name] is None for name in needed):
            return None
        try:
            old, new = [_values(table, types[table.name], row[name]) for name in ("old", "new")]
        except (ValueError, ArithmeticError, TypeError):
            return None
        return [(old, new)]


def _pattern(name: str) -> str:
    """Returns the pattern of a name as InnoDB spells it. It may match further names, which does no harm.

    MySQL itself has no function that spells names in this way.
    """
    return _ENCODED.sub("@%", name).replace("_", "!_")


def _values(table: CapturedTable, types: Mapping[str, str], text: str | None) -> DriverValues | None:
    """Returns the values of a row as the driver would. Raises ``ValueError``."""
    if text is None:
        return None
    values: list[Any] = json.loads(text)
    readers: list[_Reader] = [_READERS.get(types[column], _text) for column in table.columns]
    return [None if value is None else read(value) for read, value in zip(readers, values, strict=True)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _time(value: str) -> datetime.timedelta:
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(value)
    sign, hours, minutes, seconds, fraction = match.groups(default="")
    span = datetime.timedelta(
        hours=int(hours), minutes=int(minutes), seconds=int(seconds), microseconds=int(fraction.ljust(6, "0"))
    )
    return -span if sign else span


_READERS: Final[dict[str, _Reader]] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "year"), int),
    **dict.fromkeys(("float", "double"), float),
    "decimal": Decimal,
    "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "time": _time,
}
"""The functions that read a value's text as the driver does, by type. Other types are texts."""
