"""Connections to one Redis server on which requests follow each other without waiting for replies.

Owns what goes over such a connection: bytes out, replies in, in order, and what the server tells unasked
(``CLIENT TRACKING``), which goes to a ``Near``. redis-py makes it (TLS, names and
passwords, Sentinel, ``redis_lives``) and is left out from then on, because its pool, locks and stream
readers cost several times what the request itself does. Must not know what else the commands mean.

Nothing is ever sent twice. A request that was given up leaves no reply behind: replies are counted off, whoever
still waits for them. A connection that keeps silent for ``timeout`` seconds while it owes a reply is cut, and all
that wait on it fail; the next request makes a new one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, TimeoutError

from aiomodelcache.backends.near import Near

Command = tuple[bytes | str | int, ...]
Replies = list[Any]
ReplyCallback = Callable[[Replies | Exception], None]
"""Called once with the replies to a request, errors of the server among them, or with what failed. Must not raise."""

_NOTHING: Final = object()
"""What the parser says when it has no whole reply."""
_pack: Final[Callable[[Command], bytes]] = cast("Any", hiredis).pack_command


def pack(commands: Iterable[Command]) -> bytes:
    """Returns the bytes of a request."""
    return b"".join(map(_pack, commands))


_Push: Final[type] = cast("Any", hiredis).PushNotification
_TRACK: Final = pack([("HELLO", 3), ("CLIENT", "TRACKING", "ON")])
_PING: Final = pack([("PING",)])


class PipelinedConnection(asyncio.Protocol):
    """One connection. Takes over the transport of a redis-py connection that has just been made."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: Exception | None = None
        """Why nothing can be sent any more."""
        self.near: Near | None = None
        """Who is told what the server tells."""
        self._connection = connection
        self._timeout: float | None = connection.socket_timeout
        self._loop = loop
        self._parser = cast("Any", hiredis).Reader(
            protocolError=InvalidResponse, replyError=connection._parser.parse_error, notEnoughData=_NOTHING
        )
        self._waiting: deque[tuple[ReplyCallback, int, float]] = deque()
        self._replies: Replies = []
        self._silent_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = connection._writer.transport
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # that it is lost may have been said to the former protocol
            self._fail(ConnectionError("Connection closed by server."))

    def send(self, request: bytes, count: int) -> "asyncio.Future[Replies]":
        """Sends a request of ``count`` commands. Answers with as many replies, errors of the server among them.

        Fails with ``ConnectionError`` or ``TimeoutError``; then nobody knows which commands were run.
        """
        if self.lost is not None:
            raise ConnectionError(f"Connection lost: {self.lost}") from self.lost
        future: asyncio.Future[Replies] = self._loop.create_future()
        self.start(request, count, partial(_settle, future))
        return future

    def start(self, request: bytes, count: int, taker: ReplyCallback) -> None:
        """Sends a request of ``count`` commands for ``taker``. Not on a wire that is lost: no reply will ever come,
        and writing to it may raise anything."""
        now = time.monotonic()
        self._transport.write(request)
        if not self._waiting:
            self._silent_since = now
        self._waiting.append((taker, count, now))
        if self._timer is None and self._timeout is not None:
            self._timer = self._loop.call_later(self._timeout, self._look)

    def data_received(self, data: bytes) -> None:
        self._silent_since = time.monotonic()
        self._parser.feed(data)
        next_reply = self._parser.gets
        try:
            while (reply := next_reply()) is not _NOTHING:
                if type(reply) is _Push:
                    self._told(reply)
                    continue
                self._replies.append(reply)
                taker, count, sent = self._waiting[0]
                if len(self._replies) == count:
                    self._waiting.popleft()
                    if self.near is not None:
                        self.near.answered(sent)
                    replies, self._replies = self._replies, []
                    taker(replies)
        except (RedisError, IndexError) as error:  # no protocol of Redis, or nobody asked
            self._fail(ConnectionError(f"Unexpected reply: {error}"))

    async def track(self, near: Near) -> None:
        """Has the server tell ``near`` of every change of what is read here from now on. It may refuse."""
        sent = time.monotonic()
        for reply in await self.send(_TRACK, 2):
            if isinstance(reply, Exception):
                near.refused(reply)
                return
        if self.lost is None:
            self.near = near
            near.begin(sent, self._ping)

    def _ping(self) -> None:
        if self.lost is None:
            self.start(_PING, 1, _forget)

    def _told(self, message: Any) -> None:
        if self.near is not None and message[0] == b"invalidate":
            self.near.invalidate(message[1])

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(str(exc) if exc is not None else "Connection closed by server."))
        self._former.connection_lost(exc)  # whoever closes it through redis-py waits for this

    def _look(self) -> None:
        """Cuts the connection if it has been silent for too long, and looks again when it may be."""
        self._timer = None
        if self._timeout is None or not self._waiting:
            return
        left = self._silent_since + self._timeout - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._fail(TimeoutError("Timeout reading from the server"))

    def _fail(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            self._transport.abort()
            if self.near is not None:
                self.near.lost()
        waiting, self._waiting = self._waiting, deque()
        for taker, _, _ in waiting:
            taker(error)

    async def close(self) -> None:
        """Ends the connection; what still waits on it fails."""
        if self._timer is not None:
            self._timer.cancel()
        self._fail(ConnectionError("Connection closed."))
        await self._connection.disconnect(nowait=True)


class ReconnectingConnection:
    """The way to one server: a wire, made when it is first needed and anew when the last one was lost."""

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self.near: Near | None = None
        """Who is to be told of every change of what is read here."""
        self._make_connection = make_connection
        self._wire: PipelinedConnection | None = None
        self._tracks_for: Near | None = None
        self._connecting: asyncio.Task[PipelinedConnection] | None = None

    async def send(self, request: bytes, count: int) -> Replies:
        """Sends a request of ``count`` commands and returns as many replies, errors of the server among them.

        Raises what redis-py raises when the server cannot be reached or does not answer in time.
        """
        wire = self._wire
        if wire is None or wire.lost is not None:
            wire = await self._connected()
        elif self._tracks_for is not self.near:
            await self._track(wire)
        return await wire.send(request, count)

    def start(self, request: bytes, count: int, taker: ReplyCallback) -> bool:
        """Sends a request at once, if there is a wire to send it on. Returns whether."""
        wire = self._wire
        if wire is None or wire.lost is not None or self._tracks_for is not self.near:
            return False
        wire.start(request, count, taker)
        return True

    async def _connected(self) -> PipelinedConnection:
        """One attempt to connect for all who want to send meanwhile; who gives up does not end it for others."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._forget_attempt)
        return await asyncio.shield(self._connecting)

    def _forget_attempt(self, attempt: "asyncio.Task[PipelinedConnection]") -> None:
        self._connecting = None

    async def _connect(self) -> PipelinedConnection:
        if self._wire is not None:
            await self._wire.close()
        connection = self._make_connection()
        try:
            await connection.connect()
        except BaseException:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            raise
        self._wire = wire = PipelinedConnection(connection, asyncio.get_running_loop())
        await self._track(wire)
        return wire

    async def _track(self, wire: PipelinedConnection) -> None:
        self._tracks_for = wire.near = None
        if self.near is not None:
            self._tracks_for = self.near
            await wire.track(self.near)

    async def aclose(self) -> None:
        """Disconnects."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._wire is not None:
            await self._wire.close()


def _settle(future: "asyncio.Future[Replies]", replies: Replies | Exception) -> None:
    if future.done():  # who asked was cancelled
        return
    if isinstance(replies, Exception):
        future.set_exception(replies)
    else:
        future.set_result(replies)


def _forget(replies: Replies | Exception) -> None:
    """Takes what nobody waits for."""
