"""The way to a Redis Cluster: requests to the nodes of their keys, reads of keys on any nodes, scripts on all nodes.

Must not know what a backend's operations are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, cast

from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.redis.cluster.node import ConnectionSettings, Node
from aiomodelcache.backends.redis.cluster.requests import Request, Requests
from aiomodelcache.backends.redis.cluster.slots import Address, Remap, name_of, slot_of
from aiomodelcache.backends.redis.cluster.tasks import ClusterTasks
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import Command, Replies, pack
from aiomodelcache.backends.redis.incarnation import ServerIncarnation
from aiomodelcache.backends.redis.replicas import Wait
from aiomodelcache.exceptions import CacheConfigurationError

OnRead = Callable[[Replies, bool], None]
"""A callback for the values of a read, and True if there may be exceptions in place of some."""


class ClusterEndpoint:
    """The nodes of a Cluster, and the requests to them."""

    is_cluster: ClassVar = True

    def __init__(self, startup: Iterable[Address], settings: ConnectionSettings, remap: Remap) -> None:
        addresses = list(startup)
        self.where = f"{','.join(map(name_of, addresses))} (cluster)"
        """The nodes that were named, for messages."""
        self._tasks = ClusterTasks()
        self._topology = Topology(addresses, settings, remap, self._tasks)
        self._requests = Requests(self._topology, settings.timeout, self._tasks)
        settings.connection(addresses[0], ServerIncarnation(self.where))  # raises if an option is unknown

    def track(self, near: Near | None) -> None:
        """Raises ``CacheConfigurationError``: near entries are not kept of a Cluster."""
        if near is not None:
            raise CacheConfigurationError(
                f"near does not work with a Cluster, such as Redis at {self.where}: "
                "pass a redis:// or redis+sentinel:// URL, or remove near."
            )

    def incarnation_of(self, key: bytes) -> ServerIncarnation:
        """Returns the incarnation of the node that holds a key."""
        node = self._topology.slots[slot_of(key)]
        return node.incarnation if node is not None else ServerIncarnation(self.where)

    def node_of(self, key: bytes) -> str:
        """Returns the name of the node that holds a key, or "" if none is known."""
        node = self._topology.slots[slot_of(key)]
        return node.name if node is not None else ""

    async def check_identity(self, keys: Iterable[bytes]) -> None:
        """Asks the nodes that hold these keys for their identities again."""
        for node in dict.fromkeys([self._topology.slots[slot_of(key)] for key in keys]):
            if node is not None:
                await node.check_identity()

    async def send(self, commands: Sequence[Command], *, read_only: bool = False, tracked: bool = False) -> Replies:
        """Sends commands in one request to each node. Returns all replies, exceptions among them."""
        return await self._requests.send(commands, reading=read_only)

    async def send_and_wait(self, commands: Sequence[Command], wait: Wait) -> Replies:
        """Sends commands as ``send`` does, and waits in the same requests for replicas of each node to have them."""
        return await self._requests.send(commands, wait=wait)

    def start_read(self, keys: Sequence[bytes], callback: OnRead) -> None:
        """Reads keys in one request to each node, and calls ``callback`` when all have answered."""
        by_slot: dict[int, list[int]] = {}
        for at, key in enumerate(keys):
            by_slot.setdefault(slot_of(key), []).append(at)
        if len(by_slot) == 1 and len(keys) > 1 and self._start_on_one(next(iter(by_slot)), keys, callback):
            return
        commands: list[Command] = [
            ("GET", keys[places[0]]) if len(places) == 1 else ("MGET", *[keys[at] for at in places])
            for places in by_slot.values()
        ]
        on_done = partial(_on_read, callback, by_slot.values(), len(keys))
        self._requests.start(Request(commands, on_done, reading=True), list(by_slot))

    def _start_on_one(self, slot: int, keys: Sequence[bytes], callback: OnRead) -> bool:
        """Starts a read of keys of one slot, as a hit does it. Returns False if that takes more than to send it."""
        node = self._topology.slots[slot]
        command: Command = ("MGET", *keys)
        return (
            node is not None
            and not node.failing
            and node.reading.start(pack([command]), 1, partial(self._on_one_reply, node, command, callback))
        )

    def _on_one_reply(self, node: Node, command: Command, callback: OnRead, replies: Replies | Exception) -> None:
        values: object = replies[0] if isinstance(replies, list) else None
        if isinstance(values, list):
            callback(node.incarnation.mask_stale_versions(cast("list[bytes | None]", values)), False)
        else:
            count = len(command) - 1
            request = Request([command], partial(_on_read, callback, [list(range(count))], count), reading=True)
            self._requests.resume(request, node, replies)

    async def servers(self) -> list[Callable[[Sequence[Command]], Awaitable[Replies]]]:
        """Returns a function for each node that sends commands to it. Raises redis-py's exceptions if none is found."""
        if not self._topology.primaries:
            await self._topology.require()
        return [node.send for node in self._topology.primaries]

    async def load_scripts(self, texts: Iterable[str]) -> list[Any]:
        """Reads the topology, and loads scripts into every node that answers. Returns their replies.

        Raises redis-py's exceptions if no node answers, or if one rejects the password.
        """
        self._requests.scripts = tuple(texts)
        await self._topology.require()
        loaded = await self.send_to_each([("SCRIPT", "LOAD", text) for text in self._requests.scripts])
        return [reply for replies in loaded for reply in replies]

    async def send_to_each(self, commands: Sequence[Command]) -> list[Replies]:
        """Sends commands to every node that serves slots. Returns the replies of those that answer.

        Raises redis-py's exceptions if no node answers, or if one rejects the password.
        """
        sending = [send(commands) for send in await self.servers()]
        results = await asyncio.gather(*sending, return_exceptions=True)
        answered = [result for result in results if not isinstance(result, BaseException)]
        for result in results:
            if isinstance(result, BaseException) and not (answered and _is_unreachable(result)):
                raise result
        return answered

    async def close(self) -> None:
        """Disconnects. Requests in flight fail."""
        await self._tasks.close()
        await self._topology.aclose()


def _is_unreachable(error: BaseException) -> bool:
    """Returns True if a node is down or frozen, rather than refusing this client."""
    return isinstance(error, ConnectionError | TimeoutError | OSError) and not isinstance(error, AuthenticationError)


def _on_read(callback: OnRead, places: Iterable[list[int]], count: int, request: Request) -> None:
    values: Replies = [None] * count
    for at, reply in zip(places, request.replies, strict=True):
        if len(at) == 1:
            values[at[0]] = reply
        else:
            for number, each in enumerate(at):
                values[each] = reply if isinstance(reply, Exception) else reply[number]
    callback(values, True)
