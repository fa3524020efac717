"""Connections to one Redis server on which requests follow each other without waiting for replies.

Owns the traffic of such a connection: bytes out, and replies in, in order. Messages that the server sends unasked
(``CLIENT TRACKING``) go to a ``Near``. Must not know what other commands mean.

redis-py makes the connection (TLS, names and passwords, Sentinel, ``incarnation``) and is bypassed from then on. Its
pool, locks and stream readers cost several times as much as the request itself.

Nothing is ever sent twice. Replies are matched to requests by position, so the reply to an abandoned request is read
and discarded. A connection that owes a reply and is silent for ``timeout`` seconds is closed. All requests that wait on
it fail, and the next request makes a new connection.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, TimeoutError

from aiomodelcache.backends.channels import Channel
from aiomodelcache.backends.near import Near
from aiomodelcache.encoding.together import KnownKeys

Command = tuple[bytes | str | int, ...]
"""The name and the arguments of one command."""
Replies = list[Any]
"""The replies to one request, in the order of its commands."""
ReplyCallback = Callable[[Replies | Exception], None]
"""A callback that is called once, with the replies to a request or with the exception that ended it.

Errors of the server are among the replies. The callback must not raise.
"""

MANY_KEYS: Final = 8
"""Number of keys from which an MGET is packed without hiredis."""
_NOTHING: Final = object()
"""The value that the parser returns when it has no complete reply."""
_pack: Final[Callable[[Command], bytes]] = cast("Any", hiredis).pack_command


def pack_commands(commands: Iterable[Command]) -> bytes:
    """Returns the bytes of a request."""
    return b"".join(map(_pack, commands))


class _Lengths(dict[int, bytes]):
    """The lines that announce arguments, by the arguments' length."""

    def __missing__(self, length: int) -> bytes:
        return self.setdefault(length, b"$%d" % length)


_length_line: Final = _Lengths().__getitem__


def pack_mget(keys: Sequence[bytes]) -> bytes:
    """Returns the bytes of an MGET. For many keys, hiredis would take many times as long as one ``join``."""
    if (number := len(keys)) < MANY_KEYS:
        return _pack(("MGET", *keys))
    if type(keys) is KnownKeys and keys.request:
        return keys.request
    lines = [b"*%d\r\n$4\r\nMGET" % (number + 1), *[b""] * (2 * number + 1)]
    lines[1:-1:2] = map(_length_line, map(len, keys))
    lines[2:-1:2] = keys
    request = b"\r\n".join(lines)
    return keys.keep(request) if type(keys) is KnownKeys else request


_Push: Final[type] = cast("Any", hiredis).PushNotification
_HELLO: Final = pack_commands([("HELLO", 3)])
_TRACK: Final = pack_commands([("CLIENT", "TRACKING", "ON")])
_PING: Final = pack_commands([("PING",)])


def interleaves(hello: Any) -> bool:
    """Returns True if a server, by its reply to HELLO, may send messages in the middle of a reply.

    Redis before 6.2.7 does so when a key expires during an MGET. The replies that follow are then taken for others.
    """
    version = cast("dict[bytes, Any]", hello).get(b"version", b"") if isinstance(hello, dict) else b""
    return [int(part) for part in re.findall(rb"\d+", version)] < [6, 2, 7]


class PipelinedConnection(asyncio.Protocol):
    """One connection, with any number of requests in flight.

    Takes over the transport of a redis-py connection that has just been made.
    """

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: Exception | None = None
        """The reason why nothing can be sent any more, or None."""
        self.near: Near | Channel | None = None
        """The receiver of the server's messages."""
        self._connection = connection
        self._timeout: float | None = connection.socket_timeout
        self._loop = loop
        self._parser = cast("Any", hiredis).Reader(
            protocolError=InvalidResponse, replyError=connection._parser.parse_error, notEnoughData=_NOTHING
        )
        self._waiting: deque[tuple[ReplyCallback, int, float]] = deque()
        self._replies: Replies = []
        self._has_messages = False
        """True if the server may send messages between replies."""
        self._silent_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = connection._writer.transport
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # the loss may have been reported to the former protocol only
            self._fail(ConnectionError("Connection closed by server."))

    def send(self, request: bytes, count: int) -> "asyncio.Future[Replies]":
        """Sends a request of ``count`` commands. Returns a future for as many replies, errors of the server among them.

        The future fails with ``ConnectionError`` or ``TimeoutError``. It is then unknown which commands were run.
        """
        if self.lost is not None:
            raise ConnectionError(f"Connection lost: {self.lost}") from self.lost
        future: asyncio.Future[Replies] = self._loop.create_future()
        self.start(request, count, partial(_resolve, future))
        return future

    def start(self, request: bytes, count: int, callback: ReplyCallback) -> None:
        """Sends a request of ``count`` commands, whose replies go to ``callback``.

        Must not be called on a lost connection: no reply will ever come, and writing to it may raise anything.
        """
        now = time.monotonic()
        self._transport.write(request)
        if not self._waiting:
            self._silent_since = now
        self._waiting.append((callback, count, now))
        if self._timer is None and self._timeout is not None:
            self._timer = self._loop.call_later(self._timeout, self._check_silence)

    def start_many(self, request: bytes, count: int, callback: ReplyCallback) -> None:
        """Does the same as ``start`` at less cost for each of many replies.

        The parser takes the replies for one array, whose head it is given here. That is possible if nothing else is
        sent to this end before them. Otherwise the parser moves the rest of its bytes after nearly each reply.
        """
        if self._waiting or self._has_messages:
            self.start(request, count, callback)
        else:
            self._parser.feed(b"*%d\r\n" % count)
            self.start(request, 1, partial(_unpack, callback))

    def data_received(self, data: bytes) -> None:
        self._silent_since = time.monotonic()
        self._parser.feed(data)
        next_reply = self._parser.gets
        try:
            while (reply := next_reply()) is not _NOTHING:
                if type(reply) is _Push:
                    self._on_push(reply)
                    continue
                self._replies.append(reply)
                callback, count, sent = self._waiting[0]
                if len(self._replies) == count:
                    self._waiting.popleft()
                    if self.near is not None and not isinstance(reply, Exception):
                        self.near.answered(sent)
                    replies, self._replies = self._replies, []
                    callback(replies)
        except (RedisError, IndexError) as error:  # bytes that are not Redis protocol, or a reply without a request
            self._fail(ConnectionError(f"Unexpected reply: {error}"))
        except ValueError:  # redis-py reads the addresses in MOVED and ASK
            self._fail(ConnectionError("Unexpected reply: a redirection without an address"))

    async def track(self, near: Near | Channel) -> None:
        """Asks the server to report every change of the entries read here to ``near``. The server may refuse."""
        self._has_messages = True
        [hello] = await self.send(_HELLO, 1)
        if interleaves(hello):
            return near.refused(hello if isinstance(hello, Exception) else "it is older than Redis 6.2.7")
        sent = time.monotonic()
        [tracking] = await self.send(_TRACK, 1)
        if isinstance(tracking, Exception):
            return near.refused(tracking)
        if self.lost is None:
            self.near = near
            near.begin(sent, self._ping)

    def own_name(self) -> Any:
        """Returns the address of this end, as its socket tells it."""
        return self._transport.get_extra_info("sockname")

    def _ping(self, key: bytes | None = None) -> None:
        if self.lost is None:
            self.start(_PING if key is None else pack_commands([("PTTL", key)]), 1, _ignore)

    def _on_push(self, message: Any) -> None:
        if self.near is not None and message[0] == b"invalidate":
            self.near.invalidate(message[1])

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(str(exc) if exc is not None else "Connection closed by server."))
        self._former.connection_lost(exc)  # redis-py's own disconnect waits for this

    def _check_silence(self) -> None:
        """Closes the connection if it has been silent for too long, else schedules the next check."""
        self._timer = None
        if self._timeout is None or not self._waiting:
            return
        remaining = self._silent_since + self._timeout - time.monotonic()
        if remaining > 0:
            self._timer = self._loop.call_later(remaining, self._check_silence)
        else:
            self._fail(TimeoutError("Timeout reading from the server"))

    def _fail(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            self._transport.abort()
            if self.near is not None:
                self.near.lost()
        waiting, self._waiting = self._waiting, deque()
        for callback, _, _ in waiting:
            callback(error)

    async def close(self) -> None:
        """Closes the connection. Requests in flight fail."""
        if self._timer is not None:
            self._timer.cancel()
        self._fail(ConnectionError("Connection closed."))
        await self._connection.disconnect(nowait=True)


class ReconnectingConnection:
    """A connection to one server, made when it is first needed and again after it was lost."""

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self.near: Near | Channel | None = None
        """The receiver of every change of the entries that are read here."""
        self._make_connection = make_connection
        self._current: PipelinedConnection | None = None
        self._tracked_by: Near | Channel | None = None
        self._connecting: asyncio.Task[PipelinedConnection] | None = None

    @property
    def is_open(self) -> bool:
        """True if a request can be sent without connecting first."""
        return self._current is not None and self._current.lost is None

    async def send(self, request: bytes, count: int) -> Replies:
        """Sends a request of ``count`` commands. Returns as many replies, or raises redis-py's exceptions."""
        pipelined = self._current
        if pipelined is None or pipelined.lost is not None:
            pipelined = await self._connected()
        elif self._tracked_by is not self.near:
            await self._track(pipelined)
        return await pipelined.send(request, count)

    @property
    def is_ready(self) -> bool:
        """True if ``start`` can send a request."""
        return self.is_open and self._tracked_by is self.near

    def start(self, request: bytes, count: int, callback: ReplyCallback) -> bool:
        """Sends a request at once if there is a connection to send it on. Returns True if it was sent."""
        pipelined = self._current
        if pipelined is None or pipelined.lost is not None or self._tracked_by is not self.near:
            return False
        pipelined.start(request, count, callback)
        return True

    def start_many(self, request: bytes, count: int, callback: ReplyCallback) -> bool:
        """Sends a request of several commands as ``start`` does, at less cost for each reply."""
        pipelined = self._current
        if pipelined is None or pipelined.lost is not None or self._tracked_by is not self.near:
            return False
        pipelined.start_many(request, count, callback)
        return True

    def own_address(self) -> str:
        """Returns this end's address of the connection as the server would spell it, or "" if it is not one of TCP."""
        name = self._current.own_name() if self._current is not None else None
        if not isinstance(name, tuple):
            return ""
        host, port = cast("tuple[str, int]", name)[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _connected(self) -> PipelinedConnection:
        """Returns the connection that all requests of the meantime share. To cancel one does not end the attempt."""
        if (attempt := self._connecting) is None:
            self._connecting = attempt = asyncio.create_task(self._connect())
            attempt.add_done_callback(self._end_attempt)
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise ConnectionError("Connection closed.")
        return attempt.result()

    def _end_attempt(self, attempt: "asyncio.Task[PipelinedConnection]") -> None:
        self._connecting = None
        if not attempt.cancelled():
            attempt.exception()  # there may be no request left to raise it

    async def _connect(self) -> PipelinedConnection:
        if self._current is not None:
            await self._current.close()
        connection = self._make_connection()
        try:
            await connection.connect()
        except BaseException:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            raise
        self._current = pipelined = PipelinedConnection(connection, asyncio.get_running_loop())
        await self._track(pipelined)
        return pipelined

    async def _track(self, pipelined: PipelinedConnection) -> None:
        self._tracked_by = pipelined.near = None
        if self.near is not None:
            self._tracked_by = self.near
            await pipelined.track(self.near)

    async def aclose(self) -> None:
        """Disconnects."""
        while self._connecting is not None:  # again, because wait_for of Python 3.11 may lose a cancellation
            self._connecting.cancel()
            await asyncio.wait([self._connecting], timeout=0.1)
        if self._current is not None:
            await self._current.close()


def _resolve(future: "asyncio.Future[Replies]", replies: Replies | Exception) -> None:
    if future.done():  # the caller was cancelled
        return
    if isinstance(replies, Exception):
        future.set_exception(replies)
    else:
        future.set_result(replies)


def _unpack(callback: ReplyCallback, replies: Replies | Exception) -> None:
    """Passes on replies that were parsed as one array."""
    callback(replies[0] if isinstance(replies, list) else replies)


def _ignore(replies: Replies | Exception) -> None:
    """Discards the reply to a request without a waiter."""
