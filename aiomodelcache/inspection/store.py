"""The commands of Redis that the library itself never sends: SCAN, INFO, MONITOR. On connections of their own."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

from redis.exceptions import NoPermissionError, RedisError

from aiomodelcache.backends.redis.clients import Endpoint, endpoint_of
from aiomodelcache.backends.redis.cluster.endpoint import ClusterEndpoint
from aiomodelcache.backends.redis.connection import pack_commands
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.diagnosis import Route
from aiomodelcache.inspection.errors import CommandError

SCAN_COUNT: Final = 1_000
"""Number of keys that the server looks at in one step of a scan. It serves no other client meanwhile."""
TIMEOUT: Final = 5.0
"""Seconds to wait for a reply. Longer than for lookups, because a command has no caller that waits for a page."""


MAX_WATCHED: Final = 5_000
"""Maximum number of commands that are watched at once. Beyond it, watching ends early."""
_COMMAND: Final = re.compile(rb'^\d+\.\d+ \[\d+ (?!lua\])[^\]]*\] "(\w+)"(.*)$', re.DOTALL)
"""A command of a client in the words of MONITOR. Those of scripts are left out."""
_ARGUMENT: Final = re.compile(rb' "((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


class WatchedReads:
    """The keys that clients have read while they were watched."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.commands = 0
        """The number of commands that were watched, of all kinds."""
        self.keys: Counter[bytes] = Counter()

    def add(self, line: bytes) -> None:
        """Counts the keys of a command, as MONITOR shows it, if it reads."""
        self.commands += 1
        match = _COMMAND.match(line)
        if match is not None and match[1].upper() in (b"GET", b"MGET"):
            self.keys.update([_ESCAPED.sub(_unescaped, each) for each in _ARGUMENT.findall(match[2])])


def _unescaped(match: re.Match[bytes]) -> bytes:
    text = match[1]
    return bytes.fromhex(text[1:].decode()) if text[:1] == b"x" and len(text) == 3 else _ESCAPES.get(text, text)


class Store:
    """The server behind the URL of the cache."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.where = endpoint.where

    @property
    def is_cluster(self) -> bool:
        """True if the keys are spread over the nodes of a cluster."""
        return self._endpoint.is_cluster

    async def scan(self, beginning: bytes) -> AsyncGenerator[list[bytes], None]:
        """Yields the keys that begin like this, in chunks without repetitions. Raises ``BackendError``."""
        seen: set[bytes] = set()
        pattern = re.sub(rb"([\[\]*?^\\])", rb"\\\1", beginning) + b"*"
        chunk: list[bytes] = []
        try:
            for send in await self._endpoint.servers():
                cursor: bytes | None = None
                while cursor != b"0":
                    [reply] = await send([("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", SCAN_COUNT)])
                    if isinstance(reply, Exception):
                        raise reply
                    cursor, keys = cast("tuple[bytes, list[bytes]]", reply)
                    new = set(keys) - seen
                    seen |= new
                    chunk += new
                    if len(chunk) >= SCAN_COUNT:
                        yield chunk
                        chunk = []
        except (TimeoutError, RedisError, OSError) as error:
            raise self._failure(error) from error
        yield chunk

    async def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the strings under keys; None for a key that is not there. Raises ``BackendError``.

        Raises ``CommandError`` if a key holds something else, such as a hash.
        """
        replies = await self._send([("GET", key) for key in keys]) if keys else []
        for reply in replies:
            if isinstance(reply, Exception):
                if "WRONGTYPE" in str(reply):
                    raise CommandError(
                        f"Redis at {self.where} holds no string under a key of this pattern: write a function that "
                        "reads it, and name the function instead."
                    )
                raise self._failure(reply) from reply
        return replies

    async def expires_in(self, keys: Sequence[bytes]) -> list[float | None]:
        """Returns the seconds until each key expires; None for a key without an end, or that is not there."""
        if not keys:
            return []
        replies = await self._send([("PTTL", key) for key in keys])
        return [reply / 1000 if isinstance(reply, int) and reply >= 0 else None for reply in replies]

    async def heat(self, keys: Sequence[bytes]) -> list[float | None]:
        """Returns from 0 to 1 how much each key is read; None for a key that is not there.

        By its frequency if the server's policy of eviction counts that (LFU), else by the time since it was last read.
        None for all keys of a Cluster, and if the user may not send OBJECT.
        """
        if not keys or self.is_cluster:
            return [None] * len(keys)
        idle = await self._send([("OBJECT", "IDLETIME", key) for key in keys])
        if not any(isinstance(reply, Exception) and "LFU" in str(reply) for reply in idle):
            return [1 / (1 + reply) if isinstance(reply, int) else None for reply in idle]
        counted = await self._send([("OBJECT", "FREQ", key) for key in keys])
        return [reply / 255 if isinstance(reply, int) else None for reply in counted]

    async def watch_reads(self, seconds: float) -> WatchedReads | None:
        """Returns the keys that clients read in the next seconds, by MONITOR, for at most ``MAX_WATCHED`` commands.

        The server sends this connection a copy of each command meanwhile. None for a Cluster, and if MONITOR is not
        permitted. Raises ``BackendError``.
        """
        if isinstance(self._endpoint, ClusterEndpoint):
            return None
        pool = cast("Any", self._endpoint.client).connection_pool
        connection: Any = None
        reads = WatchedReads()
        try:
            async with asyncio.timeout(TIMEOUT):
                connection = await pool.get_connection()
                await connection.send_command("MONITOR")
                await connection.read_response()
            started = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while reads.commands < MAX_WATCHED:
                        reads.add(await connection.read_response())
            reads.seconds = time.monotonic() - started
        except NoPermissionError:
            return None
        except (TimeoutError, RedisError, OSError) as error:
            raise self._failure(error) from error
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)  # MONITOR ends with its connection
                await pool.release(connection)
        return reads

    async def clock(self) -> float:
        """Returns the server's time, or that of any node of a Cluster, in seconds since the Unix epoch."""
        seconds, micro = cast("list[bytes]", await self._ask("TIME"))
        return int(seconds) + int(micro) / 1_000_000

    async def info(self) -> dict[str, str]:
        """Returns what INFO says, of any node of a cluster. Raises ``BackendError`` if INFO is not permitted."""
        info = cast("bytes", await self._ask("INFO"))
        lines = [line.partition(":") for line in info.decode("utf-8", "replace").splitlines()]
        return {name: value for name, colon, value in lines if colon}

    async def config(self, name: str) -> str | None:
        """Returns a setting of the server, or None if CONFIG is not permitted, as on most hosted servers."""
        if self.is_cluster:
            return None
        [reply] = await self._send([("CONFIG", "GET", name)])
        return reply[1].decode() if isinstance(reply, list) and len(cast("list[bytes]", reply)) == 2 else None  # pyright: ignore

    async def route(self) -> Route | None:
        """Returns the way to the server, as its two ends see it. None for a Cluster, and for a URL with a pool."""
        if isinstance(self._endpoint, ClusterEndpoint):
            return None
        connections = self._endpoint.reading, self._endpoint.writing
        if connections[0] is None or connections[1] is None:
            return None
        asked: list[list[Any]] = []
        try:
            for _ in range(2):
                asked += [
                    await each.send(pack_commands([("CLIENT", "ID"), ("CLIENT", "INFO")]), 2)
                    for each in connections
                    if each
                ]
        except (TimeoutError, RedisError, OSError) as error:
            raise self._failure(error) from error
        (first, seen), (second, _), (first_later, _), (second_later, _) = asked
        return Route(connections[0].own_address(), _address(seen), (first, second), (first_later, second_later))

    async def _ask(self, name: str) -> Any:
        """Returns the reply of a server to a command without arguments."""
        try:
            [reply], *_ = await self._endpoint.send_to_each([(name,)])
            if isinstance(reply, Exception):
                raise reply
        except (TimeoutError, RedisError, OSError) as error:
            raise self._failure(error) from error
        return reply

    async def _send(self, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Any]:
        try:
            return await self._endpoint.send(commands)
        except (TimeoutError, RedisError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> BackendError:
        return BackendError(f"Redis at {self.where} did not answer: {error}.")


def _address(reply: Any) -> str | None:
    """Returns the address of a connection in the reply to CLIENT INFO, which is unknown before Redis 6.2."""
    found = re.search(rb"(?:^| )addr=(\S+)", reply) if isinstance(reply, bytes) else None
    return found[1].decode() if found is not None else None


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Store, None]:
    """Connects to the server at a URL, and disconnects at the end."""
    endpoint = endpoint_of(url, TIMEOUT)
    try:
        yield Store(endpoint)
    finally:
        await endpoint.close()
