"""Another program of a soak: ``python -m soak.outside JSON``. It writes rows by a bare driver until it is told to stop.

The library notices none of its writes: triggers and a relay tell it of them. Each write is logged like one of the
library, with a nonce of ``history.OUTSIDE`` or more. Rows that are gone hold no nonce, so each connection announces the
nonce of its deletes to the history's trigger. One more task empties the table now and then, or writes all rows.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio

from soak.connections import Connection, connect
from soak.history import OUTSIDE
from soak.log import Kind, Log, Outcome
from soak.predicted import NONCE_SHIFT
from soak.worker import Order, commands, loop_factory, say
from soak.workload import RolledBack, Tally
from soak.world import World, slug_text

FIRST_NUMBER: Final = OUTSIDE >> NONCE_SHIFT
"""The number of the first process of other programs."""
RELOAD_EVERY: Final = 150
"""Writes of one task, on average, between two writes of the whole table."""
COLUMNS: Final = ("id", "slug", "team", "version", "nonce", "folder_id", "note")
INTO: Final = f"INTO item ({', '.join(COLUMNS)})"
LOADED: Final = 500
"""Number of rows of one COPY, or of what the database has in its place."""

Row = tuple[Any, ...]


class OutsideWriter:
    """One connection that writes. Its subclasses have what only one database has."""

    announcement: ClassVar[str] = ""
    """Statement by which a connection announces the nonce of its deletes."""
    ignoring: ClassVar[tuple[str, str]]
    """Beginning and end of an INSERT that leaves rows out that are there already."""

    def __init__(
        self, order: Order, number: int, world: World, log: Log, tally: Tally, nonces: Callable[[], int]
    ) -> None:
        self._url = order.database
        self._file = Path(order.folder) / f"{order.number}-{number}.txt"
        self._world = world
        self._chance = random.Random(f"{order.seed}/{order.number}/{number}")
        self._log = log
        self._tally = tally
        self._nonces = nonces
        self._connection: Connection | None = None
        self._committing = 0

    @property
    def connection(self) -> Connection:
        """The connection, which is open while an operation runs."""
        assert self._connection is not None
        return self._connection

    async def run(self, pause: float, over: anyio.Event, operations: "Callable[[], Operation]") -> None:
        """Writes until ``over`` is set, every ``pause`` seconds on average."""
        while not over.is_set():
            with anyio.move_on_after(self._chance.expovariate(1 / pause)):
                await over.wait()
                break
            try:
                if self._connection is None:
                    self._connection = await connect(self._url)
                await self.write(operations())
            except Exception as error:
                self._tally.failed(error, reading=False)
                await self.close()
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def write(self, operation: "Operation") -> None:
        """Makes one write, and logs its outcome. Raises the driver's errors, unless nothing was committed."""
        nonce, outcome = self._nonces(), Outcome.UNKNOWN
        if self.announcement:
            await self.connection.execute(self.announcement.format(nonce))
        self._committing = start = time.monotonic_ns()
        try:
            changed = await operation(nonce)
            outcome = Outcome.CHANGED if changed else Outcome.ACKNOWLEDGED
        except RolledBack:
            outcome = Outcome.REFUSED
        except Exception as error:
            if not self.connection.is_refusal(error):
                raise
            outcome = Outcome.REFUSED
        finally:
            self._log.add(Kind.WRITE, start, nonce, (outcome, self._committing))

    def operation(self) -> "Operation":
        """Returns a random write of few rows."""
        [operation] = self._chance.choices(*zip(*[*self.shared, *self.special], strict=True))
        return operation  # type: ignore[no-any-return]

    def reload(self) -> "Operation":
        """Returns a random write of the whole table."""
        return self._chance.choice(self.reloads)

    @property
    def shared(self) -> "list[tuple[Operation, int]]":
        """Operations that each database has, with their weights."""
        return [
            (self._touch, 20),
            (self._touch_several, 10),
            (self._touch_team, 3),
            (self._move_slug, 12),
            (self._move_team, 12),
            (self._insert, 5),
            (self._delete, 8),
            (self._delete_several, 3),
            (self._delete_folder, 2),
            (self._load, 6),
            (self._transaction, 15),
        ]

    @property
    def special(self) -> "list[tuple[Operation, int]]":
        """Operations that the database has beside these, with their weights."""
        return []

    @property
    def reloads(self) -> "list[Operation]":
        """Writes of the whole table."""
        return [self._touch_all, self._delete_all]

    # Statements -------------------------------------------------------------------------------------

    async def _run(self, statement: str) -> bool:
        """Executes a statement. Returns True if it has changed a row."""
        return await self.connection.execute(statement) > 0

    async def _touch(self, nonce: int) -> bool:
        return await self._run(f"UPDATE item SET nonce = {nonce} WHERE id = {self._pick()}")

    async def _touch_several(self, nonce: int) -> bool:
        return await self._run(f"UPDATE item SET nonce = {nonce} WHERE id IN ({self._picked(20)})")

    async def _touch_team(self, nonce: int) -> bool:
        return await self._run(f"UPDATE item SET nonce = {nonce} WHERE team = {self._team(self._pick())}")

    async def _touch_all(self, nonce: int) -> bool:
        return await self._run(f"UPDATE item SET nonce = {nonce}")

    async def _move_slug(self, nonce: int) -> bool:
        pk = self._pick()
        return await self._run(f"UPDATE item SET nonce = {nonce}, slug = '{self._slug(pk)}' WHERE id = {pk}")

    async def _move_team(self, nonce: int) -> bool:
        pk = self._pick()
        return await self._run(f"UPDATE item SET nonce = {nonce}, team = {self._team(pk)} WHERE id = {pk}")

    async def _insert(self, nonce: int) -> bool:
        return await self._put(nonce, "INSERT {row}")

    async def _put(self, nonce: int, statement: str) -> bool:
        """Writes a row by a statement with ``{row}`` for it, and with ``{slug}``, after its folder."""
        row = self._row(nonce, self._pick())
        await self._make_folders([row[5]])
        return await self._run(statement.format(row=f"{INTO} VALUES {_values(row)}", slug=row[1], pk=row[0]))

    async def _delete(self, nonce: int) -> bool:
        async with self._announced(nonce):
            return await self._delete_row()

    async def _delete_row(self) -> bool:
        return await self._run(f"DELETE FROM item WHERE id = {self._pick()}")

    async def _delete_several(self, nonce: int) -> bool:
        async with self._announced(nonce):
            return await self._run(f"DELETE FROM item WHERE id IN ({self._picked(5)})")

    async def _delete_folder(self, nonce: int) -> bool:
        """Deletes a folder, and by a cascade its rows, of which there may be none."""
        async with self._announced(nonce):
            await self._run(f"DELETE FROM folder WHERE id = {self._chance.randrange(self._world.folders)}")
        return False

    async def _delete_all(self, nonce: int) -> bool:
        async with self._announced(nonce):
            await self._run("DELETE FROM item")
        return False

    async def _transaction(self, nonce: int) -> bool:
        """Runs several statements and a savepoint. It rolls back one in three transactions."""
        async with self._begun(nonce):
            changed = await self._touch(nonce)
            try:
                async with self._savepoint():
                    changed |= await self._move_slug(nonce)
            except Exception as error:
                if not self.connection.is_taken(error):
                    raise
            with suppress(RolledBack):
                async with self._savepoint():
                    await self._delete_row()
                    if self._chance.random() < 0.5:
                        raise RolledBack
            changed |= await self._move_team(nonce)
            await anyio.sleep(self._chance.uniform(0, 0.05))
            if self._chance.random() < 0.33:
                raise RolledBack
        return changed

    async def _load(self, nonce: int) -> bool:
        """Loads rows that are missing into the table."""
        wanted = self._chance.sample(range(1, self._world.rows + 1), min(LOADED, self._world.rows))
        found = await self.connection.fetch("SELECT id, slug FROM item")
        present, taken = {pk for pk, _ in found}, {slug for _, slug in found}
        rows = [self._row(nonce, pk, taken) for pk in sorted({*wanted} - present)]
        if not rows:
            return False
        await self._make_folders(row[5] for row in rows)
        return await self._insert_many(rows)

    async def _insert_many(self, rows: Sequence[Row]) -> bool:
        return await self._run(f"INSERT {INTO} VALUES {', '.join(map(_values, rows))}")

    @asynccontextmanager
    async def _begun(self, nonce: int) -> AsyncIterator[None]:
        """Opens a transaction, in which the nonce is announced."""
        async with self._block("BEGIN", "COMMIT", "ROLLBACK"):
            yield
            self._committing = time.monotonic_ns()

    def _announced(self, nonce: int) -> AbstractAsyncContextManager[None]:
        """Announces the nonce in a block of one statement."""
        return nullcontext()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        async with self._block("SAVEPOINT inner_one", "RELEASE SAVEPOINT inner_one", "ROLLBACK TO SAVEPOINT inner_one"):
            yield

    @asynccontextmanager
    async def _block(self, begin: str, end: str, undo: str) -> AsyncIterator[None]:
        connection = self.connection
        await connection.execute(begin)
        try:
            yield
            await connection.execute(end)
        except BaseException as error:
            # A deadlock has rolled everything back, and with it the savepoint.
            if isinstance(error, RolledBack) or connection.is_taken(error) or undo == "ROLLBACK":
                await connection.execute(undo)
            raise

    # Rows -------------------------------------------------------------------------------------------

    def _pick(self) -> int:
        return self._world.pick(self._chance)

    def _picked(self, number: int) -> str:
        return ", ".join(str(self._pick()) for _ in range(number))

    def _slug(self, pk: int, taken: "set[str] | None" = None) -> str:
        """Returns a slug of a row, if possible one that is not taken, and takes it."""
        slugs = [slug_text(slug) for slug in self._world.slugs(pk)]
        free = [slug for slug in slugs if slug not in (taken or ())]
        slug = self._chance.choice(free or slugs)
        if taken is not None:
            taken.add(slug)
        return slug

    def _team(self, pk: int) -> int:
        return self._chance.choice(self._world.teams_of(pk))

    def _row(self, nonce: int, pk: int, taken: "set[str] | None" = None) -> Row:
        return pk, self._slug(pk, taken), self._team(pk), 0, nonce, self._world.folder_of(pk), ""

    async def _make_folders(self, folders: "Iterable[int | None]") -> None:
        known = sorted({folder for folder in folders if folder is not None})
        if known:
            begin, end = self.ignoring
            await self._run(f"{begin} INTO folder (id) VALUES {', '.join(f'({folder})' for folder in known)} {end}")


def _values(row: Row) -> str:
    """Returns a row as SQL. No text in it has a quote."""
    return "(" + ", ".join("NULL" if value is None else repr(value) for value in row) + ")"


class PostgresWriter(OutsideWriter):
    """MERGE, COPY and TRUNCATE, also of a parent with its children."""

    announcement = "SET soak.nonce = '{}'"
    ignoring = ("INSERT", "ON CONFLICT DO NOTHING")

    @property
    def special(self) -> "list[tuple[Operation, int]]":
        return [(self._upsert, 10), (self._merge, 4)]

    @property
    def reloads(self) -> "list[Operation]":
        return [self._touch_all, self._truncate, self._truncate_folders]

    async def _upsert(self, nonce: int) -> bool:
        conflict = "ON CONFLICT (id) DO UPDATE SET nonce = excluded.nonce, slug = excluded.slug"
        return await self._put(nonce, f"INSERT {{row}} {conflict}")

    async def _merge(self, nonce: int) -> bool:
        wanted = ", ".join(f"({pk})" for pk in {self._pick() for _ in range(3)})
        return await self._run(
            f"MERGE INTO item USING (VALUES {wanted}) AS wanted (pk) ON item.id = pk "
            f"WHEN MATCHED AND pk % 5 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET nonce = {nonce}"
        )

    async def _insert_many(self, rows: Sequence[Row]) -> bool:
        status = await self.connection.driver.copy_records_to_table("item", records=rows, columns=COLUMNS)
        return bool(status != "COPY 0")

    async def _truncate(self, nonce: int) -> bool:
        await self._run("TRUNCATE item")
        return False

    async def _truncate_folders(self, nonce: int) -> bool:
        await self._run("TRUNCATE folder CASCADE")
        return False


class MariaDBWriter(OutsideWriter):
    """REPLACE, ON DUPLICATE KEY UPDATE, IGNORE, an UPDATE of a join, LOAD DATA and TRUNCATE."""

    announcement = "SET @soak_nonce = {}"
    ignoring = ("INSERT IGNORE", "")

    @property
    def special(self) -> "list[tuple[Operation, int]]":
        return [(self._upsert, 10), (self._replace, 6), (self._ignore, 2), (self._touch_joined, 3)]

    @property
    def reloads(self) -> "list[Operation]":
        return [self._touch_all, self._delete_all, self._truncate]

    async def _upsert(self, nonce: int) -> bool:
        """Writes a row, or the one that has its key or its slug."""
        return await self._put(nonce, f"INSERT {{row}} ON DUPLICATE KEY UPDATE nonce = {nonce}, slug = VALUES(slug)")

    async def _replace(self, nonce: int) -> bool:
        return await self._put(nonce, "REPLACE {row}")

    async def _ignore(self, nonce: int) -> bool:
        return await self._put(nonce, "INSERT IGNORE {row}")

    async def _touch_joined(self, nonce: int) -> bool:
        folder = self._chance.randrange(self._world.folders)
        return await self._run(
            f"UPDATE item JOIN folder ON folder.id = item.folder_id SET item.nonce = {nonce} WHERE folder.id = {folder}"
        )

    async def _insert_many(self, rows: Sequence[Row]) -> bool:
        lines = ["\t".join("\\N" if value is None else str(value) for value in row) for row in rows]
        await anyio.Path(self._file).write_text("\n".join(lines) + "\n")
        how = self._chance.choice(["", "REPLACE", "IGNORE"])
        return await self._run(f"LOAD DATA INFILE '{self._file}' {how} INTO TABLE item ({', '.join(COLUMNS)})")

    async def _truncate(self, nonce: int) -> bool:
        """Truncates the table, which fires no trigger. It records the deletes while it has the table alone."""
        await self._run("LOCK TABLES item WRITE, history WRITE")
        try:
            await self._run(
                f"INSERT INTO history (pk, version, nonce, slug, team) SELECT id, 0, {nonce}, slug, team FROM item"
            )
            await self._run("TRUNCATE item")
        finally:
            await self._run("UNLOCK TABLES")
        return False


class SQLiteWriter(OutsideWriter):
    """REPLACE, upserts, and an UPDATE with FROM.

    Rows that REPLACE deletes fire no trigger, so the writer records them.
    """

    ignoring = ("INSERT OR IGNORE", "")

    @property
    def special(self) -> "list[tuple[Operation, int]]":
        return [(self._upsert, 10), (self._replace, 6), (self._move_by_force, 6), (self._touch_joined, 3)]

    async def _upsert(self, nonce: int) -> bool:
        conflict = "ON CONFLICT (id) DO UPDATE SET nonce = excluded.nonce, slug = excluded.slug"
        return await self._put(nonce, f"INSERT {{row}} {conflict}")

    async def _replace(self, nonce: int) -> bool:
        pk = self._pick()
        row = self._row(nonce, pk)
        await self._make_folders([row[5]])
        async with self._announced(nonce):
            await self._record_of(row[1], nonce, f"id <> {pk}")
            return await self._run(f"INSERT OR REPLACE {INTO} VALUES {_values(row)}")

    async def _move_by_force(self, nonce: int) -> bool:
        pk = self._pick()
        slug = self._slug(pk)
        async with self._announced(nonce):
            await self._record_of(slug, nonce, f"id <> {pk} AND EXISTS (SELECT 1 FROM item WHERE id = {pk})")
            return await self._run(f"UPDATE OR REPLACE item SET nonce = {nonce}, slug = '{slug}' WHERE id = {pk}")

    async def _record_of(self, slug: str, nonce: int, condition: str) -> None:
        """Records the delete of the row that has a slug, if it fulfils a condition."""
        await self._run(
            "INSERT INTO history (pk, version, nonce, slug, team) "
            f"SELECT id, 0, {nonce}, slug, team FROM item WHERE slug = '{slug}' AND {condition}"
        )

    async def _touch_joined(self, nonce: int) -> bool:
        folder = self._chance.randrange(self._world.folders)
        return await self._run(
            f"UPDATE item SET nonce = {nonce} FROM folder WHERE folder.id = item.folder_id AND folder.id = {folder}"
        )

    @asynccontextmanager
    async def _begun(self, nonce: int) -> AsyncIterator[None]:
        begin = self._chance.choice(["BEGIN", "BEGIN IMMEDIATE"])
        async with self._block(begin, "COMMIT", "ROLLBACK"):
            await self._run(f"UPDATE announced SET nonce = {nonce}")
            yield
            await self._run("UPDATE announced SET nonce = 0")
            self._committing = time.monotonic_ns()

    def _announced(self, nonce: int) -> AbstractAsyncContextManager[None]:
        return self._begun(nonce)


WRITERS: Final = {"asyncpg": PostgresWriter, "mysql": MariaDBWriter, "sqlite": SQLiteWriter}
"""Writers by the scheme of a Tortoise URL."""

Operation = Callable[[int], Awaitable[bool]]
"""A write by its nonce. Returns True if it has certainly changed a row, if it is acknowledged."""


class Outside:
    """The tasks of the process."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._log = Log(Path(order.folder) / f"{order.number}.log")
        self._tally = Tally()
        counter = itertools.count(1)
        self._nonces = lambda: order.number << NONCE_SHIFT | next(counter)

    async def run(self) -> None:
        """Writes until told to stop."""
        order, over = self._order, anyio.Event()
        async with anyio.create_task_group() as tasks:
            for number in range(order.writers):
                writer = self._writer(number)
                tasks.start_soon(writer.run, order.write_pause, over, writer.operation)
            writer = self._writer(order.writers)
            tasks.start_soon(writer.run, order.write_pause * RELOAD_EVERY, over, writer.reload)
            say("ready")
            async for _ in commands():
                break
            over.set()
            tasks.cancel_scope.deadline = anyio.current_time() + order.stuck_after
        self._log.close()
        say("tally " + json.dumps(asdict(self._tally)))

    def _writer(self, number: int) -> OutsideWriter:
        order = self._order
        kind = WRITERS[order.database.partition(":")[0]]
        return kind(order, number, World(**order.world), self._log, self._tally, self._nonces)


def main() -> None:
    """Runs the order in the program's argument."""
    order = Order(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=loop_factory(eager=False)) as runner:
        runner.run(Outside(order).run())


if __name__ == "__main__":
    main()
