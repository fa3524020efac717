"""Reads whose keys the nodes of a Cluster track, so that the process may keep what was read (``backends.near``).

Each node reports on a connection of its own, and vouches for the entries that were read there. They are dropped with
that connection. Those of a slot are dropped when it has another node, which each request may learn. No entry answers
for longer than ``near_lag`` after the topology was read: a node that loses a slot need not tell of its keys. Must not
know what entries mean.
"""

import random
import time
from collections.abc import Sequence
from functools import partial

from aiomodelcache.backends.channels import Channel, TrackedSlot
from aiomodelcache.backends.near import Near
from aiomodelcache.backends.redis.cluster.reads import OnRead
from aiomodelcache.backends.redis.cluster.requests import ClusterRequest
from aiomodelcache.backends.redis.cluster.slots import slot_of
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import Command, Replies


class NodeTracking:
    """The reports of the nodes of one Cluster to one ``Near``."""

    def __init__(self, near: Near, topology: Topology) -> None:
        self._near = near
        self._topology = topology
        self._read_at = 0.0
        """The time from which the topology is read again."""
        near.tracked_slot, near.ping = self._tracked_slot, self._look
        topology.on_change, topology.on_read = self._leave_moved, self._on_topology

    def request(self, keys: Sequence[bytes], callback: OnRead) -> tuple[ClusterRequest, list[int]]:
        """Returns a read of these keys, and the slots of its commands."""
        if time.monotonic() >= self._read_at:
            self._look()
        by_slot: dict[int, list[int]] = {}
        for at, key in enumerate(keys):
            by_slot.setdefault(slot_of(key), []).append(at)
        for slot in by_slot:
            node = self._topology.slots[slot]
            if node is not None and self._channel_of(slot) is None:
                node.tracking.near = Channel(self._near)
        commands: list[Command] = [("MGET", *[keys[at] for at in places]) for places in by_slot.values()]
        on_done = partial(self._on_done, callback, list(by_slot.values()), len(keys))
        return ClusterRequest(commands, on_done, reading=True, tracked=True), list(by_slot)

    def _on_done(self, callback: OnRead, places: list[list[int]], count: int, request: ClusterRequest) -> None:
        """Passes on a read. Keeps nothing of it if other nodes than those of its slots may have answered."""
        if request.repeated:
            self._near.expected.clear()
        values: Replies = [None] * count
        for at, reply in zip(places, request.replies, strict=True):
            for number, each in enumerate(at):
                values[each] = reply if isinstance(reply, Exception) else reply[number]
        callback(values, True)

    def _channel_of(self, slot: int) -> Channel | None:
        node = self._topology.slots[slot]
        channel = node.tracking.near if node is not None else None
        return channel if isinstance(channel, Channel) and channel.near is self._near else None

    def _tracked_slot(self, key: bytes) -> TrackedSlot | None:
        slot = slot_of(key)
        channel = self._channel_of(slot)
        return channel.slot(slot) if channel is not None else None

    def _leave_moved(self, slots: Sequence[int]) -> None:
        """Drops the entries of slots that have other nodes now."""
        self._near.expected.clear()
        for channel in self._near.channels:
            for slot in channel.slots.keys() & slots:
                if self._channel_of(slot) is not channel:
                    channel.leave(slot)

    def _on_topology(self, asked: float) -> None:
        self._read_at = asked + self._near.lag / 2
        self._near.answered(asked)
        self._near.tick()

    def _look(self) -> None:
        """Reads the topology from any node, so that no single one hides that slots have moved."""
        self._topology.refresh_soon(random.choice(self._topology.nodes or [None]))
