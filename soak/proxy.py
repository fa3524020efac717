"""A bad network between the processes and Redis: a TCP proxy that delays, loses, cuts and repeats.

What TCP can do to a client, it does: a reply ends in the middle by a reset; a request is executed and its
reply is lost; a request arrives after its sender has given up. TCP repeats nothing, and the library sends nothing
twice. A proxy that tries again by itself does: so reads, marks and fills are repeated, as whole requests, on
another connection and after some time. Not leases and clears: a lease that is granted twice, or a stamp that
comes back, lets an old row in, so no such proxy may be put before the cache.
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from aiomodelcache.backends.redis.scripts import load_script

HOST: Final = "127.0.0.1"
GIVEN_UP: Final = (0.6, 2.0)
"""Seconds after which who sent a request has given up: longer than ``socket_timeout``."""
_ONCE: Final = (b"\r\nNX\r\n", load_script("lease").sha.encode(), load_script("clear").sha.encode())
"""What is in requests that must not be repeated."""


class BadNetwork:
    """Forwards connections to ``port`` of this machine; ``async with`` it.

    It owns a task for each connection, and one for each request that is repeated: all have ended when the block has.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.chances: dict[str, float] = {}
        """How probable each fate is, for each piece that passes.

        ``delay request``, ``late``, ``repeat``, ``delay reply``, ``cut``, ``lose``.
        """
        self.fates: Counter[str] = Counter()
        """How often each was met."""
        self._away = False
        self._open: set[asyncio.StreamWriter] = set()
        self._target = port
        self._chance = chance
        self._server: asyncio.Server
        self._tasks: TaskGroup
        self._stack: AsyncExitStack

    @property
    def url(self) -> str:
        """Where Redis is, through it."""
        return f"redis://{HOST}:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self._server = await asyncio.start_server(self._accept, HOST, 0)
            stack.callback(self._server.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def part(self) -> None:
        """Ends all connections, and lets nobody through until ``mend``."""
        self._away = True
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Lets everybody through again."""
        self._away = False

    def _draw(self, fates: Sequence[str]) -> str:
        lot = self._chance.random()
        for fate in fates:
            lot -= self.chances.get(fate, 0)
            if lot < 0:
                self.fates[fate] += 1
                return fate
        return ""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start_soon(self._connected, reader, writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if not self._away:
                await self._forward(reader, writer)
        except OSError:  # Redis is away, and so are we
            pass
        finally:
            writer.close()
            self._open.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_them = await asyncio.open_connection(HOST, self._target)
        self._open.add(to_them)

        async def forward_requests() -> None:
            with suppress(OSError):
                await self._requests(reader, to_them)
            both.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as both:
                both.start_soon(forward_requests)
                with suppress(OSError):
                    await self._replies(theirs, writer)
                writer.close()
                # What the client sent before it gave up still arrives.
                both.cancel_scope.deadline = anyio.current_time() + GIVEN_UP[1] + 1
        finally:
            to_them.close()
            self._open.discard(to_them)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            fate = self._draw(("delay request", "late", "repeat") if _repeatable(data) else ("delay request", "late"))
            if fate == "delay request":
                await anyio.sleep(self._chance.uniform(0, 0.3))
            elif fate == "late":
                await anyio.sleep(self._chance.uniform(*GIVEN_UP))
            elif fate == "repeat":
                self._tasks.start_soon(self._repeat, data)
            writer.write(data)
            await writer.drain()

    async def _repeat(self, data: bytes) -> None:
        await anyio.sleep(self._chance.uniform(0, 2))
        try:
            reader, writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            return
        try:
            writer.write(data)
            with anyio.move_on_after(1):
                await reader.read(1 << 18)
        except OSError:
            pass
        finally:
            writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            fate = self._draw(("delay reply", "cut", "lose"))
            if fate == "delay reply":
                await anyio.sleep(self._chance.uniform(0, 0.3))
            elif fate == "lose":
                while await reader.read(1 << 18):
                    pass  # and all that come after it
                return
            elif fate == "cut":
                writer.write(data[: self._chance.randrange(1, max(2, len(data)))])
                await writer.drain()
                _reset(writer)
                return
            writer.write(data)
            await writer.drain()


def _repeatable(data: bytes) -> bool:
    """Whether these are whole requests, as far as can be seen, of which none is a lease or a clear."""
    return data.startswith(b"*") and not any(once in data for once in _ONCE)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST instead of FIN."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
