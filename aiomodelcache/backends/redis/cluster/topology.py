"""The slots of a Cluster and the nodes that serve them: read from any node that answers, corrected by redirections.

Must not know which requests are sent, or why.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from operator import is_not
from typing import Final

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TimeoutError

from aiomodelcache.backends.redis.cluster.node import ConnectionSettings, Node
from aiomodelcache.backends.redis.cluster.slots import Address, Remap, SlotRange, address_in, parse_slots
from aiomodelcache.backends.redis.cluster.tasks import ClusterTasks
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.errors import FAILURES
from aiomodelcache.encoding.partitions import SLOTS

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
        self.changes = 0
        """The number of times that a slot got another node."""
        self.on_change: Callable[[Sequence[int]], None] = lambda _: None
        """A callback that is called with the slots that have other nodes."""
        self.on_read: Callable[[float], None] = lambda _: None
        """A callback that is called when the topology was read, with the time at which it was asked for (monotonic)."""
        self._startup = dict.fromkeys(startup)
        self._settings = settings
        self._remap = remap
        self._tasks = tasks
        self._nodes: dict[Address, Node] = {}
        self._retiring: set[Node] = set()
        """The nodes that serve no slots any more, until they are disconnected."""
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

    def failure(self, node: Node | None) -> Exception | None:
        """Returns the reason why requests cannot be sent to the node of a slot, or None.

        A failing node gets none while no node answers: the reading of the topology has asked it as well.
        """
        if node is None:
            return self._failure or self._unserved()
        return self._failure if node.failing else None

    @staticmethod
    def _unserved() -> Exception:
        return ClusterDownError("no node serves the hash slot", status_code="CLUSTERDOWN")

    def node_in(self, redirection: AskError, redirected_by: Node) -> Node:
        """Returns the node that MOVED or ASK names. Raises ``ConnectionError`` if ``address_remap`` fails."""
        address = address_in(redirection, redirected_by.address[0], self._remap)
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._settings)
        return node

    def move(self, moved: MovedError, redirected_by: Node) -> Node:
        """Learns from MOVED that a slot has another node, and returns that node. Fails as ``node_in`` does."""
        node = self.node_in(moved, redirected_by)
        if 0 <= moved.slot_id < SLOTS and self.slots[moved.slot_id] is not node:
            redirected_by.lost_slots = True
            slots = list(self.slots)
            slots[moved.slot_id] = node
            self._use(slots)
            node = self.slots[moved.slot_id] or node
        self.refresh_soon(node)
        return node

    def _use(self, slots: list[Node | None]) -> None:
        """Uses these nodes from now on. One that gets slots again has new connections, which ask for its identity."""
        for node in dict.fromkeys(compress(slots, map(is_not, self.slots, slots))):
            if node is not None and node.lost_slots:
                fresh = self._nodes[node.address] = Node(node.address, self._settings)
                slots = [fresh if each is node else each for each in slots]
                self._start_retiring(node)
        before, self.slots = self.slots, slots
        if slots != before:
            self.changes += 1
            self.on_change(list(compress(range(SLOTS), map(is_not, before, slots))))

    def refresh_soon(self, first: Node | None = None) -> None:
        """Begins to read the topology, unless that is under way, was done right before, or the tasks have ended."""
        if self._refreshing is None and time.monotonic() >= self._refresh_at and not self._tasks.closed:
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
        if self._failure is not None or not self.primaries:
            raise self._failure or self._unserved()

    def _refreshed(self, _: object) -> None:
        self._refreshing = None
        self._refresh_at = time.monotonic() + REFRESH_INTERVAL

    async def _refresh(self, first: Node | None) -> None:
        asked = time.monotonic()
        try:
            ranges = await self._ask_any(list(self._sources(first)))
        except FAILURES as error:
            self._failure = error
        else:
            self._failure = None
            self._adopt(ranges)
            self.on_read(asked)

    async def _ask_any(self, addresses: Sequence[Address]) -> list[SlotRange]:
        """Returns the first good answer. Raises redis-py's exceptions if none comes within ``timeout``.

        Asks the next address when one fails, or when it is late, so that the last one has half of the time.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._settings.timeout, self._settings.timeout / (2 * len(addresses))
        failure: Exception = TimeoutError("no node answers")
        asking: set[asyncio.Task[list[SlotRange]]] = set()
        rest = list(reversed(addresses))
        try:
            while (rest or asking) and loop.time() < until:
                if rest:
                    asking.add(self._tasks.start(self._ask(rest.pop())))
                patience = pause if rest else until - loop.time()
                done, asking = await asyncio.wait(asking, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                failures = [task.exception() for task in done]
                for task, error in zip(done, failures, strict=True):
                    if error is None:
                        return task.result()
                    if not isinstance(error, FAILURES):
                        raise error
                    failure = error
            raise failure
        finally:
            for task in asking:
                task.cancel()

    async def _ask(self, address: Address) -> list[SlotRange]:
        known = self._nodes.get(address)
        node = known or Node(address, self._settings)
        try:
            [reply] = await node.send([_CLUSTER_SLOTS])
        finally:
            if known is None:
                await node.aclose()
        if isinstance(reply, ResponseError) and "cluster support disabled" in str(reply):
            raise ResponseError("Cluster mode is not enabled on this node")
        if isinstance(reply, Exception):
            raise reply
        ranges = parse_slots(reply, address[0], self._remap)
        if not ranges:
            raise ClusterDownError("the node knows no slots", status_code="CLUSTERDOWN")
        return ranges

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
        self._use(slots)
        self._others = dict.fromkeys([address for each in ranges for address in each.replicas])
        # One that slots move to is connected anew when it is asked again. It may be a replica in between, and then it
        # comes back with other contents.
        for node in former.values():
            self._start_retiring(node)

    def _start_retiring(self, node: Node) -> None:
        self._retiring.add(node)
        self._tasks.start(self._retire(node))

    async def _retire(self, node: Node) -> None:
        await node.retire()
        self._retiring.discard(node)

    async def aclose(self) -> None:
        """Disconnects from all nodes."""
        for node in [*self.nodes, *self._retiring]:
            await node.aclose()
