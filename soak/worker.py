"""One process of a soak: ``python -m soak.worker JSON``. It reads and writes until it is told to stop, or killed.

It obeys lines on its standard input: ``hold POINT`` (the next write waits there), ``slow SECONDS`` (maximum delay of
the database's answers), ``quit``. It prints ``ready``, ``held POINT`` and, at its end, ``tally`` with its counts.
"""

import asyncio
import itertools
import json
import logging
import random
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from tortoise.context import TortoiseContext

from aiomodelcache import CacheNotOpenWarning
from aiomodelcache.config import CacheConfig
from soak import subjects
from soak.alarms import Alarms
from soak.databases import kind_of
from soak.derived import Derived, Forgetful, Timed, Torn
from soak.log import UNENDED, Kind, Log
from soak.model import Item
from soak.patience import Endless, Patience
from soak.responses import Agreeing, Responses
from soak.subjects import (
    LIBRARY,
    RELAYED,
    Blind,
    Deaf,
    Hoarding,
    Library,
    Relayed,
    Subject,
    Through,
    Unmarked,
    Unmasked,
    Unshielded,
)
from soak.workload import Reader, Tally, Writer, hold_snapshots
from soak.world import World

BY_NAME: Final[dict[str, type[Library]]] = {
    **dict.fromkeys(LIBRARY, Library),
    "derived": Derived,
    "responses": Responses,
    "agreeing": Agreeing,
    "through": Through,
    "blind": Blind,
    "torn": Torn,
    "timed": Timed,
    "forgetful": Forgetful,
    "deaf": Deaf,
    "unshielded": Unshielded,
    "unmarked": Unmarked,
    "unmasked": Unmasked,
    "hoarding": Hoarding,
    **dict.fromkeys(RELAYED, Relayed),
}
"""The library, the library without one of its guards, and cached functions without recorded dependencies."""
CONTROLS: Final[dict[str, type[Subject]]] = {
    "look-aside": subjects.LookAside,
    "delete-after-commit": subjects.DeleteAfterCommit,
    "tombstone": subjects.Tombstone,
}
PEERS: Final = ("cashews", "aiocache")
HAS_EAGER_TASKS: Final = hasattr(asyncio, "eager_task_factory")
"""True on Python 3.12 and newer."""
SUBJECTS: Final = (*BY_NAME, *CONTROLS, *PEERS)


@dataclass(frozen=True, slots=True)
class Order:
    """Task of a process: its servers, its subject and its load."""

    number: int
    seed: int
    folder: str
    database: str
    redis: str
    subject: str = "aiomodelcache"
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the library's ``CacheConfig``."""
    allowtime: float = 0.0
    """The library's ``allowtime`` in seconds, with DYNAMIC. Zero means none."""
    skew: float = 0.0
    """Seconds by which the clock of the process is wrong."""
    readers: int = 3
    writers: int = 8
    read_pause: float = 0.05
    write_pause: float = 0.1
    batches: tuple[int, ...] = ()
    """Numbers of answers of one read, drawn at random. Empty for those of the subject."""
    pages: float | None = None
    """Fraction of the reads that are of pages. None for the subject's."""
    cancel: bool = False
    """True to cancel requests of every second task at random moments."""
    eager: bool = False
    """True to use ``asyncio.eager_task_factory``."""
    snapshot_pause: float = 2.0
    """Maximum seconds between two reads of a long transaction."""
    stuck_after: float = 30.0
    """Maximum seconds of a request after the end of the faults. Beyond it, its task counts as stuck."""
    world: dict[str, int] = field(default_factory=dict)
    at_rest: bool = False
    """True to read all rows twice and end, instead."""
    leads: bool = False
    """True to have a relay drain although another one does."""


def make_subject(order: Order, world: World, chance: random.Random) -> Subject:
    """Creates the cache under test."""
    if kind := BY_NAME.get(order.subject):
        return kind(order.redis, world, chance, CacheConfig(**order.settings), order.allowtime)
    if order.subject in PEERS:
        from soak import peers

        peer = peers.Cashews if order.subject == "cashews" else peers.Aiocache
        return peer(order.redis, world, chance)
    return CONTROLS[order.subject](order.redis, world, chance)


class SlowAnswers:
    """Delays answers of the database in autocommit mode, after the database has sent them."""

    def __init__(self, connection: Any, chance: random.Random) -> None:
        self.max_delay = 0.0
        """Maximum delay in seconds. Zero leaves only short delays."""
        self._chance = chance
        for name in ("execute_query", "execute_query_dict", "execute_insert"):
            setattr(connection, name, self._slowed(getattr(connection, name)))

    def _slowed(self, execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def slowed(*args: Any, **kwargs: Any) -> Any:
            answer = await execute(*args, **kwargs)
            if self.max_delay and self._chance.random() < 0.2:
                await anyio.sleep(self._chance.uniform(0, self.max_delay))
            elif self._chance.random() < 0.05:
                await anyio.sleep(self._chance.uniform(0, 0.02))
            return answer

        return slowed


class Worker:
    """Tasks of the process."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.world = World(**order.world)
        self.chance = random.Random(f"{order.seed}/{order.number}")
        self.log = Log(Path(order.folder) / f"{order.number}.log")
        self.tally = Tally()
        self._held_since = 0

    async def run(self) -> None:
        """Works until told to stop."""
        async with TortoiseContext() as context:
            await context.init(
                config={
                    "connections": {"default": self.order.database},
                    "apps": {"app": {"models": ["soak.model"], "default_connection": "default"}},
                }
            )
            connection = context.connections.get("default")
            made = make_subject(self.order, self.world, self.chance)
            made.on_open = Alarms(made, self.log).watch
            async with made as subject:
                subject.batches = self.order.batches or subject.batches
                subject.pages = subject.pages if self.order.pages is None else self.order.pages
                subject.on_undelivered, subject.on_mark_failed = self._undelivered, self._mark_failed
                self._slow = SlowAnswers(connection, self.chance)
                say("ready")
                await (self._rest(subject) if self.order.at_rest else self._work(subject))
                self.tally.near_hits = subject.near_hits()
                self.tally.rows_stored = subject.rows_stored()
                self.tally.compared, self.tally.uncompared = subject.verified()
                self.tally.not_modified = subject.not_modified()
                self.tally.hits, self.tally.relay_bypassed = subject.relayed()
            self.tally.leaked = await connections_in_use(connection)
        self.log.close()
        say("tally " + json.dumps(asdict(self.tally)))

    async def _rest(self, subject: Subject) -> None:
        reader = Reader(subject, self.world, self.chance, self.log, self.tally, Endless(self.chance))
        await reader.everything()
        await reader.everything()

    async def _work(self, subject: Subject) -> None:
        order, world = self.order, self.world
        counter = itertools.count(1).__next__
        chances = (random.Random(f"{order.seed}/{order.number}/{task}") for task in itertools.count())
        over = anyio.Event()
        read: Any = Item.cache.in_bulk if isinstance(subject, Library) else partial(Item.in_bulk, field_name="id")
        async with anyio.create_task_group() as tasks:
            for number in range(order.readers):
                reader = Reader(subject, world, next(chances), self.log, self.tally, self._patience(number))
                tasks.start_soon(self._to_its_end, reader.run, order.read_pause, over)
            for number in range(order.writers):
                patience = self._patience(number)
                writer = Writer(subject, world, next(chances), self.log, self.tally, patience, order.number, counter)
                tasks.start_soon(self._to_its_end, writer.run, order.write_pause, over)
            begin = kind_of(order.database).snapshot
            hold = partial(hold_snapshots, begin=begin, pause=order.snapshot_pause)
            tasks.start_soon(hold, read, world, next(chances), self.log, self.tally, over)
            await self._obey(subject)
            over.set()
            # A scope cancels again and again, because clients of servers may swallow a cancellation.
            tasks.cancel_scope.deadline = anyio.current_time() + order.stuck_after

    def _patience(self, number: int) -> Patience:
        kind = Patience if self.order.cancel and number % 2 else Endless
        return kind(random.Random(f"{self.order.seed}/{self.order.number}/patience/{number}"))

    async def _to_its_end(
        self, run: Callable[[float, anyio.Event], Awaitable[None]], pause: float, over: anyio.Event
    ) -> None:
        try:
            await run(pause, over)
        except asyncio.CancelledError:
            self.tally.stuck += 1
            raise

    async def _obey(self, subject: Subject) -> None:
        async for line in commands():
            command, _, argument = line.partition(" ")
            if command == "hold":
                subject.arm(argument, self._reached)
            elif command == "slow":
                self._slow.max_delay = float(argument)
            else:
                return

    def _reached(self, point: str) -> None:
        self.log.flush()
        say(f"held {point}")

    def _undelivered(self, undelivered: bool) -> None:
        if undelivered:
            self._held_since = time.monotonic_ns()
            self.log.add(Kind.HELD, self._held_since, UNENDED)
            self.log.flush()
        else:
            self.log.add(Kind.HELD, self._held_since)

    def _mark_failed(self, start: int) -> None:
        self.log.add(Kind.HELD, start)
        self.log.flush()


async def connections_in_use(connection: Any) -> int:
    """Returns the number of connections in use. Waits for a moment until there are none."""

    def in_use() -> int:
        dialect = connection.capabilities.dialect
        if dialect == "sqlite":
            return int(connection._lock.locked())
        pool = connection._pool
        return int(pool.size - pool.freesize if dialect == "mysql" else pool.get_size() - pool.get_idle_size())

    with anyio.move_on_after(5):
        while in_use():
            await anyio.sleep(0.05)
    return in_use()


async def commands() -> AsyncIterator[str]:
    """Yields the lines that the process that started this one sends."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode():
        yield line.strip()


def say(line: str) -> None:
    """Sends a line to the process that started this one."""
    print(line, flush=True)


def main() -> None:
    """Runs the order in the program's argument."""
    order = Order(**json.loads(sys.argv[1]))
    if order.skew:
        real = time.time
        time.time = lambda: real() + order.skew
    library = order.subject in LIBRARY
    handler = logging.FileHandler(Path(order.folder) / f"{order.number}.txt") if library else logging.NullHandler()
    logging.getLogger().addHandler(handler)
    if order.subject not in BY_NAME:
        warnings.simplefilter("ignore", CacheNotOpenWarning)  # another cache is open
    with asyncio.Runner(loop_factory=loop_factory(eager=order.eager)) as runner:
        runner.run(Worker(order).run())


def loop_factory(*, eager: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns the factory of the event loop: uvloop's, for more reads in the same time, if it can be had.

    asyncio's own loop runs eager tasks, because uvloop refuses their factory (0.23).
    """
    if eager:
        return eager_loop
    with suppress(ImportError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return asyncio.new_event_loop


def eager_loop() -> asyncio.AbstractEventLoop:
    """Returns an event loop that runs each new task at once, to its first suspension."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


if __name__ == "__main__":
    main()
