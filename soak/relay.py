"""A relay of a soak: ``python -m soak.relay JSON``. It works until it is told to stop, or killed.

It obeys lines on its standard input: ``hold POINT`` (the next drain waits there, until the next line), ``quit``. It
prints ``ready``, ``held POINT`` and, at its end, ``tally`` with its counts.

The controls are relays without one of their rules: ``hasty`` deletes lines before it invalidates what they name, and
``notified`` hears only of writes while it listens, as with NOTIFY alone. They have mishaps of their own, so that they
need no faults to be caught. An order with ``leads`` has the relay
drain whether or not another one does.
"""

import asyncio
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import anyio
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache
from aiomodelcache.config import CacheConfig
from aiomodelcache.relay import Relay
from aiomodelcache.relay.election import Election
from aiomodelcache.relay.invalidation import Invalidator
from aiomodelcache.relay.relay import Drain
from aiomodelcache.relay.source import Change, Source
from soak.model import Item
from soak.worker import Order, commands, loop_factory, say

COUNTS: Final = ("drains", "lines", "claims", "cleared", "outages")
"""The counts of a relay's status that the report has."""

POINTS: Final = ("before invalidation", "before delete", "before claim")
"""Points at which a relay can be told to wait until it is killed."""

MISHAPS: Final = 0.1
"""Fraction of the drains of a control in which its missing rule matters."""
DEAF: Final = 0.2
"""Seconds for which a control is not connected."""


class Points:
    """The points of the relays of this process."""

    def __init__(self) -> None:
        self._armed = ""
        self._released = anyio.Event()
        owners: list[Any] = [Invalidator, Source, Drain]
        for owner, name, point in zip(owners, ("invalidate", "delete", "_claim"), POINTS, strict=True):
            setattr(owner, name, self._pointed(getattr(owner, name), point))

    def arm(self, point: str) -> None:
        """Makes the next drain that comes to ``point`` wait there, and those that wait go on."""
        self._armed = point
        self._released.set()

    def _pointed(self, step: Callable[..., Awaitable[Any]], point: str) -> Callable[..., Awaitable[Any]]:
        async def wait_then_go_on(*args: Any, **kwargs: Any) -> Any:
            if self._armed == point:
                self._armed, self._released = "", anyio.Event()
                say(f"held {point}")
                await self._released.wait()
            return await step(*args, **kwargs)

        return wait_then_go_on


def delete_first() -> None:
    """Makes the relays of this process delete lines when they have read them. Now and then they fail right after it."""
    source, invalidator = cast("Any", Source), cast("Any", Invalidator)
    changes, invalidate = source.changes, invalidator.invalidate

    async def delete_then_return(self: Source, limit: int, *, whole: bool = False) -> list[Change]:
        found: list[Change] = await changes(self, limit, whole=whole)
        await self.delete([change.id for change in found])
        return found

    async def fail_or_invalidate(*args: Any) -> Any:
        if random.random() < MISHAPS:
            raise OSError("a mishap between two steps of a drain")
        return await invalidate(*args)

    source.changes, invalidator.invalidate = delete_then_return, fail_or_invalidate


def forget_what_came_before() -> None:
    """Makes the relays of this process lose what comes while they are not connected, now and then."""
    source: Any = Source
    changes = source.changes

    async def forget_then_return(self: Source, limit: int, *, whole: bool = False) -> list[Change]:
        if random.random() < MISHAPS:
            await anyio.sleep(DEAF)
            while found := await changes(self, limit, whole=whole):
                await self.delete([change.id for change in found])
        heard: list[Change] = await changes(self, limit, whole=whole)
        return heard

    source.changes = forget_then_return


def lead_always() -> None:
    """Makes the relays of this process drain whether or not others do."""

    async def lead(self: Election) -> bool:
        return True

    election: Any = Election
    election.lead = lead


CONTROLS: Final[dict[str, Callable[[], None]]] = {"hasty": delete_first, "notified": forget_what_came_before}
"""The faults of relays, by subject."""


async def run(order: Order) -> None:
    """Relays until told to stop."""
    Item.CacheMeta.relay = True
    CONTROLS.get(order.subject, lambda: None)()
    points = Points()
    if order.leads:
        lead_always()
    async with TortoiseContext() as context:
        await context.init(db_url=order.database, modules={"app": ["soak.model"]})
        async with ModelCache(order.redis, config=CacheConfig(**order.settings)) as cache:
            relay = Relay(cache)
            say("ready")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(relay.run)
                async for line in commands():
                    command, _, point = line.partition(" ")
                    points.arm(point if command == "hold" else "")
                    if command == "quit":
                        break
                relay.stop()
    counts = Counter[str]()
    for status in relay.statuses:
        counts.update({name: status.data()[name] for name in COUNTS})
    say("tally " + json.dumps(counts))


def main() -> None:
    """Runs the order in the program's argument."""
    order = Order(**json.loads(sys.argv[1]))
    logging.getLogger().addHandler(logging.FileHandler(Path(order.folder) / f"relay-{order.number}.txt"))
    with asyncio.Runner(loop_factory=loop_factory(eager=False)) as runner:
        runner.run(run(order))


if __name__ == "__main__":
    main()
