"""Connections match replies by position, and fail all their requests when they are lost or not to be trusted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, TimeoutError

from aiomodelcache.backends.redis.connection import MANY_KEYS, ReconnectingConnection, pack_commands, pack_mget

HOST = "127.0.0.1"
PING = pack_commands([("PING",)])


@pytest.mark.parametrize("number", [1, MANY_KEYS - 1, MANY_KEYS, 100, 1_500])
def test_an_mget_of_many_keys_is_packed_as_hiredis_packs_it(number: int) -> None:
    keys = [bytes([at % 256]) * (at % 113) + b"\r\n$3\r\n" for at in range(number)] + [b""]
    assert pack_mget(keys) == pack_commands([("MGET", *keys)])
    assert pack_mget(tuple(keys)) == pack_commands([("MGET", *keys)])


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def no_handshake(connection: object) -> None:
    pass


@asynccontextmanager
async def connection_to(
    answer: Answer, timeout: float = 10.0, handshake: Callable[[Any], Awaitable[None]] = no_handshake
) -> AsyncIterator[ReconnectingConnection]:
    """Opens a connection to a server that treats each of its connections with ``answer``."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with suppress(OSError, EOFError):  # the other end may hang up
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]

    def make_connection() -> Connection:
        return Connection(
            host=HOST,
            port=port,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=handshake,
        )

    connection = ReconnectingConnection(make_connection)
    try:
        yield connection
    finally:
        await connection.aclose()
        server.close()
        await asyncio.gather(*serving)


async def pings(reader: asyncio.StreamReader, count: int) -> None:
    await reader.readexactly(len(PING) * count)


async def test_replies_are_matched_to_requests_in_order_however_they_arrive() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await pings(reader, 6)
        for byte in b"$5\r\nfirst\r\n:2\r\n-NOSCRIPT no\r\n*2\r\n$-1\r\n$1\r\nx\r\n+OK\r\n$0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        await reader.read()

    async with connection_to(answer) as connection:
        one, three, two = await asyncio.gather(
            connection.send(PING, 1), connection.send(PING * 3, 3), connection.send(PING * 2, 2)
        )
    assert one == [b"first"]
    assert three[0] == 2
    assert isinstance(three[1], NoScriptError)
    assert three[2] == [None, b"x"]
    assert two == [b"OK", b""]


@pytest.mark.slow(because="waits for a timeout")
async def test_the_timeout_limits_silence_not_the_whole_reply() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await pings(reader, 5)
        for _ in range(5):  # each within the timeout, but not all together
            await asyncio.sleep(0.5)
            writer.write(b"+OK\r\n")
        await reader.read()

    async with connection_to(answer, timeout=2.2) as connection:
        assert await connection.send(PING * 5, 5) == [b"OK"] * 5
        with pytest.raises(TimeoutError):
            await asyncio.gather(connection.send(PING, 1), connection.send(PING, 1))


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+OK\r\n+unasked for\r\n"])
async def test_an_unexpected_reply_closes_the_connection(nonsense: bytes) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await pings(reader, 2)
        writer.write(nonsense if connections == 1 else b"+OK\r\n+OK\r\n")
        await reader.read()

    async with connection_to(answer) as connection:
        try:
            assert await connection.send(PING * 2, 2) == [b"OK"] * 2
        except ConnectionError:
            assert b"HTTP" in nonsense
        assert await connection.send(PING * 2, 2) == [b"OK"] * 2
        assert connections == 2


async def test_a_connection_lost_during_a_reply_fails_its_requests_and_is_replaced() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await pings(reader, 3)
            writer.write(b"+OK\r\n$100\r\nhalf of")
        else:
            await pings(reader, 1)
            writer.write(b"+PONG\r\n")
            await reader.read()

    async with connection_to(answer) as connection:
        results = await asyncio.gather(*[connection.send(PING, 1) for _ in range(3)], return_exceptions=True)
        assert results[0] == [b"OK"]
        assert [type(result) for result in results[1:]] == [ConnectionError] * 2
        assert await connection.send(PING, 1) == [b"PONG"]


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_connection_lost_while_it_is_made_is_replaced(turns: int, before: bool) -> None:
    """It may be lost before ``PipelinedConnection`` takes it over, or after that but before the caller resumes."""
    connections = 0

    async def pass_turns(transport: asyncio.Transport) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        transport.abort()

    async def handshake(connection: Any) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            return
        transport = connection._writer.transport
        if before:
            transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
        else:
            aborting.append(asyncio.create_task(pass_turns(transport)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await pings(reader, 1)
        writer.write(b"+PONG\r\n")
        await reader.read()

    aborting: list[asyncio.Task[None]] = []
    async with connection_to(answer, handshake=handshake) as connection, asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await connection.send(PING, 1) == [b"PONG"]
        await asyncio.gather(*aborting)
        try:
            assert await connection.send(PING, 1) == [b"PONG"]
        except ConnectionError:  # lost after the first request, but before the second
            assert await connection.send(PING, 1) == [b"PONG"]


async def test_closing_fails_requests_that_wait_for_a_connection_and_cancels_none() -> None:
    connecting = asyncio.Event()

    async def handshake(connection: object) -> None:
        connecting.set()
        await asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with connection_to(answer, handshake=handshake) as connection:
        requests = [asyncio.create_task(connection.send(PING, 1)) for _ in range(2)]
        await connecting.wait()
        await connection.aclose()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert list(map(type, results)) == [ConnectionError, ConnectionError]
