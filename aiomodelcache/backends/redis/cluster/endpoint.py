"""The way to a Redis Cluster: requests to the nodes of their keys, reads of keys on any nodes, scripts on all nodes.

Must not know what a backend's operations are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.redis.cluster.node import ConnectionSettings, Node
from aiomodelcache.backends.redis.cluster.reads import ClusterReads, OnRead
from aiomodelcache.backends.redis.cluster.requests import ClusterRequests
from aiomodelcache.backends.redis.cluster.slots import Address, Remap, name_of, slot_of
from aiomodelcache.backends.redis.cluster.tasks import ClusterTasks
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.cluster.tracking import NodeTracking
from aiomodelcache.backends.redis.connection import Command, Replies
from aiomodelcache.backends.redis.incarnation import ServerIncarnation
from aiomodelcache.backends.redis.replicas import ReplicaWait
from aiomodelcache.encoding.layout import VERSION
from aiomodelcache.encoding.together import KeyPairs


class ClusterEndpoint:
    """The nodes of a Cluster, and the requests to them."""

    is_cluster: ClassVar = True

    def __init__(self, startup: Iterable[Address], settings: ConnectionSettings, remap: Remap) -> None:
        addresses = list(startup)
        self.where = f"{','.join(map(name_of, addresses))} (cluster)"
        """The nodes that were named, for messages."""
        self._tasks = ClusterTasks()
        self._topology = Topology(addresses, settings, remap, self._tasks)
        self._requests = ClusterRequests(self._topology, settings.timeout, self._tasks)
        self._reads = ClusterReads(self._topology, self._requests)
        self._tracking: NodeTracking | None = None
        settings.connection(addresses[0], ServerIncarnation(self.where))  # raises if an option is unknown

    def track(self, near: Near | None) -> None:
        """Reports every change of entries that are read by ``start_tracked_read`` from now on to ``near``."""
        self._tracking = None if near is None else NodeTracking(near, self._topology)

    def incarnation_of(self, key: bytes) -> ServerIncarnation:
        """Returns the incarnation of the node that holds a key."""
        node = self._topology.slots[slot_of(key)]
        return node.incarnation if node is not None else ServerIncarnation(self.where)

    def mask_stale_versions(self, keys: Sequence[bytes], values: list[bytes | None]) -> list[bytes | None]:
        """Replaces versions of other incarnations than the present one of the key's present node by None."""
        return [
            None if value and value[:1] == VERSION and self.incarnation_of(key).is_stale_version(value) else value
            for key, value in zip(keys, values, strict=True)
        ]

    def node_of(self, key: bytes) -> str:
        """Returns the name of the node that holds a key, or "" if none is known."""
        node = self._topology.slots[slot_of(key)]
        return node.name if node is not None else ""

    async def check_identity(self, keys: Iterable[bytes]) -> None:
        """Asks the nodes that hold these keys for their identities again."""
        for node in self.nodes_of(keys):
            await node.check_identity()

    def nodes_of(self, keys: Iterable[bytes]) -> dict[Node, list[bytes]]:
        """Returns the nodes that hold keys, as far as they are known, each with its keys."""
        found: dict[Node, list[bytes]] = {}
        for key in keys:
            if (node := self._topology.slots[slot_of(key)]) is not None:
                found.setdefault(node, []).append(key)
        return found

    async def send(self, commands: Sequence[Command], *, read_only: bool = False, tracked: bool = False) -> Replies:
        """Sends commands in one request to each node. Returns all replies, exceptions among them."""
        return await self._requests.send(commands, reading=read_only)

    async def send_and_wait(self, commands: Sequence[Command], wait: ReplicaWait) -> Replies:
        """Sends commands as ``send`` does, and waits in the same requests for replicas of each node to have them."""
        return await self._requests.send(commands, wait=wait)

    def arrange(self, keys: Mapping[bytes, bytes | None] | KeyPairs) -> list[bytes]:
        """Returns the keys in the order in which they are read (see ``RedisBackend``)."""
        return self._reads.arrange(keys)

    def start_read(self, keys: Sequence[bytes], callback: OnRead) -> None:
        """Reads keys in one request to each node, and calls ``callback`` when all have answered."""
        self._reads.start(keys, callback)

    def start_tracked_read(self, keys: Sequence[bytes], callback: OnRead) -> None:
        """Reads keys as ``start_read`` does. Their nodes report the next change of each."""
        request, slots = cast("NodeTracking", self._tracking).request(keys, callback)
        self._requests.start(request, slots)

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
