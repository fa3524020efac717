"""A store for cache entries in Redis: a single server, behind Sentinel, or a Cluster.

Owns the commands: which, in which order, in how many round trips, and what each reply means. A script (``lua/``) takes
many keys and treats each key separately. A refusal for one key does not affect the other keys. So on a cluster a script
gets one key at a time, and keys need no common hash slot.

Must not know how connections are made (``clients``), or how another incarnation of a server is detected
(``incarnation``). Must not know the content of an entry beyond its state and token.

Needs Redis 5. Expiry is by the server's clock only.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import anyio
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import InvalidResponse

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Clear, PartialFailure, ReadCallback, ReplacedEntry
from aiomodelcache.backends.redis.claims import ClaimCommands
from aiomodelcache.backends.redis.clients import Endpoint, RedisEndpoint, endpoint_of
from aiomodelcache.backends.redis.cluster.endpoint import ClusterEndpoint
from aiomodelcache.backends.redis.commands import STAMP_TTL_MS, as_bytes
from aiomodelcache.backends.redis.connection import Command, Replies, pack_mget
from aiomodelcache.backends.redis.errors import FAILURES, unquoted_cause
from aiomodelcache.backends.redis.leasing import LeasingCommands
from aiomodelcache.backends.redis.parts import ReadInParts
from aiomodelcache.backends.redis.replicas import MAX_WAIT, ReplicaWait
from aiomodelcache.backends.redis.saving import SavingCommands
from aiomodelcache.durations import Duration, parse_duration
from aiomodelcache.encoding.messages import described
from aiomodelcache.encoding.partitions import CLUSTER_PARTITIONS
from aiomodelcache.encoding.together import KeyPairs, KnownKeys
from aiomodelcache.exceptions import CacheConfigurationError

KEYS_PER_SCRIPT: Final = 100
"""Maximum number of keys of one script, because the server serves no other client while a script runs.

Beyond it, further scripts are sent in the same round trip.
"""

MaskVersions = Callable[[list[bytes | None]], list[bytes | None]]
"""A function that replaces versions of other incarnations by None."""


class RedisBackend(LeasingCommands, SavingCommands, ClaimCommands):
    """Entries in Redis, at a URL or through a client that the program already has.

    URLs are ``redis://[user:password@]host[:port][/database]``, ``rediss://`` for TLS, ``unix://path``,
    ``redis+cluster://host[:port][,host…]`` and ``redis+sentinel://host[:port][,host…]/service[/database]``
    (``rediss+…`` with TLS). Options of redis-py may follow after ``?``, except for retries. Name and password are for
    the servers; if the sentinels need some too, pass a client. A client that you pass in is never used or closed. Its
    settings are used for the backend's own connections, which neither retry nor decode.

    After a restart of the server or the promotion of a replica, no earlier entry is used (see ``incarnation``). Of a
    cluster this holds for each node.

    ``socket_timeout``: maximum time to connect, and to wait for each reply, as a ``Duration``. The timeouts of the URL
    or the client take precedence. ``batch_size``: maximum number of keys of one MGET. Beyond it, further MGETs are sent
    in the same round trip. ``wait_replicas``: number of replicas that must have a mark, see ``CacheConfig``. Raises
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
        socket_timeout: Duration = 0.5,
        batch_size: int = 1_000,
        wait_replicas: int = 0,
    ) -> None:
        super().__init__()
        seconds = parse_duration("RedisBackend.socket_timeout", socket_timeout)
        self.connect = partial(endpoint_of, url_or_client, socket_timeout=seconds)
        self._batch_size = batch_size
        self._wait = ReplicaWait(wait_replicas, int(1_000 * min(MAX_WAIT, seconds / 2)) or 1) if wait_replicas else None
        self._endpoint: Endpoint | None = self.connect()
        self.where = self._endpoint.where
        """The server without its password, like ``localhost:6379``."""
        self._is_cluster = self._endpoint.is_cluster
        self.keys_read_together = 1 if self._endpoint.is_cluster else batch_size
        self.partitions = CLUSTER_PARTITIONS if self._endpoint.is_cluster else 1
        self._keys_per_script = 1 if self._endpoint.is_cluster else KEYS_PER_SCRIPT
        self._left: Endpoint | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._near: Near | None = None
        self._is_overridden = type(self).read is not RedisBackend.read
        """True if a subclass overrides ``read`` and must see all reads."""
        self._can_start_read = not self._is_overridden
        """True if a read can be started, and no key of it may be tracked."""

    def __repr__(self) -> str:
        return f"<RedisBackend at {self.where}>"

    async def open(self) -> None:
        """Connects, and proves it with round trips. Raises ``BackendError`` in one clear sentence."""
        former, self._loop = self._loop, asyncio.get_running_loop()
        if former not in (None, self._loop):  # that loop has ended, or is the parent's of this forked process
            self._left, self._endpoint = self._endpoint, None  # kept: a parent's event loop would notice its collection
        if self._endpoint is None:
            # Not built in ``close``, because redis-py's locks are bound to the first event loop that uses them.
            self._endpoint = self.connect()
            self._endpoint.track(self._near)
        try:
            await self._load_scripts(self._endpoint)  # every node of a cluster answers
        except BaseException as error:
            await self.close()
            if isinstance(error, FAILURES):
                raise self._failure(error) from unquoted_cause(error)
            raise

    def track(self, near: Near | None) -> None:
        """Reports every change of what ``read`` returns to ``near`` from now on, or to no ``Near`` if it is None.

        Raises ``CacheConfigurationError`` for a client of one server that was passed in, and for a URL that configures
        a pool. Also raises it if another cache tracks this backend. If the server refuses (it is older than
        Redis 6.2.7, or does not permit tracking), ``near`` records the refusal.
        """
        if near is not None and self._near is not None:
            raise CacheConfigurationError(
                f"near: {self!r} already reports changes to another ModelCache: give each a backend of its own."
            )
        if self._endpoint is not None:
            self._endpoint.track(near)
        self._near = near
        self._can_start_read = near is None and not self._is_overridden

    async def close(self) -> None:
        """Closes the backend's connections, not a client that was passed in. Idempotent."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            # Shielded: in a cancelled AnyIO scope every await is cancelled, and the connections would stay open.
            with anyio.CancelScope(shield=True), suppress(*FAILURES):  # the server may be gone
                await endpoint.close()

    @property
    def node_of(self) -> Callable[[bytes], str]:
        """Returns the name of a key's node (see ``SupportsNodes``). Raises ``AttributeError`` if this is no Cluster."""
        if not self._is_cluster:
            raise AttributeError("node_of")
        return self._node_of

    def _node_of(self, key: bytes) -> str:
        return self._endpoint.node_of(key) if isinstance(self._endpoint, ClusterEndpoint) else ""

    @property
    def arrange(self) -> Callable[[Mapping[bytes, bytes | None] | KeyPairs], list[bytes]]:
        """A function that returns keys in an order in which ``read`` and ``start_read`` take them at less cost.

        The value of a key is another one of the keys that shares its hash tag and whose own value is None; or None.
        Takes ``KeyPairs``, too, of which each is read as it is.
        Raises ``AttributeError`` if this is no Cluster.
        """
        if not isinstance(self._endpoint, ClusterEndpoint):
            raise AttributeError("arrange")
        return self._endpoint.arrange

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        expected = self._near.expected if self._near is not None else ()
        tracked = [key for key in keys if key in expected] if expected else []
        if not tracked or len(tracked) == len(keys):
            return await self._read(keys, tracked=bool(tracked))
        read: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        parts = self._in_parts(self._endpoint or self._raise_closed(), keys, partial(_resolve, read))
        others = [key for key in keys if key not in expected]
        reading = self._read(others, tracked=False), self._read(tracked, tracked=True)
        results = await asyncio.gather(*reading, return_exceptions=True)
        for part, result in zip((others, tracked), results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result  # the backend closes
            parts.on_part(part, result)
        return await read

    def _in_parts(self, endpoint: Endpoint, keys: Sequence[bytes], callback: ReadCallback) -> ReadInParts:
        cast("Near", self._near).splits += 1
        return ReadInParts(keys, endpoint.mask_stale_versions, callback)

    async def _read(self, keys: Sequence[bytes], *, tracked: bool) -> list[bytes | None]:
        endpoint = self._endpoint or self._raise_closed()
        if isinstance(endpoint, ClusterEndpoint):
            return await self._read_on_nodes(endpoint, keys, tracked=tracked)
        if not 0 < len(keys) <= self._batch_size:
            return await self._read_many(endpoint, keys, tracked=tracked)
        try:
            [values] = await endpoint.send([("MGET", *keys)], read_only=True, tracked=tracked)
        except FAILURES as error:
            raise self._failure(error) from unquoted_cause(error)
        if isinstance(values, Exception):
            raise self._failure(values) from unquoted_cause(values)
        return endpoint.incarnation.mask_stale_versions(values)

    def start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        """Starts a read on the connection for reads, if there is one (see ``SupportsStartRead``)."""
        endpoint = self._endpoint
        if isinstance(endpoint, ClusterEndpoint):
            if self._can_start_read and keys:
                endpoint.start_read(keys, partial(self._on_values, keys, callback))
                return True
            return self._start_near_read_on_nodes(endpoint, keys, callback)
        if (
            endpoint is None
            or (reading := endpoint.reading) is None
            or not (self._can_start_read and 0 < len(keys) <= self._batch_size)
        ):
            return self._start_near_read(keys, callback)
        mask: MaskVersions = endpoint.incarnation.mask_stale_versions
        if keys.__class__ is KnownKeys:  # takes less than ``type``
            mask = partial(endpoint.incarnation.mask_known, keys)  # pyright: ignore[reportArgumentType]
        return reading.start(pack_mget(keys), 1, partial(self._on_replies, mask, callback))

    def _start_near_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        """Starts a read like ``start_read``, if the server tracks keys. They are read by themselves."""
        near, endpoint = self._near, self._endpoint
        if near is None or self._is_overridden or not isinstance(endpoint, RedisEndpoint):
            return False
        reading = endpoint.reading
        if reading is None or not 0 < len(keys) <= self._batch_size:
            return False
        expected, mask = near.expected, endpoint.incarnation.mask_stale_versions
        if not expected or not (tracked := [key for key in keys if key in expected]):
            return reading.start(pack_mget(keys), 1, partial(self._on_replies, mask, callback))
        tracking = endpoint.tracking
        if tracking is None:
            return False
        if len(tracked) == len(keys):
            return tracking.start(pack_mget(keys), 1, partial(self._on_replies, mask, callback))
        if not (reading.is_ready and tracking.is_ready):
            return False
        parts, others = self._in_parts(endpoint, keys, callback), [key for key in keys if key not in expected]
        for connection, part in ((reading, others), (tracking, tracked)):
            on_replies = partial(self._on_replies, mask, partial(parts.on_part, part))
            connection.start(pack_mget(part), 1, on_replies)
        return True

    def _start_near_read_on_nodes(
        self, endpoint: ClusterEndpoint, keys: Sequence[bytes], callback: ReadCallback
    ) -> bool:
        if self._near is None or self._is_overridden or not keys:
            return False
        expected = self._near.expected
        tracked = [key for key in keys if key in expected]
        others = [key for key in keys if key not in expected] if tracked else keys
        on_tracked: ReadCallback = callback
        on_others: ReadCallback = callback
        if tracked and others:
            parts = self._in_parts(endpoint, keys, callback)
            on_tracked, on_others = partial(parts.on_part, tracked), partial(parts.on_part, others)
        if others:
            endpoint.start_read(others, partial(self._on_values, others, on_others))
        if tracked:
            endpoint.start_tracked_read(tracked, partial(self._on_values, tracked, on_tracked))
        return True

    def _on_replies(self, mask: MaskVersions, callback: ReadCallback, replies: Replies | Exception) -> None:
        values: Any = replies if isinstance(replies, Exception) else replies[0]
        if values.__class__ is list:
            callback(mask(values))
        else:
            callback(
                self._failure(
                    values if isinstance(values, Exception) else InvalidResponse(f"{described(values)} for MGET")
                )
            )

    async def _read_on_nodes(
        self, endpoint: ClusterEndpoint, keys: Sequence[bytes], *, tracked: bool
    ) -> list[bytes | None]:
        read: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        if not keys:
            return []
        start = endpoint.start_tracked_read if tracked else endpoint.start_read
        start(keys, partial(self._on_values, keys, partial(_resolve, read)))
        return await read

    def _on_values(self, keys: Sequence[bytes], callback: ReadCallback, values: Replies, has_errors: bool) -> None:
        """Passes on what a Cluster's nodes have answered."""
        failed = self._failed(keys, values) if has_errors else None
        if has_errors:
            values = list(map(as_bytes, values))
        callback(PartialFailure(failed, values) if failed else values)

    async def _read_many(self, endpoint: RedisEndpoint, keys: Sequence[bytes], *, tracked: bool) -> list[bytes | None]:
        size = self._batch_size
        chunks = [keys[at : at + size] for at in range(0, len(keys), size)]
        replies = cast(
            "list[list[bytes | None]]",
            await self._send([("MGET", *chunk) for chunk in chunks], read_only=True, tracked=tracked),
        )
        return endpoint.incarnation.mask_stale_versions([value for values in replies for value in values])

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        [replies] = await self._send_in_order(self._mark_commands(keys, token, ttl_ms, allow), wait=self._wait)
        return self._replaced_by_mark(keys, self._by_key(keys, replies))

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        stamp_commands: list[Command] = []
        for key, version in zip(stamps, self._new_versions(stamps), strict=True):
            # A server that is out of memory refuses the SET. The stamp is absent then, which is as good as fresh: the
            # next reader creates one. With the old stamp, a late lease could fill an old row.
            stamp_commands += ("UNLINK", key), ("SET", key, version, "PX", STAMP_TTL_MS)
        keys = [clear.key for clear in clears]
        clear_commands = self._commands(self._clear, keys, [clear[1:] for clear in clears], (token,))
        stamped, cleared = await self._send_in_order(stamp_commands, clear_commands)
        self._raise_any(stamped[::2])
        replies = self._by_key(keys, cleared)
        self._raise_any(replies)
        return [reply == 1 for reply in replies]

    async def delete(self, keys: Sequence[bytes]) -> int:
        size = 1 if (self._endpoint or self._raise_closed()).is_cluster else self._batch_size
        chunks = [keys[at : at + size] for at in range(0, len(keys), size)]
        replies = await self._send([("UNLINK", *chunk) for chunk in chunks])
        self._raise_any(replies)
        return sum(cast("list[int]", replies))


def _resolve(read: "asyncio.Future[list[bytes | None]]", values: list[bytes | None] | Exception) -> None:
    if read.done():  # the caller was cancelled
        return
    if isinstance(values, Exception):
        read.set_exception(values)
    else:
        read.set_result(values)
