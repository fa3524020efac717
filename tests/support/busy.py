"""A database that is busy: its statements end only when the test lets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from tests.support.gates import Gates, awaited, gated_sql


class Busy:
    """A connection whose statements end only when the test lets them."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._held = [gates.hold("SELECT", "after") for _ in range(200)]

    @property
    def in_flight(self) -> int:
        return sum(gate.is_reached and not gate._open.is_set() for gate in self._held)

    def are_in_flight(self, number: int) -> bool:
        return self.in_flight >= number

    def end(self, number: int = 200) -> None:
        for gate in [gate for gate in self._held if gate.is_reached and not gate._open.is_set()][:number]:
            gate.open()

    def end_all(self) -> None:
        for gate in self._held:
            gate.open()


@asynccontextmanager
async def busy(connection: BaseDBAsyncClient) -> AsyncIterator[Busy]:
    with gated_sql(connection) as gates:
        held = Busy(gates)
        try:
            yield held
        finally:
            held.end_all()


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def started(query: Any) -> asyncio.Task[Any]:
    """Begins a lookup in a tick of its own. Those of one tick that cannot share a statement send theirs in turn."""
    task = asyncio.create_task(awaited(query))
    await settled()
    return task
