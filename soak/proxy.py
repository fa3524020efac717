"""``BadNetwork``: a TCP proxy between the processes and a server that delays, loses, cuts and repeats data.

It does everything that TCP can do to a client: a reply ends in the middle by a reset; a request is executed and its
reply is lost; a request arrives after its sender has given up. TCP repeats nothing, and the library sends nothing
twice. But a proxy that retries by itself repeats requests. So this one repeats reads, marks and fills, as whole
requests, on another connection and after a delay. It does not repeat leases and clears: a lease that is granted twice,
or a stamp that comes back, would let an old row in. A proxy that repeats them must not be used with the cache.
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
"""Range of seconds after which the sender of a request has given up: longer than ``socket_timeout``."""
_ONCE: Final = (b"\r\nNX\r\n", load_script("lease").sha.encode(), load_script("clear").sha.encode())
"""Bytes that occur in requests that must not be repeated."""


class BadNetwork:
    """Forwards connections to ``port`` of this machine. Use it by ``async with``.

    It owns a task for each connection, and one for each repeated request. All of them have ended when the block ends.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.chances: dict[str, float] = {}
        """Probability of each fate, for each piece of data that passes.

        Fates are ``delay request``, ``late``, ``repeat``, ``delay reply``, ``cut`` and ``lose``.
        """
        self.fates: Counter[str] = Counter()
        """Number of pieces that met each fate."""
        self._away = False
        self._open: set[asyncio.StreamWriter] = set()
        self._target = port
        self._chance = chance
        self._server: asyncio.Server
        self._tasks: TaskGroup
        self._stack: AsyncExitStack

    @property
    def port(self) -> int:
        """The port of the proxy."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The URL of Redis through the proxy."""
        return f"redis://{HOST}:{self.port}/0"

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
        """Ends all connections, and refuses new ones until ``mend``."""
        self._away = True
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Accepts connections again."""
        self._away = False

    def _draw(self, fates: Sequence[str]) -> str:
        lot = self._chance.random()
        for fate in fates:
            lot -= self.chances.get(fate, 0)
            if lot < 0:
                self.fates[fate] += 1
                return fate
        return ""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Runs in a task of asyncio's: AnyIO starts tasks from within tasks only."""
        self._tasks.start_soon(self._connected, reader, writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if not self._away:
                await self._forward(reader, writer)
        except OSError:  # Redis is away, so this connection ends, too
            pass
        finally:
            writer.close()
            self._open.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(HOST, self._target)
        self._open.add(server_writer)

        async def forward_requests() -> None:
            with suppress(OSError):
                await self._requests(reader, server_writer)
            both.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as both:
                both.start_soon(forward_requests)
                with suppress(OSError):
                    await self._replies(server_reader, writer)
                writer.close()
                # Requests that the client sent before it gave up still arrive.
                both.cancel_scope.deadline = anyio.current_time() + GIVEN_UP[1] + 1
        finally:
            server_writer.close()
            self._open.discard(server_writer)

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
                    pass  # later replies are lost, too
                return
            elif fate == "cut":
                writer.write(data[: self._chance.randrange(1, max(2, len(data)))])
                await writer.drain()
                _reset(writer)
                return
            writer.write(data)
            await writer.drain()


def _repeatable(data: bytes) -> bool:
    """Returns True if the data seem to be whole requests and contain no lease and no clear."""
    return data.startswith(b"*") and not any(mark in data for mark in _ONCE)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST instead of FIN."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
