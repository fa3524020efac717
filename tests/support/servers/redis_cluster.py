"""A Redis Cluster of private nodes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from aiomodelcache.testing.conformance import new_keys

from .redis import RedisServer

SLOTS = 16_384
PATIENCE = 60
"""Seconds to wait for the nodes to agree."""


class ClusterNode(RedisServer):
    """One node, which does not know the other nodes yet."""

    # Nodes also listen on a port that is greater by 10,000, which no outgoing connection may have.
    _ports = range(10_000, 22_000)

    def _command(self) -> list[str | Path]:
        # A busy machine may be silent for a while, which is not a failure.
        settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "60000"]
        settings += ["--cluster-require-full-coverage", "no"]
        settings += ["--repl-diskless-sync-delay", "0"]
        return [*super()._command(), *settings]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def run(self, *command: str | bytes | int) -> Any:
        """Runs a command on this node."""
        with self.client() as client:
            return client.execute_command(*command)

    @property
    def id(self) -> str:
        """The name by which the other nodes know this one."""
        found = self.run("CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)


class Cluster:
    """Nodes that share the slots, in their order and as evenly as possible.

    ``spares``: nodes without slots. ``replicas``: one for each node, or none.
    """

    def __init__(
        self, nodes: list[ClusterNode], *, spares: Sequence[ClusterNode] = (), replicas: Sequence[ClusterNode] = ()
    ) -> None:
        self.nodes = nodes
        self.replicas = list(replicas)
        self.spares = list(spares)
        self._all = [*nodes, *spares, *replicas]
        self.url = f"redis+cluster://{','.join(node.address for node in nodes)}"
        for number, node in enumerate(nodes):
            slots = [slot for slot in range(SLOTS) if self._place(slot) == number]
            node.run("CLUSTER", "ADDSLOTS", *slots)
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        self._introduce()
        for node, replica in zip(nodes, replicas, strict=False):
            replica.run("CLUSTER", "REPLICATE", node.id)
        until(lambda: all(each.run("INFO", "replication")["master_link_status"] == "up" for each in replicas))
        for node in nodes:
            node.flush()  # nodes name no replica that has not received anything yet, and masters ping them every 10 s
        until(lambda: all(each.run("INFO", "replication")["slave_repl_offset"] for each in replicas))
        if replicas:
            self._introduce()
        self.wait()

    def _introduce(self) -> None:
        """Has each node tell each other its name, slots and role: by itself it tells one of them in a second."""
        for node in self._all:
            for other in self._all:
                if other is not node:
                    node.run("CLUSTER", "MEET", "127.0.0.1", other.port)
        until(lambda: all(map(self._knows_all, self._all)))

    def wait(self) -> None:
        """Waits until all nodes serve their slots, as some time after a restart."""
        until(lambda: all(map(self._is_ready, self._all)))

    def _place(self, slot: int) -> int:
        return slot * len(self.nodes) // SLOTS

    def _knows_all(self, node: ClusterNode) -> bool:
        listed = node.run("CLUSTER", "NODES")
        return listed.count(b"\n") == len(self._all) and b"handshake" not in listed

    def _is_ready(self, node: ClusterNode) -> bool:
        ranges = node.run("CLUSTER", "SLOTS")
        known = sum(len(each) - 2 for each in ranges) == len(self.nodes) + len(self.replicas)
        return known and b"cluster_state:ok" in node.run("CLUSTER", "INFO")

    def give(self, slots: list[int], node: int, tell: Sequence[int] | None = None) -> None:
        """Assigns slots to a node, as far as the nodes ``tell`` know."""
        tell = range(len(self.nodes)) if tell is None else tell
        for each in tell:
            self.nodes[each].flush()  # a slot with keys cannot be given away
        self.nodes[node].run("CLUSTER", "BUMPEPOCH")  # so that the other nodes accept it
        holder = self.nodes[node].id
        for each in tell:
            for slot in slots:
                self.nodes[each].run("CLUSTER", "SETSLOT", slot, "NODE", holder)

    def keys(self, node: int, count: int, beginning: bytes = b"") -> list[bytes]:
        """Returns new keys that belong to a node, and that can be tags in other keys."""
        candidates = new_keys(20 * count)
        while {*b"{}"} & {*candidates[0]}:
            candidates = new_keys(20 * count)
        return [key for key in (beginning + key for key in candidates) if self._place(key_slot(key)) == node][:count]


class Moving:
    """A slot that moves from one node to another, key by key. Entered with ``with``."""

    def __init__(self, slot: int, giver: ClusterNode, taker: ClusterNode) -> None:
        self.slot = slot
        self.giver = giver
        self.taker = taker

    def __enter__(self) -> "Moving":
        self.taker.run("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.giver.id)
        self.giver.run("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.taker.id)
        return self

    def __exit__(self, *_: object) -> None:
        for node in (self.giver, self.taker):
            node.run("CLUSTER", "SETSLOT", self.slot, "STABLE")

    def move(self, *keys: bytes) -> None:
        """Moves keys, which must exist."""
        for key in keys:
            assert self.try_to_move(key)

    def try_to_move(self, key: bytes) -> bool:
        """Moves a key, if it is still there."""
        return bool(self.giver.run("MIGRATE", "127.0.0.1", self.taker.port, key, 0, 5_000) == b"OK")

    def keys(self, node: ClusterNode) -> list[bytes]:
        """Returns the keys of the slot that a node has."""
        found: list[bytes] = node.run("CLUSTER", "GETKEYSINSLOT", self.slot, 1_000)
        return found

    def end(self, *others: ClusterNode) -> None:
        """Gives the slot to the taker, and tells the other nodes."""
        holder = self.taker.id
        for node in (self.taker, self.giver, *others):
            node.run("CLUSTER", "SETSLOT", self.slot, "NODE", holder)


def until(condition: Callable[[], bool]) -> None:
    """Waits until servers agree, which they do not announce."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the nodes did not agree"
        time.sleep(0.02)


def end_replication(master: ClusterNode, replica: ClusterNode) -> None:
    """Makes a master reject its replica from now on. Waits until the replica has noticed."""
    replica.run("CONFIG", "SET", "masteruser", "unknown")
    replica.run("CONFIG", "SET", "masterauth", "wrong")
    master.run("CLIENT", "KILL", "TYPE", "replica")
    until(lambda: replica.run("INFO", "replication")["master_link_status"] == "down")
