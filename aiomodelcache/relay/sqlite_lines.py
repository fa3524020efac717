"""Lines of SQLite's change table, which hold the values as the captured columns do."""

import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding.layout import new_token
from aiomodelcache.orm.transactions import transaction
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.lines import ALWAYS, Line, Pairs, PolledLines, delete_lines
from aiomodelcache.relay.triggers.definitions import CHANGES, COVERAGE, select
from aiomodelcache.relay.triggers.sqlite import new_columns, old_columns


class SQLiteLines(PolledLines):
    """The change table of a SQLite database."""

    def __init__(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        super().__init__(client, "(julianday('now') - written) * 86400")
        self._tables = {table.name: table for table in tables}
        self.position: tuple[int, str] | None = None

    async def guard(self) -> Hashable:
        """Returns what identifies the file, its schema and the installed coverage.

        A copy that is written into the same file has the same. It is known by its ``position``.
        """
        [version] = await select(self._client, "PRAGMA schema_version")
        number = f"(SELECT total(seq) FROM sqlite_sequence WHERE name = '{CHANGES}')"
        coverage = await select(self._client, f"SELECT captured, owner, drained, {number} AS number FROM {COVERAGE}")
        self.position = (int(coverage[0]["number"]), str(coverage[0]["drained"])) if coverage else None
        client: Any = self._client
        file: tuple[int, ...] = ()
        with suppress(OSError):  # a database in memory
            found = os.stat(client.filename)
            file = found.st_dev, found.st_ino
        return file, int(version["schema_version"]), *[(str(row["captured"]), str(row["owner"])) for row in coverage]

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Reads the lines of these tables from now on."""
        self._tables = {table.name: table for table in tables}

    async def read(self, limit: int, *, whole: bool = False) -> list[Line]:
        """Returns up to ``limit`` lines, by number. With ``whole``, each names its whole table."""
        rows = await self.rows(limit, whole=whole)
        return [
            Line(int(row["id"]), str(row["source"]), None if whole else self._pairs(row), float(row["age"]))
            for row in rows
        ]

    async def delete(self, ids: Sequence[int], condition: str = ALWAYS) -> None:
        """Deletes lines in one short transaction. With a condition, replaces the mark if it holds."""
        if condition == ALWAYS:
            return await super().delete(ids)
        mark = new_token().hex()
        own: Any
        async with transaction(self._client) as own:
            await delete_lines(own, ids, condition)
            held, _ = await own.execute_query(f"UPDATE {COVERAGE} SET drained = '{mark}' WHERE {condition}")
        if held and self.position is not None:
            self.position = self.position[0], mark

    def _pairs(self, row: Mapping[str, Any]) -> Pairs | None:
        table = self._tables.get(str(row["source"]))
        if table is None or row["op"] == "A":
            return None
        number = len(table.columns)
        old = [row[name] for name in old_columns(number)] if row["op"] in "UD" else None
        new = [row[name] for name in new_columns(number)] if row["op"] in "UI" else None
        return [(old, new)]
