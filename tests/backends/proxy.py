"""A TCP proxy between a backend and its server that records, loses and cuts the traffic.

Knows bytes only. Tests wait for the arrival of bytes, so no test needs to sleep.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Literal, Self

import anyio

HOST = "127.0.0.1"


class Proxy:
    """A proxy that forwards connections to ``port``. Entered with ``async with``."""

    def __init__(self, port: int) -> None:
        self.requests = bytearray()
        """All bytes that clients have sent."""
        self.replies = bytearray()
        """All bytes that the server has sent, whether or not they were forwarded."""
        self.answering = asyncio.Event()
        """Replies are held back while this is not set."""
        self.answering.set()
        self.held = b""
        """Only replies on connections on which these bytes were sent are held back."""
        self.doomed: bytes | None = None
        """A connection on which these bytes are sent gets no more replies."""
        self.fate: Literal["lose", "hang up", "drop"] = "lose"
        """The fate of a doomed connection.

        It stays open, breaks when the server answers, or breaks before the server gets the request. A client that
        connects again is served, so it could resend.
        """
        self.cut_at: int | None = None
        """Number of bytes of ``requests`` to forward before ``rest`` is set."""
        self.rest = asyncio.Event()
        self.edit: Callable[[bytes], bytes] = bytes
        """Changes what the server sends."""
        self.target = port
        """The port that new connections lead to."""
        self._news = asyncio.Event()
        self._cut = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        # No task group: the task that enters it must also leave it, but another task leaves a fixture.

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Breaks all connections, and all new ones until ``mend``."""
        self._cut.set()

    def mend(self) -> None:
        """Accepts connections again."""
        self._cut = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until ``condition`` holds. It may depend on ``requests`` and ``replies``."""
        with anyio.fail_after(30):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._cut.is_set():
                await self._forward(reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:  # the server is down, so the connection is closed
            return
        doomed, sent = asyncio.Event(), bytearray()

        async def end_all_after(work: Callable[[], Awaitable[object]]) -> None:
            with suppress(OSError):
                await work()
            ends.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as ends:
                ends.start_soon(end_all_after, partial(self._pump_requests, reader, their_writer, doomed, sent))
                ends.start_soon(end_all_after, partial(self._pump_replies, their_reader, writer, doomed, sent))
                ends.start_soon(end_all_after, self._cut.wait)
        finally:
            their_writer.close()

    async def _pump_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, sent: bytearray
    ) -> None:
        while data := await reader.read(65_536):
            before = len(self.requests)
            self.requests += data
            sent += data
            self._news.set()
            if self.doomed is not None and self.doomed in data:
                if self.fate == "drop":
                    return
                doomed.set()
            if self.cut_at is not None and before <= self.cut_at < before + len(data):
                writer.write(data[: self.cut_at - before])
                data = data[self.cut_at - before :]
                await self.rest.wait()
            writer.write(data)
            await writer.drain()

    async def _pump_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, sent: bytearray
    ) -> None:
        while data := await reader.read(65_536):
            self.replies += data
            self._news.set()
            if doomed.is_set():
                if self.fate == "hang up":
                    return
                continue
            if self.held in sent:
                await self.answering.wait()
            writer.write(self.edit(data))
            await writer.drain()
