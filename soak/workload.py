"""Reads and writes of every kind, as the tasks of a process make them. Each is logged with its result."""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from tortoise.connection import get_connection
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import CacheWriteError
from soak.log import KEY_SHIFT, Kind, Log, Outcome
from soak.model import DRAW_VERSION, Folder, Item
from soak.patience import Cancelled, Patience
from soak.predicted import NONCE_SHIFT
from soak.subjects import Seen, Subject, seen
from soak.world import PAGE_SIZES, World, slug_text


class RolledBack(Exception):
    """Raised to roll a transaction back on purpose."""


REPEATS: Final = (1, 2, 8)
"""Numbers of reads of a page, one after the other. A reader picks one at random, so that many pages are stored ones."""
REFUSALS: Final = (RolledBack, IntegrityError, CacheWriteError)
"""Exceptions of writes that committed nothing: rolled back on purpose, a slug that is taken, Redis away."""


@dataclass(slots=True)
class Tally:
    """Counts of a process beside its log."""

    failed_writes: int = 0
    failed_reads: int = 0
    """Number of reads that raised. No fault makes the database fail in reads, so there should be none."""
    cancelled_reads: int = 0
    cancelled_writes: int = 0
    stuck: int = 0
    """Number of tasks that waited for ever."""
    leaked: int = 0
    """Number of database connections that were in use when nothing used them."""
    last_error: str = ""
    near_hits: int = 0
    """Number of rounds of reading that sent no request."""
    not_modified: int = 0
    """Number of answers that a client of responses had already."""
    rows_stored: int = 0
    """Number of rows that writers have stored."""
    compared: int = 0
    """Number of entries that ``verify`` has compared with the database."""
    uncompared: int = 0
    """Number of comparisons that failed."""
    hits: int = 0
    """Number of lookups of rows and lists that the cache answered."""
    relay_bypassed: int = 0
    """Number of lookups that read the database because no relay lived."""

    def failed(self, error: BaseException, *, reading: bool) -> None:
        """Counts an operation that raised."""
        if isinstance(error, Cancelled):
            self.cancelled_reads += reading
            self.cancelled_writes += not reading
            return
        self.failed_reads += reading
        self.failed_writes += not reading
        self.last_error = repr(error)[:300]


# Reads ---------------------------------------------------------------------------------------------------


class Reader:
    """One task that reads."""

    def __init__(
        self, subject: Subject, world: World, chance: random.Random, log: Log, tally: Tally, patience: Patience
    ) -> None:
        self._subject = subject
        self._world = world
        self._chance = chance
        self._log = log
        self._tally = tally
        self._patience = patience

    async def run(self, pause: float, over: anyio.Event) -> None:
        """Reads until ``over`` is set, every ``pause`` seconds on average."""
        while not over.is_set():
            await anyio.sleep(self._chance.expovariate(1 / pause))
            try:
                async with self._patience.request():
                    await self._once()
            except Exception as error:
                self._tally.failed(error, reading=True)

    async def _once(self) -> None:
        way = self._chance.random()
        size = self._chance.choice(self._subject.batches)
        if self._chance.random() < self._subject.pages:
            page, way = self._world.page(self._pks(1)[0], self._chance.choice(PAGE_SIZES)), self._chance.random()
            for _ in range(self._chance.choice(REPEATS)):
                await self.by_page(page, way)
        elif way < 0.6:
            await self.by_pk(self._pks(size))
        elif way < 0.85:
            await self.by_slug(self._slugs(size))
        elif way < 0.93:
            await self.by_pair(self._pks(1)[0])
        else:
            await self.by_team(list({self._team() for _ in range(min(size, 8))}))

    def _pks(self, size: int) -> list[int]:
        world, chance = self._world, self._chance
        pks = [world.pick(chance) for _ in range(size)]
        if chance.random() < 0.2:
            pks[0] = world.rows + chance.randint(1, world.ghosts)
        return list(dict.fromkeys(pks))

    def _slugs(self, size: int) -> list[int]:
        world, chance = self._world, self._chance
        return list({chance.choice(world.slugs(world.pick(chance))) for _ in range(size)})

    def _team(self) -> int:
        return self._chance.choice(self._world.teams_of(self._world.pick(self._chance)))

    async def by_pk(self, pks: list[int]) -> None:
        """Reads rows by primary key and logs their versions."""
        start = time.monotonic_ns()
        seen = await self._subject.by_pk(pks)
        self._log.add(Kind.BY_PK, start, 0, words_of(pks, seen))

    async def by_slug(self, slugs: list[int]) -> None:
        """Reads rows by slug and logs their versions."""
        start = time.monotonic_ns()
        seen = await self._subject.by_slug(slugs)
        self._log.add(Kind.BY_SLUG, start, 0, words_of(slugs, seen))

    async def by_pair(self, pk: int) -> None:
        """Reads a row and its partner, and logs their versions as of one moment if the subject says that they are."""
        pks = sorted([pk, self._world.partner(pk)])
        start = time.monotonic_ns()
        seen, together = await self._subject.by_pair(pks)
        self._log.add(Kind.TOGETHER if together else Kind.BY_PK, start, 0, words_of(pks, seen))

    async def by_page(self, pks: range, way: float) -> None:
        """Reads a page and logs the versions of its rows, as of one moment if the subject says that they are."""
        start = time.monotonic_ns()
        seen, together = await self._subject.by_page(pks, way)
        self._log.add(Kind.TOGETHER if together else Kind.BY_PK, start, len(pks), words_of(pks, seen))

    async def by_team(self, teams: list[int]) -> None:
        """Reads lists and logs the versions of their rows."""
        start = time.monotonic_ns()
        lists = await self._subject.by_team(teams)
        for team, rows in zip(teams, lists, strict=True):
            self._log.add(Kind.BY_TEAM, start, team, [word for row in rows for word in row])

    async def everything(self) -> None:
        """Reads all rows, slugs, lists and, if the subject has any, pages once."""
        world = self._world
        for at in range(1, world.rows + world.ghosts + 1, 100):
            await self.by_pk(list(range(at, min(at + 100, world.rows + world.ghosts + 1))))
        slugs = sorted({slug for pk in range(1, world.rows + 1) for slug in world.slugs(pk)})
        for index in range(0, len(slugs), 100):
            await self.by_slug(slugs[index : index + 100])
        for team in range(0, world.teams, 10):
            await self.by_team(list(range(team, min(team + 10, world.teams))))
        for size in PAGE_SIZES if self._subject.pages else ():
            for first in range(1, world.rows + 1, size):
                await self.by_page(world.page(first, size), self._chance.random())


def words_of(keys: Sequence[int], seen: list[Seen]) -> list[int]:
    """Returns the words of a record of lookups, each with its key and the row that it saw."""
    return [
        word for key, (version, nonce) in zip(keys, seen, strict=True) for word in (key << KEY_SHIFT | version, nonce)
    ]


async def hold_snapshots(
    read: Callable[[list[int]], Awaitable[Mapping[int, Item]]],
    world: World,
    chance: random.Random,
    log: Log,
    tally: Tally,
    over: anyio.Event,
    *,
    begin: str,
    pause: float = 2.0,
) -> None:
    """Keeps one transaction after the other open for up to five times ``pause``, each with a snapshot of its begin.

    ``begin`` is the first statement of each, if it needs one. Rows in a snapshot are rightly old. They must stay the
    same to the end, and must not get into the cache.
    """
    while not over.is_set():
        try:
            start = time.monotonic_ns()
            async with in_transaction() as connection:
                if begin:
                    await connection.execute_query(begin)
                pks = list({world.pick(chance) for _ in range(20)})
                found = await read(pks)
                first = words_of(pks, [seen(found.get(pk)) for pk in pks])
                log.add(Kind.BY_PK, start, 0, first)
                for _ in range(5):
                    with anyio.move_on_after(chance.uniform(0, pause)):
                        await over.wait()
                    found = await read(pks)
                    log.add(Kind.SNAPSHOT, start, 0, first + words_of(pks, [seen(found.get(pk)) for pk in pks]))
        except Exception as error:
            tally.failed(error, reading=True)
            await anyio.sleep(0.1)


# Writes --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Write:
    """One write under way: a statement, or a transaction."""

    nonce: int
    committing: int
    pks: set[int] = field(default_factory=set)
    deleted: list[int] = field(default_factory=list)
    """Rows that the write may delete, and certainly deletes if it is acknowledged, unless ``vain``."""
    vain: bool = False
    """True if an acknowledged delete may have found no row."""
    listed: set[int] = field(default_factory=set)
    """Rows whose lists the write has invalidated, of their team. A save that does not move a row leaves them alone."""
    written: bool = True
    """True if rows carry the nonce of the write."""
    changed: bool = False
    """True if the write, once it is acknowledged, has certainly changed a row that carries its nonce."""


class Writer:
    """One task that writes. ``number`` is that of the process, and its tasks share the ``counter``."""

    def __init__(
        self,
        subject: Subject,
        world: World,
        chance: random.Random,
        log: Log,
        tally: Tally,
        patience: Patience,
        number: int,
        counter: Callable[[], int],
    ) -> None:
        self._subject = subject
        self._world = world
        self._chance = chance
        self._log = log
        self._tally = tally
        self._patience = patience
        self._number = number
        self._counter = counter

    async def run(self, pause: float, over: anyio.Event) -> None:
        """Writes until ``over`` is set, every ``pause`` seconds on average."""
        while not over.is_set():
            await anyio.sleep(self._chance.expovariate(1 / pause))
            try:
                await self._once()
            except REFUSALS:
                pass
            except Exception as error:
                self._tally.failed(error, reading=False)

    async def _once(self) -> None:
        pk = self._world.pick(self._chance)
        item = await Item.get_or_none(id=pk)
        operation = self._create if item is None else self._operation()
        start = time.monotonic_ns()
        write = Write(self._number << NONCE_SHIFT | self._counter(), start)
        outcome = Outcome.UNKNOWN
        try:
            async with self._patience.request():
                await operation(write, item or self._fresh(pk))
                await self._subject.committed(write.pks)
            outcome = Outcome.CHANGED if write.changed else Outcome.ACKNOWLEDGED
        except REFUSALS:
            outcome = Outcome.REFUSED
            raise
        finally:
            if write.written:
                self._log.add(Kind.WRITE, start, write.nonce, (outcome, write.committing, *write.listed))
            if write.deleted and not (write.vain and outcome is Outcome.ACKNOWLEDGED):
                self._log.add(Kind.DELETE, start, 0, (outcome, write.committing, *write.deleted))

    def _operation(self) -> Callable[[Write, Item], Awaitable[None]]:
        [operation] = self._chance.choices(*zip(*self._operations, strict=True))
        return operation  # type: ignore[no-any-return]

    @property
    def _operations(self) -> list[tuple[Callable[[Write, Item], Awaitable[None]], int]]:
        return [
            (self._save, 25),
            (self._save_nonce, 12),
            (self._update, 10),
            (self._update_team, 2),
            (self._bulk_update, 6),
            (self._move_slug, 12),
            (self._move_team, 9),
            (self._delete, 9),
            (self._delete_folder, 2),
            (self._transaction, 15),
            (self._write_pair, 15),
        ]

    def _fresh(self, pk: int) -> Item:
        slug = slug_text(self._chance.choice(self._world.slugs(pk)))
        team = self._chance.choice(self._world.teams_of(pk))
        return Item(id=pk, slug=slug, team=team, nonce=0, folder_id=self._world.folder_of(pk))

    async def _did(self, write: Write, *pks: int, listed: bool = False) -> None:
        write.pks.update(pks)
        write.listed.update(pks if listed else ())
        await self._subject.statement_done(pks)

    async def _create(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        folder: Any = self._world.folder_of(item.id)
        if folder is not None:
            await Folder.bulk_create([Folder(id=folder)], ignore_conflicts=True)
        values = {"slug": item.slug, "team": item.team, "nonce": item.nonce, "folder_id": folder}
        way = self._chance.random()
        if way < 0.6:
            await self._draw_version(item)
            await Item.create(id=item.id, version=item.version, **values)
        elif way < 0.8:
            await Item.bulk_create([item])
        else:
            with self._patience.paused():  # Tortoise's own transaction: see ``_committed``
                await Item.update_or_create(id=item.id, defaults=values)
        write.changed = True
        await self._did(write, item.id, listed=True)

    async def _save_as(self, write: Write, item: Item, *fields: str) -> None:
        """Saves a row. Half of the saves refuse a row that has been deleted meanwhile. The others do not tell."""
        force = self._chance.random() < 0.5
        if not fields:
            await self._draw_version(item)
        await item.save(update_fields=fields or None, force_update=force)
        write.changed |= force

    async def _draw_version(self, item: Item) -> None:
        if self._subject.draws_versions:
            client: Any = get_connection("default")
            [row] = await client.execute_query_dict(DRAW_VERSION)
            item.version = row["version"]

    async def _save(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        await self._save_as(write, item)
        await self._did(write, item.id)

    async def _save_nonce(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        await self._save_as(write, item, "nonce")
        await self._did(write, item.id)

    async def _update(self, write: Write, item: Item) -> None:
        pks = sorted({item.id, *(self._world.pick(self._chance) for _ in range(3))})
        write.changed |= bool(await Item.filter(id__in=pks).update(nonce=write.nonce))
        await self._did(write, *pks)

    async def _update_team(self, write: Write, item: Item) -> None:
        pks: Any = await Item.filter(team=item.team).values_list("id", flat=True)
        write.changed |= bool(await Item.filter(team=item.team).update(nonce=write.nonce))
        await self._did(write, *pks)

    async def _bulk_update(self, write: Write, item: Item) -> None:
        items = await Item.filter(id__in=[item.id, *(self._world.pick(self._chance) for _ in range(3))])
        for row in items:
            row.nonce = write.nonce
        if items:
            write.changed |= bool(await Item.bulk_update(items, fields=["nonce"]))
        await self._did(write, *[row.id for row in items])

    async def _move_slug(self, write: Write, item: Item) -> None:
        item.slug = slug_text(self._chance.choice(self._world.slugs(item.id)))
        item.nonce = write.nonce
        way = self._chance.random()
        if way < 0.4:
            await self._save_as(write, item)
        elif way < 0.7:
            await self._save_as(write, item, "slug", "nonce")
        else:
            write.changed |= bool(await Item.filter(id=item.id).update(slug=item.slug, nonce=item.nonce))
        await self._did(write, item.id)

    async def _move_team(self, write: Write, item: Item) -> None:
        item.team = self._chance.choice(self._world.teams_of(item.id))
        item.nonce = write.nonce
        if self._chance.random() < 0.5:
            await self._save_as(write, item, "team", "nonce")
        else:
            write.changed |= bool(await Item.filter(id=item.id).update(team=item.team, nonce=item.nonce))
        await self._did(write, item.id, listed=True)

    async def _delete(self, write: Write, item: Item) -> None:
        """Deletes a row. If another write recreates the row at the same time, a statement may not find it."""
        write.written = False
        write.deleted = [item.id]
        way = self._chance.random()
        if way < 0.4:
            write.vain = not await Item.filter(id=item.id).delete()
        elif way < 0.7:
            async with self._committed(write):
                locked = await Item.filter(id=item.id).select_for_update().get_or_none()
                write.vain = locked is None
                if locked is not None:
                    await locked.delete()
        else:
            await item.delete()
            write.vain = True
        await self._did(write, item.id)

    async def _delete_folder(self, write: Write, item: Item) -> None:
        """Deletes a folder, and by a cascade of the database its rows. Rows leave their folder only by a delete."""
        write.written = False
        folder = item.id % self._world.folders
        pks: Any = await Item.filter(folder_id=folder).values_list("id", flat=True)
        write.deleted = list(pks)
        if self._chance.random() < 0.5:
            write.vain = not await Folder.filter(id=folder).delete()
        else:
            async with self._committed(write):
                locked = await Folder.filter(id=folder).select_for_update().get_or_none()
                write.vain = locked is None
                if locked is not None:
                    await locked.delete()
        await self._did(write, *pks)

    async def _transaction(self, write: Write, item: Item) -> None:
        """Runs a transaction with statements, a savepoint and a pause. It rolls back one in three transactions."""
        async with self._committed(write):
            for operation in self._chance.sample([self._save_nonce, self._update, self._move_slug, self._recreate], 2):
                await operation(write, item)
            listed, changed = set(write.listed), write.changed
            try:
                async with in_transaction():
                    await self._move_team(write, item)
                    if self._chance.random() < 0.5:
                        raise RolledBack
            except RolledBack:
                write.listed, write.changed = listed, changed
            await anyio.sleep(self._chance.uniform(0, 0.05))
            if self._chance.random() < 0.33:
                raise RolledBack

    async def _write_pair(self, write: Write, item: Item) -> None:
        """Writes a row and its partner in one transaction, one after the other."""
        async with self._committed(write):
            for pk in sorted([item.id, self._world.partner(item.id)]):
                write.changed |= bool(await Item.filter(id=pk).update(nonce=write.nonce))
                await self._did(write, pk)
                await anyio.sleep(self._chance.uniform(0, 0.01))

    async def _recreate(self, write: Write, item: Item) -> None:
        await item.delete()
        fresh = self._fresh(item.id)
        fresh.nonce = write.nonce
        await fresh.save(force_create=True)
        write.changed = True
        item.slug, item.team = fresh.slug, fresh.team
        await self._did(write, item.id, listed=True)

    @asynccontextmanager
    async def _committed(self, write: Write) -> AsyncIterator[None]:
        """Opens a transaction whose statements and COMMIT may be cancelled.

        Its BEGIN and the end of the block may not: Tortoise would not give the connection back, or not leave the
        transaction, so that later writes of the task would join a transaction that has ended.
        """
        async with AsyncExitStack() as stack:
            with self._patience.paused():
                client: Any = await stack.enter_async_context(in_transaction())
            yield
            write.committing = time.monotonic_ns()
            commit = client.commit

            async def commit_and_stop() -> None:
                await commit()
                self._patience.stop()

            client.commit = commit_and_stop
