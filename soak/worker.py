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
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from tortoise.context import TortoiseContext

from aiomodelcache.config import CacheConfig
from soak import subjects
from soak.log import UNENDED, Kind, Log
from soak.model import Item
from soak.subjects import LIBRARY, NEAR, Deaf, Library, Subject
from soak.workload import Reader, Tally, Writer, hold_snapshots
from soak.world import World

CONTROLS: Final[dict[str, type[Subject]]] = {
    "look-aside": subjects.LookAside,
    "delete-after-commit": subjects.DeleteAfterCommit,
    "tombstone": subjects.Tombstone,
}
PEERS: Final = ("cashews", "aiocache")
SUBJECTS: Final = (*LIBRARY, "deaf", *CONTROLS, *PEERS)


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
    world: dict[str, int] = field(default_factory=dict)
    at_rest: bool = False
    """True to read all rows twice and end, instead."""


def make_subject(order: Order, world: World, chance: random.Random) -> Subject:
    """Creates the cache under test."""
    if order.subject in (*LIBRARY, *NEAR):
        kind = Deaf if order.subject == "deaf" else Library
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
            async with make_subject(self.order, self.world, self.chance) as subject:
                subject.on_undelivered, subject.on_mark_failed = self._undelivered, self._mark_failed
                self._slow = SlowAnswers(connection, self.chance)
                say("ready")
                await (self._rest(subject) if self.order.at_rest else self._work(subject))
                self.tally.near_hits = subject.near_hits()
        self.log.close()
        say("tally " + json.dumps(asdict(self.tally)))

    async def _rest(self, subject: Subject) -> None:
        reader = Reader(subject, self.world, self.chance, self.log, self.tally)
        await reader.everything()
        await reader.everything()

    async def _work(self, subject: Subject) -> None:
        order, world = self.order, self.world
        counter = itertools.count(1).__next__
        chances = (random.Random(f"{order.seed}/{order.number}/{task}") for task in itertools.count())
        over = anyio.Event()
        read: Any = Item.cache.in_bulk if isinstance(subject, Library) else partial(Item.in_bulk, field_name="id")
        async with anyio.create_task_group() as tasks:
            for _ in range(order.readers):
                reader = Reader(subject, world, next(chances), self.log, self.tally)
                tasks.start_soon(reader.run, order.read_pause, over)
            for _ in range(order.writers):
                writer = Writer(subject, world, next(chances), self.log, self.tally, order.number, counter)
                tasks.start_soon(writer.run, order.write_pause, over)
            tasks.start_soon(hold_snapshots, read, world, next(chances), self.log, self.tally)
            await self._obey(subject)
            over.set()
            # A scope cancels again and again, because clients of servers may swallow a cancellation.
            tasks.cancel_scope.deadline = anyio.current_time() + 5

    async def _obey(self, subject: Subject) -> None:
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := (await lines.readline()).decode():
            command, _, argument = line.strip().partition(" ")
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
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    with suppress(ImportError):  # more reads in the same time
        import uvloop

        run = uvloop.run
    run(Worker(order).run())


if __name__ == "__main__":
    main()
