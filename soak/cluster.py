"""``SoakCluster``: a Redis Cluster of three shards, whose nodes fail over soon, and the faults that happen to them.

A node dies, is frozen for a shorter and for a longer time than the others wait for it, and hands over, by hand or by
force. The replica that follows it lags behind in most cases. Slots move from shard to shard, with the keys in them.
"""

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import anyio
from anyio import to_thread
from redis import RedisError
from redis.crc import key_slot

from soak.faults import Faults
from tests.support.servers.redis_cluster import Cluster, ClusterNode, Moving, end_replication, until

SHARDS: Final = 3
NODE_TIMEOUT: Final = 2.0
"""Seconds after which a silent node counts as failing, and its replica follows it."""
MANUAL_FAILOVER_TIMEOUT: Final = 6.0
"""Seconds after which a failover that was asked for has ended, one way or the other (Redis: 5)."""
CLUSTER_FAULTS: Final = (
    "kill", "slow", "terminate",
    "node-death", "node-stall", "node-hang", "node-failover", "node-force", "node-flush", "node-cut",
    "scripts", "reshard",
)  # fmt: skip


class SoakNode(ClusterNode):
    """A node that waits for a silent one for ``NODE_TIMEOUT`` only."""

    def _command(self) -> list[str | Path]:
        settings = ["--cluster-node-timeout", str(int(NODE_TIMEOUT * 1_000)), "--cluster-replica-validity-factor", "0"]
        return [*super()._command(), *settings]


class Shard:
    """Two nodes with the same slots: one serves them, and the other one follows it."""

    def __init__(self, *nodes: ClusterNode) -> None:
        self.nodes = nodes

    def in_order(self) -> tuple[ClusterNode, ClusterNode]:
        """Returns the node that serves the slots, and its replica. Waits until they are in order."""
        until(lambda: self._roles() == ["master", "slave"])
        first, second = self.nodes
        return (first, second) if first.run("INFO", "replication")["role"] == "master" else (second, first)

    def _roles(self) -> list[str]:
        try:
            replications = [node.run("INFO", "replication") for node in self.nodes]
        except RedisError:  # a node that loads what its master has sent
            return []
        up = [each for each in replications if each.get("master_link_status", "up") == "up"]
        return sorted(str(each["role"]) for each in up)

    def reconnect(self) -> None:
        """Lets either node follow the other one again. Waits until it does."""
        for node in self.nodes:
            for setting in ("masteruser", "masterauth"):
                node.run("CONFIG", "SET", setting, "")
        self.in_order()


class SoakCluster:
    """Three nodes, each with a replica. Use it by ``with``."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.nodes: list[ClusterNode] = [stack.enter_context(SoakNode()) for _ in range(2 * SHARDS)]
            firsts, seconds = self.nodes[:SHARDS], self.nodes[SHARDS:]
            self.url = Cluster(firsts, replicas=seconds).url
            self.shards = [Shard(*pair) for pair in zip(firsts, seconds, strict=True)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def agree(self) -> None:
        """Waits until all nodes serve, and know the same masters."""
        until(lambda: all(b"cluster_state:ok" in node.run("CLUSTER", "INFO") for node in self.nodes))
        until(lambda: len({_owners(node) for node in self.nodes}) == 1)


def _owners(node: ClusterNode) -> tuple[Any, ...]:
    ranges: list[Any] = node.run("CLUSTER", "SLOTS")
    return tuple(sorted((first, last, nodes[0][1]) for first, last, *nodes in ranges))


class ClusterFaults:
    """The faults of a Cluster, which happen one at a time."""

    def __init__(self, cluster: SoakCluster, faults: Faults, chance: random.Random) -> None:
        self._cluster = cluster
        self._faults = faults
        self._chance = chance
        self.schedule: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "node-death": (20, self._death),
            "node-stall": (15, self._stall),
            "node-hang": (25, self._hang),
            "node-failover": (20, self._failover),
            "node-force": (20, self._force),
            "node-flush": (30, self._flush),
            "node-cut": (5, self._cut),
            "scripts": (15, self._forget_scripts),
            "reshard": (4, self._reshard),
        }
        """Faults by name, as in ``Faults``."""

    async def _death(self) -> None:
        """Kills a node whose replica lags, or not. The replica is elected, or takes over by itself."""
        lags, elected = self._chance.random() < 0.8, self._chance.random() < 0.5
        what = f"SIGKILL, {'lagging ' * lags}replica {'elected' if elected else 'takes over'}"
        async with self._faults.alone, self._faults.losing(f"node: {what}"):
            shard, master, replica = await self._drawn()
            if lags:
                await self._lag(master, replica)
            await to_thread.run_sync(master.kill)
            if not elected:
                await to_thread.run_sync(replica.run, "CLUSTER", "FAILOVER", "TAKEOVER")
            await to_thread.run_sync(until, partial(_serves, replica))
            await self._sleep(0, 2)
            await to_thread.run_sync(master.restart)
            await self._heal(shard)

    async def _stall(self) -> None:
        """Freezes a node for a shorter time than the others wait for it."""
        async with self._faults.alone:
            _, master, _ = await self._drawn()
            await to_thread.run_sync(master.stop)
            await self._sleep(0.1, NODE_TIMEOUT * 0.7)
            await to_thread.run_sync(master.cont)
        self._faults.counts["node: SIGSTOP, shorter than the node timeout"] += 1

    async def _hang(self) -> None:
        """Freezes a node until its replica is elected, or for about as long. It goes on as if nothing had happened."""
        async with self._faults.alone, self._faults.losing("node: SIGSTOP, longer than the node timeout"):
            shard, master, replica = await self._drawn()
            if self._chance.random() < 0.5:
                await self._lag(master, replica)
            await to_thread.run_sync(master.stop)
            if self._chance.random() < 0.5:
                await to_thread.run_sync(until, partial(_serves, replica))
            await self._sleep(0, NODE_TIMEOUT * 2)
            await to_thread.run_sync(master.cont)
            await self._heal(shard)

    async def _failover(self) -> None:
        """Asks a replica to follow its master, which lets it catch up first."""
        async with self._faults.alone:
            shard, _, replica = await self._drawn()
            await to_thread.run_sync(replica.run, "CLUSTER", "FAILOVER")
            await self._sleep(0, 1)
            await self._heal(shard)
        self._faults.counts["node: CLUSTER FAILOVER"] += 1

    async def _force(self) -> None:
        """Lets a replica that lags follow a master that lives."""
        how = self._chance.choice(["FORCE", "TAKEOVER"])
        async with self._faults.alone, self._faults.losing(f"node: CLUSTER FAILOVER {how} of a lagging replica"):
            shard, master, replica = await self._drawn()
            await self._lag(master, replica)
            await to_thread.run_sync(_take_over, replica, how)
            await self._heal(shard)

    async def _flush(self) -> None:
        async with self._faults.alone, self._faults.losing("node: FLUSHALL"):
            _, master, _ = await self._drawn()
            await to_thread.run_sync(master.flush)

    async def _cut(self) -> None:
        """Ends all connections of clients to a node, which goes on."""
        async with self._faults.alone:
            _, master, _ = await self._drawn()
            await to_thread.run_sync(master.run, "CLIENT", "KILL", "TYPE", "normal")
        self._faults.counts["node: CLIENT KILL"] += 1

    async def _forget_scripts(self) -> None:
        async with self._faults.alone:
            for node in self._cluster.nodes:
                await to_thread.run_sync(node.run, "SCRIPT", "FLUSH")
        self._faults.counts["SCRIPT FLUSH"] += 1

    async def _reshard(self) -> None:
        """Moves slots from one shard to another, key by key. Between two slots there is time for other faults."""
        giving, taking = self._chance.sample(self._cluster.shards, 2)
        for _ in range(self._chance.randint(1, 10)):
            async with self._faults.alone:
                moved = await to_thread.run_sync(self._move_slot, giving, taking)
            self._faults.counts["slots moved"] += 1
            self._faults.counts["keys moved with their slots"] += moved

    def _move_slot(self, giving: Shard, taking: Shard) -> int:
        (giver, _), (taker, _) = giving.in_order(), taking.in_order()
        others = [shard.in_order()[0] for shard in self._cluster.shards if shard not in (giving, taking)]
        key = giver.run("RANDOMKEY")
        if key is None:
            return 0
        moved = 0
        with Moving(key_slot(key), giver, taker) as moving:
            while keys := moving.keys(giver):
                self._chance.shuffle(keys)
                some = keys[: self._chance.randint(1, 10)]
                giver.run("MIGRATE", "127.0.0.1", taker.port, "", 0, 5_000, "REPLACE", "KEYS", *some)
                moved += len(some)
                time.sleep(self._chance.expovariate(1 / 0.01))
            moving.end(*others)
        return moved

    # Steps ------------------------------------------------------------------------------------------

    async def _drawn(self) -> tuple[Shard, ClusterNode, ClusterNode]:
        shard = self._chance.choice(self._cluster.shards)
        return shard, *await to_thread.run_sync(shard.in_order)

    async def _lag(self, master: ClusterNode, replica: ClusterNode) -> None:
        """Ends the replication, and lets the master go on for a while. The replica lacks all writes of that time."""
        await to_thread.run_sync(end_replication, master, replica)
        await self._sleep(0.2, 1)

    async def _heal(self, shard: Shard) -> None:
        await to_thread.run_sync(shard.reconnect)
        await to_thread.run_sync(self._cluster.agree)

    async def _sleep(self, least: float, most: float) -> None:
        await anyio.sleep(self._chance.uniform(least, most))


def _take_over(replica: ClusterNode, how: str) -> None:
    """Asks a replica to follow its master until it does. It gives up when it is not elected within some seconds."""
    asked = -MANUAL_FAILOVER_TIMEOUT

    def serves() -> bool:
        nonlocal asked
        if not _serves(replica) and time.monotonic() >= asked + MANUAL_FAILOVER_TIMEOUT:
            replica.run("CLUSTER", "FAILOVER", how)
            asked = time.monotonic()
        return _serves(replica)

    until(serves)


def _serves(node: ClusterNode) -> bool:
    return bool(node.run("INFO", "replication")["role"] == "master")
