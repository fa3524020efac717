"""Lines of PostgreSQL's change table. The database itself turns their values back into those of the columns.

Lines are found from a watermark on, so that those that vacuum cannot remove yet are not passed again in each drain. The
watermark is the oldest transaction that was in progress when lines were last read, and nothing was left. Every later
line is of this transaction or a younger one.
"""

import asyncio
import importlib
import inspect
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from contextlib import suppress
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.lines import ALWAYS, MAX_READ_ROWS, Line, Pairs, delete_lines, paired, poll
from aiomodelcache.relay.triggers.definitions import CHANGES, COVERAGE, NAME_PREFIX, CatalogueRows, literal, select
from aiomodelcache.relay.triggers.postgres import CHANNEL, MAX_COLUMNS, relation_name

NOTIFIED_INTERVAL: Final = 0.2
"""Seconds between two looks at the change table while notifications arrive: not every transaction notifies."""
LISTEN_AGAIN: Final = 5.0
"""Seconds until a connection for notifications is tried again that could not be opened."""

CAPTURED: Final = """
    WITH RECURSIVE captured (relation) AS (
        SELECT pg_catalog.to_regclass(name)::oid FROM (VALUES {}) wanted (name)
      UNION
        SELECT inhrelid FROM captured JOIN pg_catalog.pg_inherits ON inhparent = relation
    )
"""
"""The captured tables, with their partitions and children."""
SHAPE: Final = """
        extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
        (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
        (SELECT string_agg(concat_ws(' ', oid, relfilenode, relkind, relpersistence, relreplident), ',' ORDER BY oid)
            FROM pg_catalog.pg_class JOIN captured ON oid = relation),
        (SELECT string_agg(concat_ws(' ', inhparent, inhrelid, i.xmin), ',' ORDER BY inhparent, inhrelid)
            FROM pg_catalog.pg_inherits i JOIN captured ON inhparent = relation),
        (SELECT string_agg(concat_ws(' ', d.oid, d.xmin), ',' ORDER BY d.oid)
            FROM pg_catalog.pg_attrdef d JOIN captured ON adrelid = relation),
        (SELECT string_agg(concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod), ','
                ORDER BY attrelid, attnum)
            FROM pg_catalog.pg_attribute JOIN captured ON attrelid = relation WHERE attnum > 0 AND NOT attisdropped)
"""
"""The server's run, the database, and the shape of the captured tables."""
_GUARD: Final = f"""{CAPTURED}
    SELECT pg_catalog.pg_is_in_recovery() AS recovers, pg_catalog.md5(pg_catalog.concat_ws('|', {SHAPE},
        (SELECT string_agg(concat_ws(' ', captured, owner), ' ') FROM {COVERAGE}),
        (SELECT string_agg(concat_ws(' ', t.oid, t.xmin, tgenabled), ',' ORDER BY t.oid)
            FROM pg_catalog.pg_trigger t JOIN captured ON tgrelid = relation WHERE tgname LIKE '{NAME_PREFIX}%'),
        (SELECT string_agg(concat_ws(' ', p.oid, p.xmin), ',' ORDER BY p.oid) FROM pg_catalog.pg_proc p
            WHERE proname LIKE '{NAME_PREFIX}%' AND pronamespace = pg_catalog.to_regnamespace(current_schema()))
    )) AS guard
"""
_LINES: Final = f"""
    SELECT horizon, line.* FROM (
        SELECT pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) AS horizon
    ) now LEFT JOIN LATERAL (
        SELECT id, xid, source, size, extract(epoch FROM pg_catalog.clock_timestamp() - written) AS age FROM {CHANGES}
        WHERE xid >= {{0}} ORDER BY xid, id LIMIT {{1}}
    ) line ON true ORDER BY xid, id
"""
_WANTED: Final = "unnest({0}::bigint[], {1}::bigint[]) AS wanted (wanted_xid, wanted_id)"
_DELETE: Final = f"DELETE FROM {CHANGES} USING {_WANTED} WHERE xid = wanted_xid AND id = wanted_id AND {{2}}"
_HALF: Final = f"""
    SELECT id, {{is_old}} AS is_old, {{values}}
    FROM wanted JOIN {CHANGES} ON xid = wanted_xid AND id = wanted_id, LATERAL jsonb_array_elements({{half}}) item
"""
_TYPES: Final = """
    SELECT attname::text AS name, pg_catalog.format_type(atttypid, atttypmod) AS type FROM pg_catalog.pg_attribute
    WHERE attrelid = pg_catalog.to_regclass({})::oid AND attnum > 0 AND NOT attisdropped
"""


class PostgresLines:
    """The change table of a PostgreSQL database."""

    position: tuple[int, str] | None = None

    def __init__(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        self._client: Any = client
        self._marks = placeholders(client)
        """The driver's placeholders of two parameters."""
        self._relations = [*map(relation_name, tables), CHANGES]
        self._tables = {table.name: table for table in tables}
        self._listener = _Listener(client)
        self._watermark = 0
        self._next_watermark = 0
        self._xids: dict[int, int] = {}
        """The transactions of the lines that were last read and are not deleted, by the lines' ids."""
        self._values: dict[str, str | None] = {}
        """The expressions for a table's values, by its name. None: its lines cannot be read exactly."""

    async def guard(self) -> Hashable:
        """Returns what identifies the server's run and the catalogue. Raises ``RelayError`` for a replica."""
        names = ", ".join(f"({literal(relation)})" for relation in self._relations)
        [row] = await select(self._client, _GUARD.format(names))
        if row["recovers"]:
            raise RelayError(
                f"{self._client.connection_name}: the database is a replica or recovers, so lines cannot be deleted: "
                "connect the relay to the primary."
            )
        return str(row["guard"])

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Forgets the watermark and the types of columns."""
        self._tables = {table.name: table for table in tables}
        self._watermark = 0
        self._values.clear()

    async def read(self, limit: int, *, whole: bool = False) -> list[Line]:
        """Returns up to ``limit`` lines, by transaction. With ``whole``, each names its whole table."""
        self._listener.clear()
        rows = await select(self._client, _LINES.format(*self._marks), [self._watermark, limit])
        horizon = int(rows[0]["horizon"])
        rows = [row for row in rows if row["id"] is not None]
        self._xids = {int(row["id"]): int(row["xid"]) for row in rows}
        self._next_watermark = min(horizon, int(rows[-1]["xid"])) if len(rows) == limit else horizon
        if not rows:
            self._watermark = self._next_watermark
        by_source: defaultdict[str, list[int]] = defaultdict(list)
        left = -1 if whole else MAX_READ_ROWS
        for row in rows:
            left -= int(row["size"] or 0)
            if row["size"] is not None and left >= 0:
                by_source[str(row["source"])].append(int(row["id"]))
        pairs: dict[int, Pairs] = {}
        for source, ids in by_source.items():
            pairs |= await self._pairs(source, ids)
        ids = [int(row["id"]) for row in rows]
        return [
            Line(each, str(row["source"]), pairs.get(each), float(row["age"]))
            for each, row in zip(ids, rows, strict=True)
        ]

    async def delete(self, ids: Sequence[int], condition: str = ALWAYS) -> None:
        """Deletes lines. The watermark moves on when none of those that were last read is left."""
        known = [each for each in ids if each in self._xids]
        if known:
            await self._client.execute_query(_DELETE.format(*self._marks, condition), self._wanted(known))
        other = [each for each in ids if each not in self._xids]
        if other:  # read by another source, or before the last read
            await delete_lines(self._client, other, condition)
        for each in known:
            del self._xids[each]
        if not self._xids:
            self._watermark = self._next_watermark

    async def wait(self, timeout: float) -> None:
        """Waits for a notification, or until the next poll is due."""
        if not await self._listener.wait(timeout):
            await poll(self._has_lines, timeout)

    async def close(self) -> None:
        """Closes the connection that listens."""
        await self._listener.close()

    async def _has_lines(self) -> bool:
        statement = f"SELECT 1 AS found FROM {CHANGES} WHERE xid >= {self._marks[0]} LIMIT 1"
        return bool(await select(self._client, statement, [self._watermark]))

    async def _pairs(self, source: str, ids: Collection[int]) -> dict[int, Pairs]:
        """Returns the values of a table's lines. Those that cannot be read exactly are left out."""
        table = self._tables.get(source)
        values = None if table is None else await self._expressions(table)
        if table is None or values is None:
            return {}
        olds = _HALF.format(is_old="true", half="old", values=values)
        news = _HALF.format(is_old="false", half="new", values=values)
        statement = f"WITH wanted AS (SELECT * FROM {_WANTED.format(*self._marks)}) {olds} UNION ALL {news}"
        try:
            rows = await select(self._client, statement, self._wanted(ids))
        except BaseORMException:  # a value that its column does not take any more
            return {}
        return _joined(table, ids, rows)

    async def _expressions(self, table: CapturedTable) -> str | None:
        if table.name not in self._values:
            is_exact = len(table.columns) <= MAX_COLUMNS
            self._values[table.name] = await cast_values(self._client, table) if is_exact else None
        return self._values[table.name]

    def _wanted(self, ids: Collection[int]) -> list[Any]:
        """Returns the transactions and the ids of lines, as parameters."""
        return [[self._xids[each] for each in ids], list(ids)]


def placeholders(client: BaseDBAsyncClient) -> tuple[str, str]:
    """Returns the driver's placeholders of two parameters."""
    is_asyncpg = type(client).__module__.startswith("tortoise.backends.asyncpg")
    return ("$1", "$2") if is_asyncpg else ("%s", "%s")


async def cast_values(client: BaseDBAsyncClient, table: CapturedTable) -> str | None:
    """Returns the expressions that turn texts in the JSON array ``item`` into the values of a table's captured columns.

    None if a column is missing.
    """
    rows = await select(client, _TYPES.format(literal(relation_name(table))))
    types = {str(row["name"]): str(row["type"]) for row in rows}
    if not types.keys() >= set(table.columns):
        return None
    return ", ".join(f"(item ->> {at})::{types[column]} AS c{at}" for at, column in enumerate(table.columns))


def _joined(table: CapturedTable, ids: Collection[int], rows: CatalogueRows) -> dict[int, Pairs]:
    """Returns the rows of each line."""
    width = range(len(table.columns))
    pk = table.columns.index(table.pk) if table.pk else None
    halves: dict[int, tuple[list[list[Any]], list[list[Any]]]] = {each: ([], []) for each in ids}
    for row in rows:
        halves[int(row["id"])][0 if row["is_old"] else 1].append([row[f"c{at}"] for at in width])
    # A line without rows has been deleted by another relay meanwhile.
    return {each: paired(olds, news, pk) for each, (olds, news) in halves.items()}


class _Listener:
    """A connection of its own that waits for notifications, where the driver is asyncpg."""

    def __init__(self, client: BaseDBAsyncClient) -> None:
        self._client: Any = client
        self._connection: Any = None
        self._notified = asyncio.Event()
        self._retry_at = 0.0

    def clear(self) -> None:
        """Forgets the notifications of lines that are about to be read."""
        self._notified.clear()

    async def wait(self, timeout: float) -> bool:
        """Waits for a notification, or until the next look is due. Returns False if there is no connection."""
        await self._listen()
        if self._connection is None:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, NOTIFIED_INTERVAL)):
                await self._notified.wait()
        return True

    async def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _listen(self) -> None:
        if self._connection is not None and self._connection.is_closed():
            self._connection = None
        now = asyncio.get_running_loop().time()
        if self._connection is not None or now < self._retry_at or not hasattr(self._client, "server_settings"):
            return
        self._retry_at = now + LISTEN_AGAIN
        if not type(self._client).__module__.startswith("tortoise.backends.asyncpg"):
            return
        driver: Any = importlib.import_module("asyncpg")
        known = inspect.signature(driver.connect).parameters
        settings = {name: value for name, value in self._client._template.items() if name in known}
        with suppress(OSError, TimeoutError, driver.PostgresError, driver.InterfaceError):
            connection = await driver.connect(password=self._client.password, **settings)
            try:
                await connection.add_listener(CHANNEL, self._on_notification)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection

    def _on_notification(self, *_: object) -> None:
        self._notified.set()
