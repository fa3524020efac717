"""The hosts that the nodes of a Cluster tell clients: none, an empty one, a name, and names that some nodes lack."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.crc import key_slot

from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.cluster.slots import parse_slots
from aiomodelcache.testing.conformance import MINUTE, held, new_key, new_token
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

from .opening import opened

HOSTS: dict[str, tuple[bytes | None, dict[str, str]]] = {
    "empty": (b"", {}),
    "null": (None, {"cluster-preferred-endpoint-type": "unknown-endpoint"}),
    "a name": (
        b"localhost",
        {"cluster-announce-hostname": "localhost", "cluster-preferred-endpoint-type": "hostname"},
    ),
    "no name": (b"?", {"cluster-preferred-endpoint-type": "hostname"}),
    "an address beside a name": (b"127.0.0.1", {"cluster-announce-hostname": "x", "cluster-announce-ip": "127.0.0.1"}),
}
"""The host in the reply to ``CLUSTER SLOTS``, and the settings of the node. It learns its own address from others."""


def hosts_of(node: ClusterNode) -> list[bytes | None]:
    """Returns the hosts of all nodes with slots as a node tells them."""
    ranges: list[Any] = node.run("CLUSTER", "SLOTS")
    return [primary[0] for _, _, primary, *_ in ranges]


def configure(node: ClusterNode, settings: dict[str, str]) -> None:
    if ClusterNode.version() < [7]:
        pytest.skip("the server tells addresses only, before Redis 7")
    for name, value in settings.items():
        node.run("CONFIG", "SET", name, value)


async def use(backend: RedisBackend) -> None:
    """Writes a key and reads it again."""
    key = new_key()
    await backend.mark([key], new_token(), MINUTE)
    assert await held(backend, key) is not None


@pytest.fixture
def alone(redis_server: RedisServer) -> Iterator[ClusterNode]:
    """The only node of a Cluster, which does not know its own address."""
    # ``redis_server`` skips where there is no Redis.
    with ClusterNode() as node:
        Cluster([node])
        yield node


@pytest.mark.parametrize("name", HOSTS)
async def test_a_cluster_of_one_node_opens_whatever_host_it_tells(alone: ClusterNode, name: str) -> None:
    host, settings = HOSTS[name]
    if settings:
        configure(alone, settings)
    assert hosts_of(alone) == [host]
    async with opened(f"redis+cluster://{alone.address}") as backend:
        await use(backend)
        assert backend.node_of(b"any") == f"{'localhost' if name == 'a name' else '127.0.0.1'}:{alone.port}"


@pytest.mark.parametrize("endpoint", ["unknown-endpoint", "hostname"])
async def test_nodes_without_hosts_are_at_the_host_that_answers(redis_server: RedisServer, endpoint: str) -> None:
    """Also where a redirection leads."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(2)]
        cluster = Cluster(nodes)
        for node in nodes:
            configure(node, {"cluster-preferred-endpoint-type": endpoint})
        assert {*hosts_of(nodes[0])} <= {None, b"?"}
        async with opened(f"redis+cluster://{nodes[0].address}") as backend:
            [key] = cluster.keys(0, 1)
            assert backend.node_of(key) == nodes[0].address
            assert backend.node_of(cluster.keys(1, 1)[0]) == nodes[1].address
            cluster.give([key_slot(key)], 1)
            assert await backend.read([key]) == [None]
            assert backend.node_of(key) == nodes[1].address


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_host_that_is_not_told_is_the_one_that_answers(host: bytes | None) -> None:
    [found] = parse_slots([[0, 5, [host, 7000, b"id"], [host, 7001]]], "here", lambda address: address)
    assert (found.primary, found.replicas) == (("here", 7000), (("here", 7001),))
