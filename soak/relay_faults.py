"""``Relays``: the relays of a soak, each behind networks of its own, and the faults that happen to them.

A relay is killed and comes back, is frozen, is doubled by one that drains although another one does, and is cut off
from Redis, from the database, or from both. Most of these last for up to twice ``relay_lag``, so claims end at times.
"""

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import anyio

from soak.processes import Process
from soak.proxy import BadNetwork
from soak.relay import POINTS
from soak.worker import Order

RELAY_FAULTS: Final = ("relay-kill", "relay-freeze", "relay-double", "relay-part", "relay-network")
MODULE: Final = "soak.relay"
_TO_REDIS: Final = {"delay request": 0.05, "late": 0.02, "repeat": 0.1, "delay reply": 0.05, "cut": 0.02, "lose": 0.02}
_TO_DATABASE: Final = {"delay request": 0.05, "late": 0.01, "delay reply": 0.05, "cut": 0.02, "lose": 0.01}


@dataclass
class _Relay:
    process: Process
    redis: BadNetwork
    database: BadNetwork | None
    """None if the database is a file."""

    @property
    def networks(self) -> dict[str, BadNetwork]:
        return {"Redis": self.redis} | ({"the database": self.database} if self.database else {})


class Relays:
    """The relays of one run. Use it by ``async with``. ``order``: of the first relay, at the servers themselves."""

    def __init__(self, order: Order, number: int, lag: float, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._order = order
        self._number = number
        self._lag = lag
        self._chance = chance
        self._relays: list[_Relay] = []
        self._numbers = itertools.count(order.number)
        self._stack: AsyncExitStack
        self.schedule: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "relay-kill": (8, self._kill),
            "relay-freeze": (12, self._freeze),
            "relay-double": (15, self._double),
            "relay-part": (12, self._part),
            "relay-network": (10, self._bad_network),
        }
        """Faults by name, as in ``Faults``."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._kill_all)
            networks: list[tuple[BadNetwork, BadNetwork | None]] = []
            for _ in range(self._number):
                redis = await stack.enter_async_context(_network(self._order.redis, self._chance))
                is_server = urlsplit(self._order.database).port is not None
                behind = _network(self._order.database, self._chance) if is_server else nullcontext()
                networks.append((redis, await stack.enter_async_context(behind)))
            async with anyio.create_task_group() as starting:
                for redis, database in networks:
                    starting.start_soon(self._add, redis, database)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _add(self, redis: BadNetwork, database: BadNetwork | None) -> None:
        order = self._order
        order = replace(order, redis=_through(order.redis, redis))
        if database is not None:
            order = replace(order, database=_through(order.database, database))
        self._relays.append(_Relay(await self._start(order), redis, database))

    async def finish(self) -> list[dict[str, int]]:
        """Ends the relays. Returns their counts."""
        for relay in self._relays:
            await relay.process.finish()
        return [relay.process.tally for relay in self._relays]

    async def _kill_all(self) -> None:
        for relay in self._relays:
            await relay.process.kill()

    async def _start(self, order: Order) -> Process:
        return await Process.start(replace(order, number=next(self._numbers)), MODULE)

    def _drawn(self) -> _Relay:
        return self._chance.choice(self._relays)

    async def _sleep(self, least: float, most: float) -> None:
        """Sleeps for so many times ``relay_lag``."""
        await anyio.sleep(self._lag * self._chance.uniform(least, most))

    # Faults -----------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        relay, point = self._drawn(), self._chance.choice([*POINTS, "anywhere"])
        held = None if point == "anywhere" else await self._hold(point)
        if held is None:
            point = "anywhere"
        else:
            relay = held
            await self._sleep(0, 0.5)
        await relay.process.kill()
        self.counts[f"relay: kill -9, {point}"] += 1
        await self._sleep(0, 1.5)
        relay.process = await self._start(relay.process.order)

    async def _hold(self, point: str) -> _Relay | None:
        """Returns a relay that waits at a point, or None if nothing was written, or none leads."""
        for relay in self._chance.sample(self._relays, len(self._relays)):
            relay.process.tell(f"hold {point}")
            try:
                await relay.process.wait_for("held", self._lag)
                return relay
            except TimeoutError:
                relay.process.tell("go on")
        return None

    async def _freeze(self) -> None:
        relay = self._drawn()
        process = relay.process
        process.freeze()
        self.counts["relay: SIGSTOP"] += 1
        await self._sleep(0, 2)
        process.thaw()

    async def _double(self) -> None:
        """Has one more relay drain, and then kills it."""
        process = await self._start(replace(self._order, leads=True))
        self.counts["relay: two drain at once"] += 1
        try:
            await self._sleep(0.5, 2)
        finally:
            await process.kill()

    async def _part(self) -> None:
        networks = self._drawn().networks
        names = self._chance.choice([*([name] for name in networks), [*networks]])
        for name in names:
            networks[name].part()
        await self._sleep(0, 1.5)
        for name in names:
            networks[name].mend()
        self.counts[f"relay: cut off from {' and '.join(names)}"] += 1

    async def _bad_network(self) -> None:
        networks = self._drawn().networks
        for name, network in networks.items():
            network.chances = dict(_TO_REDIS if name == "Redis" else _TO_DATABASE)
        await self._sleep(0.5, 2)
        for network in networks.values():
            network.chances = {}
        self.counts["relay: bad network"] += 1


def _network(url: str, chance: random.Random) -> BadNetwork:
    port = urlsplit(url).port
    assert port is not None
    return BadNetwork(port, random.Random(chance.random()))


def _through(url: str, network: BadNetwork) -> str:
    """Returns the URL of a server through a network."""
    parts = urlsplit(url)
    return url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{network.port}", 1)
