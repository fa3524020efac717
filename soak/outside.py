"""Another program of a soak: ``python -m soak.outside JSON``. It writes rows by a bare driver until it is told to stop.

The library notices none of its writes: triggers and a relay tell it of them. Each write is logged like one of the
library, with a nonce of ``history.OUTSIDE`` or more. Rows that are gone hold no nonce, so each connection tells the
history's trigger the nonce of its deletes. One more task empties the table now and then, or writes all rows.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg  # type: ignore[import-untyped]

from soak.faults import connect
from soak.history import OUTSIDE
from soak.log import Kind, Log, Outcome
from soak.predicted import NONCE_SHIFT
from soak.worker import Order, commands, loop_factory, say
from soak.workload import RolledBack, Tally
from soak.world import World, slug_text

FIRST_NUMBER: Final = OUTSIDE >> NONCE_SHIFT
"""The number of the first process of other programs."""
REFUSALS: Final = (
    RolledBack,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""Exceptions of writes that committed nothing."""
LOCK_TIMEOUT: Final = "3s"
"""The longest wait of a statement for a lock, because a waiting TRUNCATE holds up all others."""
RELOAD_EVERY: Final = 150
"""Writes of one task, on average, between two writes of the whole table."""
COLUMNS: Final = ("id", "slug", "team", "version", "nonce", "folder_id", "note")
LOADED: Final = 500
"""Number of rows of one COPY."""


class OutsideWriter:
    """One connection that writes."""

    def __init__(
        self, url: str, world: World, chance: random.Random, log: Log, tally: Tally, nonces: Callable[[], int]
    ) -> None:
        self._url = url
        self._world = world
        self._chance = chance
        self._log = log
        self._tally = tally
        self._nonces = nonces
        self._connection: Any = None
        self._committing = 0

    async def run(self, pause: float, over: anyio.Event, operations: "Callable[[], Operation]") -> None:
        """Writes until ``over`` is set, every ``pause`` seconds on average."""
        while not over.is_set():
            with anyio.move_on_after(self._chance.expovariate(1 / pause)):
                await over.wait()
                break
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self.write(operations())
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def write(self, operation: "Operation") -> None:
        """Makes one write, and logs its outcome. Raises the driver's errors, unless nothing was committed."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url)
            await self._connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        nonce, outcome = self._nonces(), Outcome.UNKNOWN
        await self._connection.execute(f"SET soak.nonce = '{nonce}'")
        self._committing = start = time.monotonic_ns()
        try:
            changed = await operation(nonce)
            outcome = Outcome.CHANGED if changed else Outcome.ACKNOWLEDGED
        except REFUSALS:
            outcome = Outcome.REFUSED
        except BaseException as error:
            self._tally.failed(error, reading=False)
            await self.close()
            raise
        finally:
            self._log.add(Kind.WRITE, start, nonce, (outcome, self._committing))

    def operation(self) -> "Operation":
        """Returns a random write of few rows."""
        [operation] = self._chance.choices(*zip(*self._operations, strict=True))
        return operation  # type: ignore[no-any-return]

    def reload(self) -> "Operation":
        """Returns a random write of the whole table."""
        return self._chance.choice([self._touch_all, self._truncate, self._truncate_folders])

    @property
    def _operations(self) -> "list[tuple[Operation, int]]":
        return [
            (self._touch, 20),
            (self._touch_several, 10),
            (self._touch_team, 3),
            (self._move_slug, 12),
            (self._move_team, 12),
            (self._insert, 5),
            (self._upsert, 10),
            (self._merge, 4),
            (self._delete, 8),
            (self._delete_several, 3),
            (self._delete_folder, 2),
            (self._load, 6),
            (self._transaction, 15),
        ]

    # Statements -------------------------------------------------------------------------------------

    async def _run(self, statement: str, *values: Any) -> bool:
        """Executes a statement. Returns True if it has changed a row."""
        status: str = await self._connection.execute(statement, *values)
        return status.rpartition(" ")[2] not in ("0", status)

    async def _touch(self, nonce: int) -> bool:
        return await self._run("UPDATE item SET nonce = $1 WHERE id = $2", nonce, self._pick())

    async def _touch_several(self, nonce: int) -> bool:
        return await self._run("UPDATE item SET nonce = $1 WHERE id = ANY($2)", nonce, self._picked(20))

    async def _touch_team(self, nonce: int) -> bool:
        return await self._run("UPDATE item SET nonce = $1 WHERE team = $2", nonce, self._team(self._pick()))

    async def _touch_all(self, nonce: int) -> bool:
        return await self._run("UPDATE item SET nonce = $1", nonce)

    async def _move_slug(self, nonce: int) -> bool:
        pk = self._pick()
        return await self._run("UPDATE item SET nonce = $1, slug = $2 WHERE id = $3", nonce, self._slug(pk), pk)

    async def _move_team(self, nonce: int) -> bool:
        pk = self._pick()
        return await self._run("UPDATE item SET nonce = $1, team = $2 WHERE id = $3", nonce, self._team(pk), pk)

    async def _insert(self, nonce: int) -> bool:
        return await self._upsert(nonce, "")

    async def _upsert(
        self,
        nonce: int,
        conflict: str = "ON CONFLICT (id) DO UPDATE SET nonce = excluded.nonce, slug = excluded.slug",
    ) -> bool:
        row = self._row(nonce, self._pick())
        await self._make_folders([row[5]])
        marks = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
        return await self._run(f"INSERT INTO item ({', '.join(COLUMNS)}) VALUES ({marks}) {conflict}", *row)

    async def _merge(self, nonce: int) -> bool:
        statement = (
            "MERGE INTO item USING (SELECT unnest($2::int[]) AS pk) AS wanted ON item.id = pk "
            "WHEN MATCHED AND pk % 5 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET nonce = $1"
        )
        return await self._run(statement, nonce, [*{*self._picked(3)}])

    async def _delete(self, nonce: int) -> bool:
        return await self._run("DELETE FROM item WHERE id = $1", self._pick())

    async def _delete_several(self, nonce: int) -> bool:
        return await self._run("DELETE FROM item WHERE id = ANY($1)", self._picked(5))

    async def _delete_folder(self, nonce: int) -> bool:
        """Deletes a folder, and by a cascade its rows, of which there may be none."""
        await self._run("DELETE FROM folder WHERE id = $1", self._chance.randrange(self._world.folders))
        return False

    async def _transaction(self, nonce: int) -> bool:
        """Runs several statements and a savepoint. It rolls back one in three transactions."""
        async with self._begun():
            changed = await self._touch(nonce)
            with suppress(asyncpg.UniqueViolationError):
                async with self._connection.transaction():
                    changed |= await self._move_slug(nonce)
            with suppress(RolledBack):
                async with self._connection.transaction():
                    await self._delete(nonce)
                    if self._chance.random() < 0.5:
                        raise RolledBack
            changed |= await self._move_team(nonce)
            await anyio.sleep(self._chance.uniform(0, 0.05))
            if self._chance.random() < 0.33:
                raise RolledBack
        return changed

    async def _load(self, nonce: int) -> bool:
        """Copies rows that are missing into the table."""
        wanted = self._chance.sample(range(1, self._world.rows + 1), min(LOADED, self._world.rows))
        found = await self._connection.fetch("SELECT id, slug FROM item")
        present, taken = {row["id"] for row in found}, {row["slug"] for row in found}
        rows = [self._row(nonce, pk, taken) for pk in sorted({*wanted} - present)]
        if not rows:
            return False
        await self._make_folders(row[5] for row in rows)
        status = await self._connection.copy_records_to_table("item", records=rows, columns=COLUMNS)
        return bool(status != "COPY 0")

    async def _truncate(self, nonce: int) -> bool:
        await self._run("TRUNCATE item")
        return False

    async def _truncate_folders(self, nonce: int) -> bool:
        await self._run("TRUNCATE folder CASCADE")
        return False

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._connection.transaction())
            yield
            self._committing = time.monotonic_ns()

    # Rows -------------------------------------------------------------------------------------------

    def _pick(self) -> int:
        return self._world.pick(self._chance)

    def _picked(self, number: int) -> list[int]:
        return [self._pick() for _ in range(number)]

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

    def _row(self, nonce: int, pk: int, taken: "set[str] | None" = None) -> tuple[Any, ...]:
        return pk, self._slug(pk, taken), self._team(pk), 0, nonce, self._world.folder_of(pk), ""

    async def _make_folders(self, folders: "Iterable[int | None]") -> None:
        known: Sequence[int] = sorted({folder for folder in folders if folder is not None})
        if known:
            await self._run("INSERT INTO folder (id) SELECT unnest($1::int[]) ON CONFLICT DO NOTHING", known)


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
        chance = random.Random(f"{order.seed}/{order.number}/{number}")
        url, world = order.database, World(**order.world)
        return OutsideWriter(url, world, chance, self._log, self._tally, self._nonces)


def main() -> None:
    """Runs the order in the program's argument."""
    order = Order(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=loop_factory(eager=False)) as runner:
        runner.run(Outside(order).run())


if __name__ == "__main__":
    main()
