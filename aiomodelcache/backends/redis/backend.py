"""A store for cache entries in Redis, alone, behind Sentinel, or as a Cluster.

Owns the commands: which, in which order, in how many round trips, and what each reply means. A script
(``lua/``) takes many keys and treats each by itself: what it does to one, and what the server refuses it, is no
matter to the others. So on a cluster it is given one at a time, and keys need no common hash slot. Must not know
how connections are made (``redis_clients``), how a server that lost something is recognised
(``redis_lives``), nor what is in an entry beyond its state and token.

Needs Redis 5. Expiry is by the server's clock only.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn, cast

import anyio
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    InvalidResponse,
    NoScriptError,
    RedisClusterException,
)

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Clear, Fill, Kept, Lease, Leased, ReadCallback
from aiomodelcache.backends.redis.clients import RedisEndpoint, endpoint_of
from aiomodelcache.backends.redis.connection import Command, Replies, pack
from aiomodelcache.backends.redis.errors import FAILURES, concerns_one_key, describe
from aiomodelcache.backends.redis.incarnation import ServerIncarnation
from aiomodelcache.backends.redis.scripts import Arguments, Script, load_script
from aiomodelcache.encoding.layout import LEASE, new_version
from aiomodelcache.exceptions import BackendError, CacheConfigurationError

KEYS_PER_SCRIPT: Final = 100
"""How many keys a script takes: nobody else is served while it runs."""


class RedisBackend:
    """Keeps entries in Redis, at a URL or through a client that the program has already.

    URLs are ``redis://[user:password@]host[:port][/database]``, ``rediss://`` for TLS,
    ``unix://path``, ``redis+cluster://host[:port][,host…]`` and
    ``redis+sentinel://host[:port][,host…]/service[/database]`` (``rediss+…`` with TLS); what redis-py
    takes as options may follow after ``?``, except for retries. Name and password are for the servers;
    where the sentinels want some too, pass a client. A client is never closed nor used itself: its settings
    are, for connections of our own, which neither retry nor decode.

    When the server was restarted, or a replica promoted, nothing from before is believed (see
    ``redis_lives``). This does not hold for nodes of a cluster.

    ``socket_timeout`` (seconds) holds for connecting and for each reply; the URL's own, and the
    client's, go before it. ``batch_size`` is how many keys one MGET takes. Raises
    ``CacheConfigurationError`` if the URL is malformed.

    >>> backend = RedisBackend("redis://localhost:6379/0", socket_timeout=0.2)
    >>> await backend.open()
    >>> async with ModelCache(backend):
    ...     event = await Event.cache.get(slug="pycon")
    >>> await backend.close()
    """

    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        socket_timeout: float = 0.5,
        batch_size: int = 1_000,
    ) -> None:
        self._connect = functools.partial(endpoint_of, url_or_client, socket_timeout)
        self._batch_size = batch_size
        self._endpoint: RedisEndpoint | None = self._connect()
        self._where = self._endpoint.where
        self._keys_per_script = 1 if self._endpoint.is_cluster else KEYS_PER_SCRIPT
        self._near: Near | None = None
        self._prompt = type(self).read is RedisBackend.read
        """Whether there is no subclass that wants to see what is read."""
        self._lost = False
        """A cluster that did not answer as expected: its layout may be another by now."""
        self._lease = load_script("lease")
        self._fill = load_script("fill")
        self._mark = load_script("mark")
        self._clear = load_script("clear")

    def __repr__(self) -> str:
        return f"<RedisBackend at {self._where}>"

    async def open(self) -> None:
        """Connects, and proves it with round trips. Raises ``BackendError`` in one clear sentence."""
        if self._endpoint is None:
            # Anew, and not in `close`: redis-py's locks stay with the event loop that they met first.
            self._endpoint = self._connect()
            self._endpoint.track(self._near)
        try:
            await self._load_scripts(self._endpoint)  # every node of a cluster answers
        except BaseException as error:
            await self.close()
            if isinstance(error, FAILURES):
                raise self._failure(error) from error
            raise

    def track(self, near: Near | None) -> None:
        """Has ``near`` told of every change of what ``read`` returns from now on; None: nobody.

        Raises ``CacheConfigurationError`` where that cannot be had: of a cluster, a ready client, and a URL that asks
        for a pool; and if another cache has it. A server that refuses (it is older than Redis 6, or does not permit it)
        is noted in ``near``.
        """
        if near is not None and self._near is not None:
            raise CacheConfigurationError(
                f"near: {self!r} tells another ModelCache of changes already: give each a backend of its own."
            )
        if self._endpoint is not None:
            self._endpoint.track(near)
        self._near = near

    async def close(self) -> None:
        """Closes the connections, not a client that was handed over. Does nothing the second time."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            # Shielded: in a cancelled AnyIO scope every await is cancelled, and the connections would stay open.
            with anyio.CancelScope(shield=True), suppress(*FAILURES):  # the server may be gone
                await endpoint.close()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        endpoint = self._endpoint or self._refuse()
        if endpoint.is_cluster or not 0 < len(keys) <= self._batch_size:
            return await self._read_many(endpoint, keys)
        try:
            [values] = await endpoint.send([("MGET", *keys)], read_only=True)
        except FAILURES as error:
            raise self._failure(error) from error
        if isinstance(values, Exception):
            raise self._failure(values) from values
        return endpoint.incarnation.mask_stale_versions(values)

    def start_read(self, keys: Sequence[bytes], taker: ReadCallback) -> bool:
        """Begins to read, on a connection that there is (see ``Prompt``)."""
        endpoint = self._endpoint
        if endpoint is None or endpoint.reading is None or not (self._prompt and 0 < len(keys) <= self._batch_size):
            return False
        return endpoint.reading.start(
            pack([("MGET", *keys)]), 1, functools.partial(self._take, endpoint.incarnation, taker)
        )

    def _take(self, incarnation: ServerIncarnation, taker: ReadCallback, replies: Replies | Exception) -> None:
        values: object = replies if isinstance(replies, Exception) else replies[0]
        if isinstance(values, list):
            taker(incarnation.mask_stale_versions(cast("list[bytes | None]", values)))
        else:
            taker(self._failure(values if isinstance(values, Exception) else InvalidResponse(f"{values!r} for MGET")))

    async def _read_many(self, endpoint: RedisEndpoint, keys: Sequence[bytes]) -> list[bytes | None]:
        if endpoint.is_cluster:
            return [_bytes(reply) for reply in await self._send([("GET", key) for key in keys])]
        size = self._batch_size
        chunks = [keys[at : at + size] for at in range(0, len(keys), size)]
        replies = cast(
            "list[list[bytes | None]]", await self._send([("MGET", *chunk) for chunk in chunks], read_only=True)
        )
        return endpoint.incarnation.mask_stale_versions([value for values in replies for value in values])

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        mine = LEASE + token
        life = (self._endpoint or self._refuse()).incarnation.current
        keys = [key for key, _ in leases]
        taking = self._on(self._lease, keys, [(replacing, mine, ttl_ms) for _, replacing in leases])
        reading: list[Command] = []
        for key in versions:
            reading += ("SET", key, new_version(life), "NX"), ("GET", key)
        taken, read = await self._send_in_order(taking, reading)
        return Leased(
            list(map(_held, self._by_key(keys, taken))),
            await self._renewed(versions, [_bytes(reply) for reply in read[1::2]]),
        )

    async def _renewed(self, keys: Sequence[bytes], versions: list[bytes | None]) -> list[bytes | None]:
        """Replaces versions of another life of the server by fresh ones. Returns all as they are now."""
        endpoint = self._endpoint or self._refuse()
        if not any(map(endpoint.incarnation.is_stale_version, versions)):
            return versions
        try:
            await endpoint.ask_again()
        except FAILURES as error:
            raise self._failure(error) from error
        past = {
            key: version
            for key, version in zip(keys, versions, strict=True)
            if endpoint.incarnation.is_stale_version(version)
        }
        renewing = [(version, new_version(endpoint.incarnation.current), 0) for version in past.values()]
        renewed = dict(zip(past, map(_bytes, await self._run(self._lease, list(past), renewing)), strict=True))
        return [renewed.get(key, version) for key, version in zip(keys, versions, strict=True)]

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        replies = await self._run(self._fill, [fill.key for fill in fills], [fill[1:] for fill in fills])
        return [reply == 1 for reply in replies]

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, Kept]:
        replies = await self._run(self._mark, keys, [(allow.get(key, 0),) for key in keys], (token, ttl_ms))
        self._raise_any(replies)
        kept = {key: cast("list[bytes]", reply) for key, reply in zip(keys, replies, strict=True) if reply != 1}
        return {key: Kept(entry, int(until_ms)) for key, (entry, until_ms) in kept.items()}

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        life = (self._endpoint or self._refuse()).incarnation.current
        stamping: list[Command] = []
        for key in stamps:
            # Out of memory, the SET is refused. An absent stamp is as good as a fresh one then (the
            # next to read it creates one), while the old one would let a late lease fill an old row.
            stamping += ("UNLINK", key), ("SET", key, new_version(life))
        keys = [clear.key for clear in clears]
        clearing = self._on(self._clear, keys, [clear[1:] for clear in clears], (token,))
        stamped, cleared = await self._send_in_order(stamping, clearing)
        self._raise_any(stamped[::2])
        replies = self._by_key(keys, cleared)
        self._raise_any(replies)
        return [reply == 1 for reply in replies]

    async def delete(self, keys: Sequence[bytes]) -> int:
        size = 1 if (self._endpoint or self._refuse()).is_cluster else self._batch_size
        chunks = [keys[at : at + size] for at in range(0, len(keys), size)]
        replies = await self._send([("UNLINK", *chunk) for chunk in chunks])
        self._raise_any(replies)
        return sum(cast("list[int]", replies))

    async def _run(
        self, script: Script, keys: Sequence[bytes], each: Sequence[Arguments], shared: Arguments = ()
    ) -> list[object]:
        [replies] = await self._send_in_order(self._on(script, keys, each, shared))
        return self._by_key(keys, replies)

    def _on(
        self, script: Script, keys: Sequence[bytes], each: Sequence[Arguments], shared: Arguments = ()
    ) -> list[Command]:
        return script.on(keys, shared, each, self._keys_per_script)

    def _by_key(self, keys: Sequence[bytes], replies: Sequence[object]) -> list[object]:
        """What a script said of each key. Errors that concern one key are returned, others raised."""
        size = self._keys_per_script
        by_key: list[object] = []
        for at, reply in zip(range(0, len(keys), size), replies, strict=True):
            by_key += cast("list[object]", reply) if isinstance(reply, list) else [reply] * len(keys[at : at + size])
        self._raise_serious(by_key)
        return by_key

    async def _send_in_order(self, *stages: Sequence[Command]) -> list[list[object]]:
        """Runs the commands of each stage after all those of the stages before it.

        Scripts that a server has forgotten are loaded and run again, and so are the stages after
        them, which therefore must be harmless to repeat. No other command is ever sent twice.
        """
        replies = await self._send_stages(stages)
        for number, stage in enumerate(stages):
            forgotten = [at for at, reply in enumerate(replies[number]) if isinstance(reply, NoScriptError)]
            if forgotten:
                endpoint = self._endpoint or self._refuse()
                try:
                    await self._load_scripts(endpoint)
                except FAILURES as error:
                    raise self._failure(error) from error
                again, *later = await self._send_stages([[stage[at] for at in forgotten], *stages[number + 1 :]])
                self._raise_any(reply for reply in again if isinstance(reply, NoScriptError))
                for at, reply in zip(forgotten, again, strict=True):
                    replies[number][at] = reply
                return [*replies[: number + 1], *later]
        return replies

    async def _send_stages(self, stages: Sequence[Sequence[Command]]) -> list[list[object]]:
        if (self._endpoint or self._refuse()).is_cluster:
            # A pipeline goes to all nodes at once, so what one of them does may come before another.
            return [await self._send(stage) for stage in stages]
        if len(stages) == 1:
            return [await self._send(stages[0])]
        replies = iter(await self._send([command for stage in stages for command in stage]))
        return [[next(replies) for _ in stage] for stage in stages]

    async def _send(self, commands: Sequence[Command], *, read_only: bool = False) -> list[object]:
        """Sends commands in one pipeline. Errors that concern one key are returned, others raised."""
        endpoint = self._endpoint or self._refuse()
        if not commands:
            return []
        try:
            if self._lost and endpoint.rediscover is not None:
                await endpoint.rediscover()
            self._lost = False
            replies = await endpoint.send(commands, read_only=read_only)
        except FAILURES as error:
            raise self._failure(error) from error
        self._raise_serious(replies)
        return replies

    async def _load_scripts(self, endpoint: RedisEndpoint) -> None:
        scripts = (self._lease, self._fill, self._mark, self._clear)
        self._raise_any(await endpoint.load_scripts([script.text for script in scripts]))

    def _refuse(self) -> NoReturn:
        raise BackendError(f"The backend for Redis at {self._where} is closed: open it first.")

    def _raise_any(self, replies: Iterable[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._failure(reply) from reply

    def _raise_serious(self, replies: Iterable[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception) and not concerns_one_key(reply):
                raise self._failure(reply) from reply

    def _failure(self, error: Exception) -> BackendError:
        self._lost = True
        cause = error.__cause__ if isinstance(error, RedisClusterException) else None
        return BackendError(f"Redis at {self._where} {describe(cause or error)}")


def _held(reply: object) -> bytes | None:
    """Returns what a key holds after an attempt to lease it, empty bytes where that is of no use."""
    return b"" if isinstance(reply, Exception) else cast("bytes | None", reply)


def _bytes(reply: object) -> bytes | None:
    return reply if isinstance(reply, bytes) else None
