"""The load: connections that each send one request after the other, and compare every response with its page.

A connection is a protocol without tasks or streams, so that a load takes a fraction of the CPU that its server takes.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.samples import percentile
from tests.support.servers.server import HOST

PATIENCE = 60.0
"""Seconds after its end by which a load must have got all of its responses."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A request and the body of its response, or None if any will do."""

    request: bytes
    body: bytes | None

    @classmethod
    def of(cls, path: str, body: bytes | None) -> "Requested":
        return cls(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode(), body)


class Connection(asyncio.Protocol):
    """A connection that sends a request when the response to the last one is complete, until the requests end."""

    def __init__(self, requests: Iterator[Requested]) -> None:
        self._requests = requests
        self.latencies: list[float] = []
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The last body."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send(b"")

    def _send(self, last: bytes) -> None:
        self._received = b""
        requested = next(self._requests, None)
        if requested is None:
            self._transport.close()
            self.done.set_result(last)
            return
        self._expected = requested
        self._sent = time.perf_counter()
        self._transport.write(requested.request)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head, blank, body = received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200") or self._expected.body not in (None, body):
            self._transport.close()
            self.done.set_exception(AssertionError(f"{self._expected.request!r} was answered by {received!r}"))
            return
        self._send(body)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(AssertionError(f"The server closed a connection: {error}"))

    def close(self) -> None:
        """Gives up the rest. Does nothing at the end of the requests."""
        self.done.cancel()
        self._transport.close()


async def _send(port: int, requests: Iterator[Requested], concurrency: int, patience: float) -> list[Connection]:
    """Sends all requests over several connections. Returns the connections."""
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    try:
        async with asyncio.timeout(patience):
            for _ in range(concurrency):
                _, connection = await loop.create_connection(lambda: Connection(requests), HOST, port)
                connections.append(connection)
            await asyncio.gather(*[connection.done for connection in connections])
    finally:
        for connection in connections:
            connection.close()
    return connections


async def ask(port: int, request: Requested) -> bytes:
    """Sends one request. Returns the body of the response."""
    [connection] = await _send(port, iter([request]), 1, PATIENCE)
    return connection.done.result()


async def ask_all(port: int, requests: Sequence[Requested], concurrency: int) -> None:
    """Sends each request once and checks the responses."""
    await _send(port, iter(requests), concurrency, 10 * PATIENCE)


async def load(
    port: int, requests: Sequence[Requested], concurrency: int, seconds: float, seed: int
) -> Mapping[str, float]:
    """Sends random requests, ``concurrency`` at a time, and as many at least.

    Returns requests per second, seconds of latency, and the share of a core that the load itself took.
    """
    ends = time.perf_counter() + seconds
    chance = random.Random(seed)

    def until_the_end() -> Iterator[Requested]:
        yield from chance.choices(requests, k=concurrency)
        while time.perf_counter() < ends:
            yield chance.choice(requests)

    began, worked = time.perf_counter(), time.process_time()
    connections = await _send(port, until_the_end(), concurrency, seconds + PATIENCE)
    elapsed = time.perf_counter() - began
    latencies = sorted(latency for connection in connections for latency in connection.latencies)
    return {
        "requests": len(latencies),
        "per second": len(latencies) / elapsed,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "load": (time.process_time() - worked) / elapsed,
    }
