"""The slots of a Cluster and the nodes that serve them: read from any node that answers, corrected by redirections.

Must not know which requests are sent, or why.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from redis.exceptions import ClusterDownError, ConnectionError, MovedError, ResponseError

from aiomodelcache.backends.redis.cluster.node import ConnectionSettings, Node
from aiomodelcache.backends.redis.cluster.slots import SLOTS, Address, Remap, SlotRange, address_in, parse_slots
from aiomodelcache.backends.redis.cluster.tasks import ClusterTasks
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.errors import FAILURES

REFRESH_INTERVAL: Final = 0.25
"""Minimum seconds between two readings of the topology. Before, nodes are used as they were last known."""

_CLUSTER_SLOTS: Final[Command] = ("CLUSTER", "SLOTS")


class Topology:
    """The slots of a Cluster and their nodes. A node keeps its connections as long as it serves any slot."""

    def __init__(
        self, startup: Iterable[Address], settings: ConnectionSettings, remap: Remap, tasks: ClusterTasks
    ) -> None:
        self.slots: list[Node | None] = [None] * SLOTS
        """The node that serves each slot, or None if none is known."""
        self._startup = dict.fromkeys(startup)
        self._settings = settings
        self._remap = remap
        self._tasks = tasks
        self._nodes: dict[Address, Node] = {}
        self._others: dict[Address, None] = {}
        """The addresses of replicas, which know the topology as well."""
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_at = 0.0
        self._failure: Exception | None = None
        """The reason why the topology could not be read the last time, or None."""

    @property
    def nodes(self) -> list[Node]:
        """The nodes that serve slots, and those that slots move to."""
        return list(self._nodes.values())

    @property
    def primaries(self) -> list[Node]:
        """The nodes that serve slots."""
        return list(dict.fromkeys([node for node in self.slots if node is not None]))

    def failure(self) -> Exception:
        """Returns the reason why a slot has no node."""
        return self._failure or ClusterDownError("no node serves the hash slot", status_code="CLUSTERDOWN")

    def node_at(self, host: str, port: int, redirected_by: Node) -> Node:
        """Returns the node that a redirection names."""
        address = self._remap((host or redirected_by.address[0], port))
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._settings)
        return node

    def move(self, moved: MovedError, redirected_by: Node) -> Node:
        """Learns from MOVED that a slot has another node, and returns that node."""
        node = self.node_at(*address_in(moved), redirected_by)
        if 0 <= moved.slot_id < SLOTS:
            self.slots[moved.slot_id] = node
        self.refresh_soon(node)
        return node

    def refresh_soon(self, first: Node | None = None) -> None:
        """Begins to read the topology, unless that is under way or was done right before."""
        if self._refreshing is None and time.monotonic() >= self._refresh_at:
            self._refreshing = self._tasks.start(self._refresh(first))
            self._refreshing.add_done_callback(self._refreshed)

    def when_read(self, callback: Callable[[], None]) -> None:
        """Reads the topology, unless that was done right before. Calls ``callback`` then, also if no node answers."""
        self.refresh_soon()
        if self._refreshing is None:
            callback()
        else:
            self._refreshing.add_done_callback(lambda _: callback())

    async def require(self) -> None:
        """Reads the topology. Raises redis-py's exceptions if no node answers."""
        self._refresh_at = 0.0
        self.refresh_soon()
        if self._refreshing is not None:
            await asyncio.wait([self._refreshing])  # cancelling one caller does not end the reading
        if self._failure is not None:
            raise self._failure

    def _refreshed(self, _: object) -> None:
        self._refreshing = None
        self._refresh_at = time.monotonic() + REFRESH_INTERVAL

    async def _refresh(self, first: Node | None) -> None:
        failure: Exception = ConnectionError("no node is known")
        for address in self._sources(first):
            known = self._nodes.get(address)
            node = known or Node(address, self._settings)
            try:
                [reply] = await node.send([_CLUSTER_SLOTS])
                if isinstance(reply, ResponseError) and "cluster support disabled" in str(reply):
                    raise ResponseError("Cluster mode is not enabled on this node")
                if isinstance(reply, Exception):
                    raise reply
                ranges = parse_slots(reply, address[0], self._remap)
                if not ranges:
                    raise self._without_slots()
            except FAILURES as error:
                failure = error
            else:
                self._failure = None
                self._adopt(ranges)
                return
            finally:
                if known is None:
                    await node.aclose()
        self._failure = failure

    @staticmethod
    def _without_slots() -> Exception:
        return ClusterDownError("the node knows no slots", status_code="CLUSTERDOWN")

    def _sources(self, first: Node | None) -> Iterator[Address]:
        """Yields the addresses to ask, those first that are likely to answer, and to know."""
        nodes = sorted(self.nodes, key=lambda node: (node is not first, node.failing, not node.writing.is_open))
        healthy = [node.address for node in nodes if not node.failing]
        yield from dict.fromkeys([*healthy, *self._others, *self._startup, *[node.address for node in nodes]])

    def _adopt(self, ranges: list[SlotRange]) -> None:
        former, self._nodes = self._nodes, {}
        slots: list[Node | None] = [None] * SLOTS
        for each in ranges:
            node = self._nodes.get(each.primary)
            if node is None:
                node = former.pop(each.primary, None) or Node(each.primary, self._settings)
                self._nodes[each.primary] = node
            slots[each.first : each.last + 1] = [node] * (each.last + 1 - each.first)
        self.slots = slots
        self._others = dict.fromkeys([address for each in ranges for address in each.replicas])
        for address, node in former.items():
            if node.asked:
                node.asked = False
                self._nodes[address] = node
            else:
                self._tasks.start(node.retire())

    async def aclose(self) -> None:
        """Disconnects from all nodes."""
        for node in self.nodes:
            await node.aclose()
