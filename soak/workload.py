"""Reads and writes of every kind, as the tasks of a process make them. Each is logged with its result."""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import CacheWriteError
from soak.log import KEY_SHIFT, Kind, Log, Outcome
from soak.model import Item
from soak.predicted import NONCE_SHIFT
from soak.subjects import Seen, Subject, seen
from soak.world import World, slug_text


class RolledBack(Exception):
    """Raised to roll a transaction back on purpose."""


REFUSALS: Final = (RolledBack, IntegrityError, CacheWriteError)
"""Exceptions of writes that committed nothing: rolled back on purpose, a slug that is taken, Redis away."""


@dataclass(slots=True)
class Tally:
    """Counts of a process beside its log."""

    failed_writes: int = 0
    failed_reads: int = 0
    """Number of reads that raised. No fault makes the database fail in reads, so there should be none."""
    last_error: str = ""
    near_hits: int = 0
    """Number of rounds of reading that sent no request."""

    def failed(self, error: BaseException, *, reading: bool) -> None:
        """Counts an operation that raised."""
        self.failed_reads += reading
        self.failed_writes += not reading
        self.last_error = repr(error)[:300]


# Reads ---------------------------------------------------------------------------------------------------


class Reader:
    """One task that reads."""

    def __init__(self, subject: Subject, world: World, chance: random.Random, log: Log, tally: Tally) -> None:
        self._subject = subject
        self._world = world
        self._chance = chance
        self._log = log
        self._tally = tally

    async def run(self, pause: float, over: anyio.Event) -> None:
        """Reads until ``over`` is set, every ``pause`` seconds on average."""
        while not over.is_set():
            await anyio.sleep(self._chance.expovariate(1 / pause))
            try:
                await self._once()
            except Exception as error:
                self._tally.failed(error, reading=True)

    async def _once(self) -> None:
        way = self._chance.random()
        size = self._chance.choice(self._subject.batches)
        if way < 0.6:
            await self.by_pk(self._pks(size))
        elif way < 0.85:
            await self.by_slug(self._slugs(size))
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
        self._log.add(Kind.BY_PK, start, 0, _words(pks, seen))

    async def by_slug(self, slugs: list[int]) -> None:
        """Reads rows by slug and logs their versions."""
        start = time.monotonic_ns()
        seen = await self._subject.by_slug(slugs)
        self._log.add(Kind.BY_SLUG, start, 0, _words(slugs, seen))

    async def by_team(self, teams: list[int]) -> None:
        """Reads lists and logs the versions of their rows."""
        start = time.monotonic_ns()
        lists = await self._subject.by_team(teams)
        for team, rows in zip(teams, lists, strict=True):
            self._log.add(Kind.BY_TEAM, start, team, [word for row in rows for word in row])

    async def everything(self) -> None:
        """Reads all rows, slugs and lists once."""
        world = self._world
        for at in range(1, world.rows + world.ghosts + 1, 100):
            await self.by_pk(list(range(at, min(at + 100, world.rows + world.ghosts + 1))))
        slugs = sorted({slug for pk in range(1, world.rows + 1) for slug in world.slugs(pk)})
        for index in range(0, len(slugs), 100):
            await self.by_slug(slugs[index : index + 100])
        for team in range(0, world.teams, 10):
            await self.by_team(list(range(team, min(team + 10, world.teams))))


def _words(keys: list[int], seen: list[Seen]) -> list[int]:
    return [
        word for key, (version, nonce) in zip(keys, seen, strict=True) for word in (key << KEY_SHIFT | version, nonce)
    ]


async def hold_snapshots(
    read: Callable[[list[int]], Awaitable[Mapping[int, Item]]],
    world: World,
    chance: random.Random,
    log: Log,
    tally: Tally,
) -> None:
    """Keeps one transaction after the other open for long, each with a snapshot of its begin.

    Rows in a snapshot are rightly old. They must stay the same to the end, and must not get into the cache.
    """
    while True:
        try:
            start = time.monotonic_ns()
            async with in_transaction() as connection:
                await connection.execute_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                pks = list({world.pick(chance) for _ in range(20)})
                found = await read(pks)
                first = _words(pks, [seen(found.get(pk)) for pk in pks])
                log.add(Kind.BY_PK, start, 0, first)
                for _ in range(5):
                    await anyio.sleep(chance.uniform(0, 2))
                    found = await read(pks)
                    log.add(Kind.SNAPSHOT, start, 0, first + _words(pks, [seen(found.get(pk)) for pk in pks]))
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
    listed: set[int] = field(default_factory=set)
    """Rows whose lists the write has invalidated."""
    written: bool = True
    """True if rows carry the nonce of the write."""


class Writer:
    """One task that writes. ``number`` is that of the process, and its tasks share the ``counter``."""

    def __init__(
        self,
        subject: Subject,
        world: World,
        chance: random.Random,
        log: Log,
        tally: Tally,
        number: int,
        counter: Callable[[], int],
    ) -> None:
        self._subject = subject
        self._world = world
        self._chance = chance
        self._log = log
        self._tally = tally
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
            await operation(write, item or self._fresh(pk))
            await self._subject.committed(write.pks)
            outcome = Outcome.ACKNOWLEDGED
        except REFUSALS:
            outcome = Outcome.REFUSED
            raise
        finally:
            if write.written:
                self._log.add(Kind.WRITE, start, write.nonce, (outcome, write.committing, *write.listed))
            if write.deleted:
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
            (self._transaction, 15),
        ]

    def _fresh(self, pk: int) -> Item:
        slug = slug_text(self._chance.choice(self._world.slugs(pk)))
        return Item(id=pk, slug=slug, team=self._chance.choice(self._world.teams_of(pk)), nonce=0)

    async def _did(self, write: Write, *pks: int, listed: bool = False) -> None:
        write.pks.update(pks)
        write.listed.update(pks if listed else ())
        await self._subject.statement_done(pks)

    async def _create(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        values = {"slug": item.slug, "team": item.team, "nonce": item.nonce}
        way = self._chance.random()
        if way < 0.6:
            await Item.create(id=item.id, **values)
        elif way < 0.8:
            await Item.bulk_create([item])
        else:
            await Item.update_or_create(id=item.id, defaults=values)
        await self._did(write, item.id, listed=True)

    async def _save(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        await item.save()
        await self._did(write, item.id, listed=True)

    async def _save_nonce(self, write: Write, item: Item) -> None:
        item.nonce = write.nonce
        await item.save(update_fields=["nonce"])
        await self._did(write, item.id)

    async def _update(self, write: Write, item: Item) -> None:
        pks = sorted({item.id, *(self._world.pick(self._chance) for _ in range(3))})
        await Item.filter(id__in=pks).update(nonce=write.nonce)
        await self._did(write, *pks)

    async def _update_team(self, write: Write, item: Item) -> None:
        pks: Any = await Item.filter(team=item.team).values_list("id", flat=True)
        await Item.filter(team=item.team).update(nonce=write.nonce)
        await self._did(write, *pks)

    async def _bulk_update(self, write: Write, item: Item) -> None:
        items = await Item.filter(id__in=[item.id, *(self._world.pick(self._chance) for _ in range(3))])
        for row in items:
            row.nonce = write.nonce
        if items:
            await Item.bulk_update(items, fields=["nonce"])
        await self._did(write, *[row.id for row in items])

    async def _move_slug(self, write: Write, item: Item) -> None:
        item.slug = slug_text(self._chance.choice(self._world.slugs(item.id)))
        item.nonce = write.nonce
        way = self._chance.random()
        if way < 0.4:
            await item.save()
        elif way < 0.7:
            await item.save(update_fields=["slug", "nonce"])
        else:
            await Item.filter(id=item.id).update(slug=item.slug, nonce=item.nonce)
        await self._did(write, item.id, listed=way < 0.4)

    async def _move_team(self, write: Write, item: Item) -> None:
        item.team = self._chance.choice(self._world.teams_of(item.id))
        item.nonce = write.nonce
        if self._chance.random() < 0.5:
            await item.save(update_fields=["team", "nonce"])
        else:
            await Item.filter(id=item.id).update(team=item.team, nonce=item.nonce)
        await self._did(write, item.id, listed=True)

    async def _delete(self, write: Write, item: Item) -> None:
        """Deletes a row, and records the delete only if it is certain.

        If another write recreates the row at the same time, a statement may not find it.
        """
        write.written = False
        way = self._chance.random()
        if way < 0.4:
            if await Item.filter(id=item.id).delete():
                write.deleted.append(item.id)
        elif way < 0.7:
            async with self._committed(write):
                locked = await Item.filter(id=item.id).select_for_update().get_or_none()
                if locked is not None:
                    await locked.delete()
                    write.deleted.append(item.id)
        else:
            await item.delete()
        await self._did(write, item.id)

    async def _transaction(self, write: Write, item: Item) -> None:
        """Runs a transaction with statements, a savepoint and a pause. It rolls back one in three transactions."""
        async with self._committed(write):
            for operation in self._chance.sample([self._save_nonce, self._update, self._move_slug, self._recreate], 2):
                await operation(write, item)
            listed = set(write.listed)
            try:
                async with in_transaction():
                    await self._move_team(write, item)
                    if self._chance.random() < 0.5:
                        raise RolledBack
            except RolledBack:
                write.listed = listed
            await anyio.sleep(self._chance.uniform(0, 0.05))
            if self._chance.random() < 0.33:
                raise RolledBack

    async def _recreate(self, write: Write, item: Item) -> None:
        await item.delete()
        fresh = self._fresh(item.id)
        fresh.nonce = write.nonce
        await fresh.save(force_create=True)
        item.slug, item.team = fresh.slug, fresh.team
        await self._did(write, item.id, listed=True)

    @asynccontextmanager
    async def _committed(self, write: Write) -> AsyncIterator[None]:
        async with in_transaction():
            yield
            write.committing = time.monotonic_ns()
