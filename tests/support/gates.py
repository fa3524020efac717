"""Gates: a test holds operations of the store and SQL where it likes, and lets them go when it likes.

>>> async def example(store: GatedBackend, connection: BaseDBAsyncClient) -> None:
...     gate = store.hold("fill")                        # the next fill waits before it is sent
...     async with asyncio.TaskGroup() as tasks:
...         tasks.create_task(read())
...         await gate.reached()
...         await write()
...         gate.open()
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease, Leased, ReplacedEntry
from aiomodelcache.testing import CountingBackend, Ops

T = TypeVar("T")
Moment = Literal["before", "after"]
PATIENCE = 30.0
"""Seconds until a test fails that waits for what does not come."""


@dataclass(eq=False)
class Gate:
    """Where one operation waits: ``before`` it is sent, or ``after`` it was answered."""

    name: str
    moment: Moment
    skip: int
    """So many operations of this name pass first."""
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self) -> None:
        """Returns when somebody waits here."""
        async with asyncio.timeout(PATIENCE):
            await self._reached.wait()

    @property
    def is_reached(self) -> bool:
        return self._reached.is_set()

    def open(self) -> None:
        """Lets whoever waits, or will, pass."""
        self._open.set()

    async def wait(self) -> None:
        self._reached.set()
        async with asyncio.timeout(PATIENCE):
            await self._open.wait()


class Gates:
    """Gates by the names of operations; each is passed by one operation."""

    def __init__(self) -> None:
        self._gates: list[Gate] = []

    def hold(self, name: str, moment: Moment = "before", *, skip: int = 0) -> Gate:
        gate = Gate(name, moment, skip)
        self._gates.append(gate)
        return gate

    async def through(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        gate = self._take(name)
        if gate is not None and gate.moment == "before":
            await gate.wait()
        answer = await operation()
        if gate is not None and gate.moment == "after":
            await gate.wait()
        return answer

    def _take(self, name: str) -> Gate | None:
        taken: Gate | None = None
        for gate in [gate for gate in self._gates if gate.name == name]:
            if gate.skip:
                gate.skip -= 1
            elif taken is None:
                taken = gate
                self._gates.remove(gate)
        return taken


class GatedBackend(CountingBackend):
    """A counting backend with gates, by the names of ``Backend``'s methods."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._gates = Gates()

    def hold(self, name: str, moment: Moment = "before", *, skip: int = 0) -> Gate:
        """Holds the next operation of this name, after ``skip`` that pass."""
        return self._gates.hold(name, moment, skip=skip)

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._gates.through("read", lambda: super(GatedBackend, self).read(keys))

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        return await self._gates.through(
            "lease", lambda: super(GatedBackend, self).lease(leases, token, ttl_ms, versions)
        )

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        return await self._gates.through("fill", lambda: super(GatedBackend, self).fill(fills))

    async def mark(self, *args: Any) -> dict[bytes, ReplacedEntry]:
        return await self._gates.through("mark", lambda: super(GatedBackend, self).mark(*args))

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        return await self._gates.through("clear", lambda: super(GatedBackend, self).clear(clears, token, stamps))


@contextmanager
def gated_sql(connection: BaseDBAsyncClient) -> Iterator[Gates]:
    """Gates in front of and behind the statements of this connection in autocommit mode.

    Named by the statement's first word: SELECT, UPDATE, DELETE, INSERT.
    """
    gates = Gates()

    def gated(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def pass_gate(query: str, *args: Any) -> Any:
            return await gates.through(query.split(maxsplit=1)[0], lambda: execute(query, *args))

        return pass_gate

    names = ("execute_query", "execute_insert", "execute_query_dict")
    for name in names:
        setattr(connection, name, gated(getattr(connection, name)))
    try:
        yield gates
    finally:
        for name in names:
            delattr(connection, name)


Outside = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
"""Runs a coroutine in a task that is no part of the test's transaction: see the fixture ``outside``."""

WAITING: Final = {
    "postgres": "SELECT count(*) AS n FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SELECT variable_value AS n FROM information_schema.global_status "
    "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
}
"""How many statements wait for a lock. SQLite does not tell."""


async def until_it_waits(connection: BaseDBAsyncClient, ops: Ops) -> None:
    """Returns when a statement has been sent and, where the database tells, waits for somebody's lock."""
    async with asyncio.timeout(PATIENCE):
        while not ops.statements:
            await asyncio.sleep(0)
        if query := WAITING.get(connection.connection_name):
            while not int((await connection.execute_query_dict(query))[0]["n"]):
                await asyncio.sleep(0.002)


async def awaited(awaitable: Awaitable[T]) -> T:
    """A coroutine of anything that can be awaited, to make a task of."""
    return await awaitable
