"""Gates: a test holds operations of the backend and SQL statements at a step, and releases them later.

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

from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease, Leased, Marked, ReplacedEntry
from aiomodelcache.testing import CountingBackend, Ops

T = TypeVar("T")
Moment = Literal["before", "after"]
PATIENCE = 30.0
"""Seconds that a test waits for an event. Beyond it the test fails with ``TimeoutError``."""


@dataclass(eq=False)
class Gate:
    """A point at which one operation waits: ``before`` it is sent, or ``after`` its reply."""

    name: str
    moment: Moment
    skip: int
    """The number of operations of this name that pass before the held one."""
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self) -> None:
        """Waits until an operation waits at the gate."""
        async with asyncio.timeout(PATIENCE):
            await self._reached.wait()

    @property
    def is_reached(self) -> bool:
        return self._reached.is_set()

    def open(self) -> None:
        """Lets the operation pass, now or when it arrives."""
        self._open.set()

    async def wait(self) -> None:
        self._reached.set()
        async with asyncio.timeout(PATIENCE):
            await self._open.wait()


class Gates:
    """Gates by the names of operations. Each gate holds one operation."""

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
        """Returns a gate that holds the next operation of this name, after ``skip`` others."""
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

    @property
    def mark_for_save(self) -> Callable[..., Awaitable[Marked]]:
        mark = super().mark_for_save
        return lambda *args: self._gates.through("mark", lambda: mark(*args))

    @property
    def clear_and_save(self) -> Callable[..., Awaitable[list[bool]]]:
        clear = super().clear_and_save
        return lambda *args: self._gates.through("clear", lambda: clear(*args))


@contextmanager
def gated_sql(connection: BaseDBAsyncClient) -> Iterator[Gates]:
    """Yields gates before and after the statements of a connection in autocommit mode.

    An operation is named by the first word of its statement: SELECT, UPDATE, DELETE, INSERT.
    """
    gates = Gates()

    def gated(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def pass_gate(query: str, *args: Any) -> Any:
            return await gates.through(query.split(maxsplit=1)[0], lambda: execute(query, *args))

        return pass_gate

    names = ("execute_query", "execute_insert", "execute_query_dict")
    own = {name: vars(connection)[name] for name in names if name in vars(connection)}
    for name in names:
        setattr(connection, name, gated(getattr(connection, name)))
    try:
        yield gates
    finally:
        for name in names:
            delattr(connection, name)
        vars(connection).update(own)


Outside = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
"""A function that runs a coroutine in a task outside the test's transaction: see the fixture ``outside``."""

WAITING: Final = {
    "postgres": 'SELECT count(*) AS "Value" FROM pg_stat_activity '
    "WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'",
}
"""Queries for the number of statements that wait for a lock. SQLite has none."""


async def until_it_waits(connection: BaseDBAsyncClient, ops: Ops) -> None:
    """Waits until a statement was sent and, if the database can report it, waits for a lock."""
    async with asyncio.timeout(PATIENCE):
        while not ops.statements:
            await asyncio.sleep(0)
        if query := WAITING.get(connection.connection_name):
            while not int((await connection.execute_query_dict(query))[0]["Value"]):
                await asyncio.sleep(0.002)


async def until(condition: Callable[[], Any]) -> None:
    """Waits until another task, process or server has made a condition true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def awaited(awaitable: Awaitable[T]) -> T:
    """Awaits an awaitable. Turns it into a coroutine, which a task needs."""
    return await awaitable
