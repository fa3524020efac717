"""A Redis Cluster of two private nodes."""

import time
from collections.abc import Sequence
from pathlib import Path

from redis.crc import key_slot

from aiomodelcache.testing.conformance import new_keys

from .redis import RedisServer

SLOTS = 16_384


class ClusterNode(RedisServer):
    """One node, which does not know the other nodes yet."""

    def _command(self) -> list[str | Path]:
        # A busy machine may be silent for a while, which is not a failure.
        settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "60000"]
        return [*super()._command(), *settings]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class Cluster:
    """Two nodes: the first holds the lower half of the slots, the second the upper."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes
        self.url = f"redis+cluster://{','.join(node.address for node in nodes)}"
        middle = SLOTS // 2
        for node, slots in zip(nodes, [range(middle), range(middle, SLOTS)], strict=True):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        with nodes[0].client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
        deadline = time.monotonic() + 60
        while not all(map(self._is_ready, nodes)):
            assert time.monotonic() < deadline, "the nodes did not find each other"
            time.sleep(0.02)

    @staticmethod
    def _is_ready(node: ClusterNode) -> bool:
        with node.client() as client:
            known = len(client.execute_command("CLUSTER", "SLOTS"))
            return known == 2 and b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")

    def give(self, slots: list[int], node: int, tell: Sequence[int] = (0, 1)) -> None:
        """Assigns slots to a node, as far as the nodes ``tell`` know."""
        for each in tell:
            self.nodes[each].flush()  # a slot with keys cannot be given away
        with self.nodes[node].client() as client:
            client.execute_command("CLUSTER", "BUMPEPOCH")  # so that the other nodes accept it
            holder = client.execute_command("CLUSTER", "MYID")
        for each in tell:
            with self.nodes[each].client() as client:
                for slot in slots:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", holder)

    def keys(self, node: int, count: int, beginning: bytes = b"") -> list[bytes]:
        """Returns new keys that belong to a node."""
        candidates = [beginning + key for key in new_keys(20 * count)]
        return [key for key in candidates if key_slot(key) // (SLOTS // 2) == node][:count]
