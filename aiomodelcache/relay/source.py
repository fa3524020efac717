"""The changes of other programs: what a relay drains, one source for each connection.

``TriggerSource`` reads the change table that triggers fill, and ``StreamSource`` what PostgreSQL decodes of its WAL.
Both turn lines into rows by attribute, with the very values that a queryset's ``values()`` returns. A line that cannot
be turned exactly stands for the whole table.
"""

from collections.abc import Callable, Hashable, Sequence
from time import time
from typing import Any, Final, NamedTuple, Protocol

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import RowValues, column_attribute, value_converters
from aiomodelcache.relay.captured import CapturedTable, further_tables
from aiomodelcache.relay.lines import ALWAYS, DriverValues, Line, Pairs
from aiomodelcache.relay.mysql_lines import MySQLLines
from aiomodelcache.relay.postgres_lines import PostgresLines
from aiomodelcache.relay.sqlite_lines import SQLiteLines
from aiomodelcache.relay.stream.lines import StreamLines
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.triggers.definitions import CHANGES, Dialect, literal, select
from aiomodelcache.relay.triggers.installation import check_installation, dialect_of

MAX_KEPT: Final = 50_000
"""Maximum number of lines that wait for a relay, as their values are not read beyond it. Then they are trimmed."""
TRIMMED_AT_ONCE: Final = 10_000
"""Maximum number of lines that one statement of ``trim`` deletes."""

ChangedRows = Sequence[tuple[RowValues | None, RowValues | None]]


class Change(NamedTuple):
    """A write of another program, or of this one: all rows of one table that a statement or a trigger has named."""

    id: int
    """Identifies the line for ``Source.delete``."""
    table: CapturedTable
    rows: ChangedRows | None
    """The old and the new values of each row; None for a row that is new or gone. None: everything of the table.

    Values are by attribute of the table's first model, or by column for a through table. An update that changes primary
    keys appears as rows that are gone and rows that are new.
    """


class Lines(Protocol):
    """The change table of one database, or the like of it, as drivers return it."""

    position: tuple[int, str] | None
    """The number of lines so far, as ``guard`` has found it, and a mark that a ``delete`` with a condition replaces.

    An older copy of the database has a smaller number or another mark. None if ``guard`` tells copies apart, and before
    it is called.
    """

    async def guard(self) -> Hashable:
        """Returns a value that changes if the database may have changed rows without a line. Raises ``RelayError``."""
        ...

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Forgets what was learned of the catalogue and of the lines that are gone. Lines of these tables are read."""
        ...

    async def read(self, limit: int, *, whole: bool = False) -> list[Line]:
        """Returns up to ``limit`` lines. With ``whole``, without rows, so that each names its whole table."""
        ...

    async def delete(self, ids: Sequence[int], condition: str = ALWAYS) -> None:
        """Deletes lines if the condition holds, which is SQL."""
        ...

    async def wait(self, timeout: float) -> None:
        """Waits until there may be lines, at most ``timeout`` seconds."""
        ...

    async def close(self) -> None:
        """Closes what was opened for waiting."""
        ...


_LINES: Final[dict[str, Callable[[BaseDBAsyncClient, Sequence[CapturedTable]], Lines]]] = {
    "postgres": PostgresLines,
    "mysql": MySQLLines,
    "sqlite": SQLiteLines,
}


class Source:
    """The changes of one connection's captured tables.

    No method opens a transaction that outlives it, so a source that hangs blocks no writer. Two sources at once are
    safe: both may return a line, and deleting it twice does nothing.
    """

    def __init__(
        self,
        client: BaseDBAsyncClient,
        tables: Sequence[CapturedTable],
        lines: Lines,
        dialect: Dialect,
        further: Sequence[CapturedTable] = (),
    ) -> None:
        self.tables = tables
        """The tables whose changes are read. Once checked, those of ``further`` that are captured are among them."""
        self._client = client
        self._required = tables
        self._further = further
        self._by_source = {table.name: _Table(table) for table in tables}
        self._lines = lines
        self._dialect = dialect
        self._verified: Hashable = None
        self.owner: str | None = None
        """The cache that lines are drained for, as far as it is known."""
        self.oldest = 0.0
        """Seconds since the oldest of the changes that were last returned was written."""
        self.left_out = True
        """False if everything that was committed before the last ``begin`` was among the last ``changes``, or deleted.
        """

    async def check(self) -> Hashable:
        """Returns what identifies the state of the catalogue and of the server.

        If it is unequal to that of the last drain, rows may have changed without a line. ATTACH PARTITION, a rewriting
        ALTER TABLE, a restore, a failover and TRUNCATE on MySQL do that. Raises ``RelayError`` if triggers are missing
        or out of date, and if the database is a replica or recovers.
        """
        try:
            guard = await self._lines.guard()
        except OperationalError:
            await self._check_installation()  # names the missing object
            raise
        if guard != self._verified:
            self._verified = None
            self.tables = [*self._required, *await self._check_installation()]
            self._by_source = {table.name: _Table(table) for table in self.tables}
            self._lines.reset(self.tables)
            self._verified = guard
        return guard

    async def _check_installation(self) -> Sequence[CapturedTable]:
        return await check_installation(self._client, self._required, self._dialect, self._further)

    async def begin(self) -> None:
        """Begins to find out whether something is left out, by the ``changes`` that follow. Raises ``RelayError``."""

    async def changes(self, limit: int, *, whole: bool = False) -> list[Change]:
        """Returns up to ``limit`` changes, the oldest first as far as their order is known. Sets ``left_out``.

        With ``whole``, their rows are not read, so that each stands for everything of its table.
        """
        lines = await self._lines.read(limit, whole=whole)
        self.oldest = max((line.age for line in lines), default=0.0)
        self.left_out = len(lines) >= limit
        return [
            Change(line.id, table.captured, table.rows(line.pairs))
            for line in lines
            for table in [self._by_source.get(line.source) or self._undeclared(line.source)]
        ]

    def _undeclared(self, name: str) -> "_Table":
        """Returns a table of other declarations. No claim depends on it, but its lines have to be deleted."""
        return _Table(CapturedTable(self._client.connection_name, None, name, "", (), ()))

    async def delete(self, ids: Sequence[int]) -> None:
        """Deletes the lines of changes that have been dealt with.

        Deletes none if ``owner`` is not the owner any more. A relay that hung may go on when lines are drained for
        another cache, which needs them. Nor if the database is an older copy by now, which ``check`` has to notice.
        """
        if ids:
            await self._lines.delete(ids, self._ownership_condition)

    @property
    def position(self) -> tuple[int, str] | None:
        """See ``Lines``."""
        return self._lines.position

    @property
    def _ownership_condition(self) -> str:
        """The condition that ``owner`` is still the owner, and the database no older copy, as SQL."""
        conditions = [] if self.owner is None else [f"owner = {literal(self.owner)}"]
        if self.position is not None:
            conditions.append(f"drained = {literal(self.position[1])}")
        if not conditions:
            return ALWAYS
        return f"EXISTS (SELECT 1 FROM {self._dialect.coverage} WHERE {' AND '.join(conditions)})"

    async def find_owner(self) -> str | None:
        """Returns the cache that lines are drained for, or None if there is none yet. Remembers it as ``owner``."""
        rows = await select(self._client, f"SELECT owner FROM {self._dialect.coverage}")
        self.owner = str(rows[0]["owner"]) if rows and rows[0]["owner"] is not None else None
        return self.owner

    async def is_owned(self) -> bool:
        """Returns True if ``owner`` is still the owner."""
        condition = f"owner = {literal(self.owner or '')}"
        return bool(await select(self._client, f"SELECT 1 FROM {self._dialect.coverage} WHERE {condition}"))

    async def set_owner(self, owner: str) -> None:
        """Has lines drained for another cache. ``check`` returns another value from now on."""
        client: Any = self._client
        await client.execute_query(f"UPDATE {self._dialect.coverage} SET owner = {literal(owner)}")
        self.owner = owner

    async def wait(self, timeout: float) -> None:
        """Waits for a notification, or until the next poll is due, at most ``timeout`` seconds."""
        await self._lines.wait(timeout)

    async def close(self) -> None:
        """Closes the connection that waits for notifications, or for messages."""
        await self._lines.close()

    async def limit_backlog(self) -> None:
        """Frees what the database keeps for a relay that cannot drain, if it is too much.

        The next ``check`` returns another value then.
        """

    async def waiting_since(self) -> float | None:
        """Returns the time since the Unix epoch at which the oldest line was written; None if none can be seen."""
        return None


class TriggerSource(Source):
    """The changes that triggers note in the change table."""

    def __init__(
        self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable], further: Sequence[CapturedTable] = ()
    ) -> None:
        """``further``: tables that no claim depends on. Where triggers are on them, too, their lines are read."""
        dialect = dialect_of(client)
        super().__init__(client, tables, _LINES[client.capabilities.dialect](client, tables), dialect, further)

    async def limit_backlog(self) -> None:
        """Trims the lines if there are too many."""
        if await self.count(MAX_KEPT) > MAX_KEPT:
            await self.trim()

    async def count(self, limit: int) -> int:
        """Returns the number of waiting lines. One more than ``limit`` stands for any number above it."""
        some = f"SELECT 1 FROM {CHANGES} LIMIT {limit + 1}"
        [row] = await select(self._client, f"SELECT count(*) AS number FROM ({some}) counted")
        return int(row["number"])

    async def trim(self) -> int:
        """Replaces the waiting lines by one for each table, which stands for everything of it. Returns their number.

        Any number of processes may trim at once, and relays drain meanwhile. A line is deleted only when the one that
        stands for it is committed.
        """
        client: Any = self._client
        columns, op = ("source", "") if client.capabilities.dialect == "postgres" else ("source, op", ", 'A'")
        trimmed = 0
        while True:
            lines = await self._lines.read(TRIMMED_AT_ONCE, whole=True)
            sources = sorted({line.source for line in lines})
            if len(lines) == len(sources):
                return trimmed
            values = ", ".join(f"({literal(source)}{op})" for source in sources)
            await client.execute_query(f"INSERT INTO {CHANGES} ({columns}) VALUES {values}")
            await self._lines.delete([line.id for line in lines])
            trimmed += len(lines)
            if len(lines) < TRIMMED_AT_ONCE:
                return trimmed

    async def waiting_since(self) -> float | None:
        """See ``Source``."""
        lines = await self._lines.read(1)
        return time() - lines[0].age if lines else None


class StreamSource(Source):
    """The changes that PostgreSQL decodes of its WAL. ``limit``: the bytes that it may keep for the relay."""

    def __init__(
        self,
        client: BaseDBAsyncClient,
        tables: Sequence[CapturedTable],
        limit: int,
        further: Sequence[CapturedTable] = (),
    ) -> None:
        """``further``: tables that no claim depends on. Where they are published, too, their changes are read."""
        self._stream = StreamLines(client, tables, limit)
        super().__init__(client, tables, self._stream, PUBLICATION, further)

    async def check(self) -> Hashable:
        """Returns the same as other sources. A slot that may lack changes is created anew, which changes the state."""
        guard = await super().check()
        if self._stream.fault is not None:
            await self._stream.renew(self._stream.fault)
            guard = await super().check()
        return guard

    async def begin(self) -> None:
        """Has a message of its own follow all changes that are committed by now."""
        await self._stream.mark(self._ownership_condition)

    async def changes(self, limit: int, *, whole: bool = False) -> list[Change]:
        """Returns up to ``limit`` changes. Of a row that several captured tables have, one for each."""
        found = await super().changes(limit, whole=whole)
        self.left_out = self._stream.left_out or len(found) >= limit
        return found

    async def limit_backlog(self) -> None:
        """Drops the slot if it keeps more of the WAL than it may."""
        await self._stream.limit_backlog()


def source_of(client: BaseDBAsyncClient, tables: Sequence[CapturedTable], cache: OpenCache) -> Source:
    """Returns the source that is configured. On other databases than PostgreSQL, triggers are the only one."""
    further = further_tables(cache, tables)
    if cache.config.relay_source == "pgoutput" and client.capabilities.dialect == "postgres":
        return StreamSource(client, tables, cache.config.relay_slot_limit, further)
    return TriggerSource(client, tables, further)


class _Table:
    """Turns the values of a captured table's columns into rows by attribute."""

    def __init__(self, captured: CapturedTable) -> None:
        self.captured = captured
        self._names: Sequence[str] = captured.columns
        self._converters: Sequence[Callable[[Any], Any] | None] = [None] * len(captured.columns)
        if captured.models:
            model = captured.models[0]
            self._names = [column_attribute(model, column) or column for column in captured.columns]
            self._converters = [*value_converters(model, self._names).values()]

    def rows(self, pairs: Pairs | None) -> ChangedRows | None:
        """Returns the rows of a line; None if one of its values is not certain."""
        if pairs is None:
            return None
        try:
            return [(self._row(old), self._row(new)) for old, new in pairs]
        except Exception:  # of a user's own field, too
            return None

    def _row(self, values: DriverValues | None) -> RowValues | None:
        if values is None:
            return None
        converted = zip(self._names, self._converters, values, strict=True)
        return {name: value if convert is None else convert(value) for name, convert, value in converted}
