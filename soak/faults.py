"""``Faults``: the faults of a soak, each with its own schedule and its own line in the report.

Each fault heals itself at its end. The times in which Redis lost data are kept for ``predicted``.
"""

import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import anyio
from anyio import to_thread
from redis import RedisError

from soak.databases import Database
from soak.predicted import Circumstances
from soak.processes import Process
from soak.proxy import BadNetwork
from soak.subjects import POINTS
from tests.support.servers import RedisServer

_BAD: Final[dict[str, float]] = {
    "delay request": 0.02, "late": 0.004, "repeat": 0.1, "delay reply": 0.02, "cut": 0.006, "lose": 0.004,
}  # fmt: skip


class Faults:
    """Faults of one run, on one Redis, one database and several processes."""

    def __init__(
        self,
        chance: random.Random,
        redis: RedisServer,
        database: Database,
        network: BadNetwork,
        processes: list[Process],
        *,
        pace: float = 1.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.circumstances = Circumstances()
        self.ended: list[Process] = []
        """Killed processes."""
        self._chance = chance
        self._redis = redis
        self._database = database
        self._network = network
        self._processes = processes
        self._numbers = itertools.count(len(processes) + 1)
        self._pace = pace
        self._over = anyio.Event()
        self.alone = anyio.Lock()
        """Lock of the faults that change Redis, so that one runs at a time."""
        self._weather = anyio.Lock()
        self.schedule: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "kill": (8, self._kill),
            "freeze": (25, self._freeze),
            "restart": (40, self._restart),
            "restore": (50, self._restore),
            "flush": (15, self._flush),
            "evict": (30, self._evict),
            "scripts": (10, self._forget_scripts),
            "network": (12, self._bad_network),
            "part": (30, self._part),
            "slow": (10, self._slow),
            "terminate": (12, self._terminate),
        }
        """Faults by name, each with the average number of seconds between two of them."""

    async def run(self, names: tuple[str, ...], duration: float) -> None:
        """Runs the faults for ``duration`` seconds, each at least once. At its end all faults have healed.

        An error in one fault ends all of them and is raised in an ``ExceptionGroup``.
        """
        async with anyio.create_task_group() as faults:
            for name in names:
                faults.start_soon(self._repeat, *self.schedule[name], name=name)
            await anyio.sleep(duration)
            self._over.set()

    async def _repeat(self, interval: float, fault: Callable[[], Awaitable[None]]) -> None:
        happened = False
        while not self._over.is_set() or not happened:
            pause = min(self._chance.expovariate(1 / interval), 3 * interval) * self._pace
            with anyio.move_on_after(pause):
                await self._over.wait()
                if happened:
                    return
            happened = True
            try:
                await fault()
            except RedisError:
                self.counts["faults that a busy machine did not let happen"] += 1

    async def _sleep(self, least: float, most: float) -> None:
        await anyio.sleep(self._chance.uniform(least, most))

    @asynccontextmanager
    async def losing(self, what: str) -> AsyncIterator[None]:
        """Records the block as a time in which Redis loses data."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self.circumstances.losses.append((start, time.monotonic_ns()))
            self.counts[what] += 1

    # Processes --------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        at = self._chance.randrange(len(self._processes))
        process = self._processes[at]
        point = self._chance.choice([*POINTS, "anywhere"])
        if point != "anywhere":
            process.tell(f"hold {point}")
            try:
                await process.wait_for("held", 5)
                await self._sleep(0, 1.5)
            except TimeoutError:
                point = "anywhere"  # no writer reached the point
        await process.kill()
        self.ended.append(process)
        self.counts[f"kill -9, {point}"] += 1
        self._processes[at] = await Process.start(replace(process.order, number=next(self._numbers)))

    async def _slow(self) -> None:
        self._tell_all(f"slow {self._chance.choice([0.1, 0.5, 2.0])}")
        await self._sleep(1, 4)
        self._tell_all("slow 0")
        self.counts["slow SQL"] += 1

    def _tell_all(self, command: str) -> None:
        for process in self._processes:
            process.tell(command)

    # Redis ------------------------------------------------------------------------------------------

    async def _freeze(self) -> None:
        async with self.alone:
            await to_thread.run_sync(self._redis.stop)
            await self._sleep(0.1, 3)
            await to_thread.run_sync(self._redis.cont)
        self.counts["Redis SIGSTOP"] += 1

    async def _restart(self) -> None:
        async with self.alone, self.losing("Redis SIGKILL, back empty"):
            await to_thread.run_sync(self._redis.kill)
            await self._sleep(0, 1.5)
            await to_thread.run_sync(self._redis.restart)

    async def _restore(self) -> None:
        async with self.alone:
            await to_thread.run_sync(self._redis.save)
            await self._sleep(0.5, 3)
            async with self.losing("Redis SIGKILL, back with an old RDB"):
                await to_thread.run_sync(self._redis.kill)
                await self._sleep(0, 1)
                await to_thread.run_sync(self._redis.restore)

    async def _flush(self) -> None:
        async with self.alone, self.losing("FLUSHALL"):
            await to_thread.run_sync(self._redis.flush)

    async def _forget_scripts(self) -> None:
        async with self.alone:
            await to_thread.run_sync(self._send, "SCRIPT", "FLUSH")
        self.counts["SCRIPT FLUSH"] += 1

    async def _evict(self) -> None:
        policy = self._chance.choice(["allkeys-random", "allkeys-lru", "volatile-random", "noeviction"])
        async with self.alone:
            start = time.monotonic_ns()
            try:
                await to_thread.run_sync(self._limit_memory, policy)
                await self._sleep(1, 4)
                self.counts["keys evicted"] += await to_thread.run_sync(self._evicted)
            finally:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._send, "CONFIG", "SET", "maxmemory", "0")
                if policy != "noeviction":
                    self.circumstances.losses.append((start, time.monotonic_ns()))
            self.counts[f"maxmemory, {policy}"] += 1

    def _limit_memory(self, policy: str) -> None:
        with self._redis.client() as client:
            client.config_resetstat()
            memory: Any = client.info("memory")
            startup, used = memory["used_memory_startup"], memory["used_memory"]
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", startup + (used - startup) * 2 // 3)

    def _evicted(self) -> int:
        with self._redis.client() as client:
            stats: Any = client.info("stats")
            return int(stats["evicted_keys"])

    def _send(self, *command: str) -> None:
        for attempts_left in range(4, -1, -1):  # on a busy machine Redis may time out
            try:
                with self._redis.client() as client:
                    client.execute_command(*command)
                return
            except RedisError:
                if not attempts_left:
                    raise

    async def _bad_network(self) -> None:
        chosen = self._chance.sample(sorted(_BAD), 3)
        self._network.chances = {fate: _BAD[fate] for fate in chosen}
        await self._sleep(2, 6)
        self._network.chances = {}

    async def _part(self) -> None:
        """Cuts half of the processes off from Redis, while the others still reach it."""
        self._network.part()
        await self._sleep(0.5, 4)
        self._network.mend()
        self.counts["network: parted"] += 1

    # Database ---------------------------------------------------------------------------------------

    async def _terminate(self) -> None:
        """Slows COMMITs down, and ends some connections during a COMMIT; or what the database has in their place."""
        async with self._weather:
            await self._database.disturb(self._chance, self.counts)
