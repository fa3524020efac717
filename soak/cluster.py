"""``python -m soak.cluster``: lookups and saves on a Redis Cluster whose nodes fail over again and again.

Each time, a replica is cut off from its master, which goes on for a while, is killed, and is replaced by that replica.
So the replica lacks writes that were acknowledged, marked and cleared. Two caches stand for two processes. A lookup
that returns an older row than the last one acknowledged when it began is a violation.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache
from tests.backends.test_cluster_failover import cut_off, promote
from tests.support.models.music import Artist
from tests.support.servers.redis_cluster import Cluster, ClusterNode, until

ROWS: Final = 200
RANKS: Final = 20
READERS: Final = 6
WRITERS: Final = 3
_MODELS: Final = "tests.support.models.music"


@dataclass
class Run:
    """The counts of one run. ``acknowledged`` are the newest values of the rows that saves have returned for."""

    acknowledged: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(1, ROWS + 1), 0))
    reads: int = 0
    writes: int = 0
    failovers: int = 0
    violations: list[str] = field(default_factory=list[str])
    over: bool = False

    async def read(self, cache: ModelCache, chance: random.Random) -> None:
        """Looks rows up in every way until the run is over."""
        artists: Any = cache.manager(Artist)
        while not self.over:
            number = chance.randint(1, ROWS)
            same_rank = [each for each in self.acknowledged if each % RANKS == number % RANKS]
            several = [each for each in self.acknowledged if each % 19 == number % 19]
            kind = chance.choice(("key", "name", "list", "many"))
            wanted = {"list": same_rank, "many": several}.get(kind, [number])
            oldest = [self.acknowledged[each] for each in wanted]
            if kind == "list":
                rows = await artists.filter(rank=number % RANKS)
            elif kind == "many":
                rows = await artists.get_many(several)
            else:
                rows = [await (artists.get(id=number) if kind == "key" else artists.get(name=f"artist{number}"))]
            self.reads += 1
            self.compare(kind, rows, wanted, oldest)
            await asyncio.sleep(0)

    def compare(self, kind: str, rows: list[Artist], wanted: list[int], oldest: list[int]) -> None:
        """Notes the rows that are missing, or older than when the lookup began."""
        if [row.id for row in rows] != wanted:
            self.violations.append(f"{kind}: rows {[row.id for row in rows]} instead of {wanted}")
        for row, value in zip(rows, oldest, strict=False):
            if row.followers < value:
                self.violations.append(f"{kind}: row {row.id} has {row.followers}, and {value} was acknowledged")

    async def write(self, chance: random.Random, own: list[int]) -> None:
        """Saves rows that no other task writes, until the run is over."""
        while not self.over:
            number = chance.choice(own)
            value = self.acknowledged[number] + 1
            if chance.random() < 0.1:
                await Artist.filter(id=number).update(followers=value)
            else:
                await _artist(number, value).save(force_update=True)
            self.acknowledged[number] = value
            self.writes += 1
            await asyncio.sleep(chance.random() * 0.02)

    async def fail_over(self, cluster: Cluster, chance: random.Random, duration: float) -> None:
        """Lets one node after the other fail over. Each dead node comes back as the replica of its successor."""
        pairs = [list(pair) for pair in zip(cluster.nodes, cluster.replicas, strict=True)]
        end = time.monotonic() + duration
        while time.monotonic() < end:
            await asyncio.sleep(2)
            pair = chance.choice(pairs)
            master, replica = pair
            others = [node for each in pairs for node in each if node is not master]
            await asyncio.to_thread(cut_off, master, replica)
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            await asyncio.to_thread(master.kill)
            await asyncio.to_thread(promote, others, replica)
            self.failovers += 1
            await asyncio.sleep(1.5)
            await asyncio.to_thread(_come_back, master, replica)
            pair.reverse()


def _artist(number: int, value: int) -> Artist:
    return Artist(id=number, name=f"artist{number}", rank=number % RANKS, followers=value)


def _come_back(dead: ClusterNode, master: ClusterNode) -> None:
    dead.restart()
    for setting in ("masteruser", "masterauth"):
        master.run("CONFIG", "SET", setting, "")
    until(lambda: b"cluster_state:ok" in dead.run("CLUSTER", "INFO"))
    dead.run("CLUSTER", "REPLICATE", master.id)
    until(lambda: dead.run("INFO", "replication").get("master_link_status") == "up")


async def soak(duration: float, seed: int, folder: Path) -> Run:
    """Runs for so many seconds, and compares every row with the database at the end."""
    run, chance = Run(), random.Random(seed)
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(4)]
        cluster = Cluster(nodes[:2], replicas=nodes[2:])
        url = f"redis+cluster://{','.join(node.address for node in nodes)}"
        async with TortoiseContext() as context:
            await context.init(db_url=f"sqlite://{folder / 'soak.sqlite3'}", modules={"app": [_MODELS]})
            await context.generate_schemas()
            async with ModelCache(url) as one, ModelCache(url) as other:
                await Artist.bulk_create([_artist(number, 0) for number in run.acknowledged])
                numbers = [*run.acknowledged]
                async with asyncio.TaskGroup() as tasks:
                    for number in range(READERS):
                        tasks.create_task(run.read((one, other)[number % 2], random.Random(seed + number)))
                    for number in range(WRITERS):
                        tasks.create_task(run.write(random.Random(seed - number), numbers[number::WRITERS]))
                    await run.fail_over(cluster, chance, duration)
                    await asyncio.sleep(2)
                    run.over = True
                for cache in (one, other):
                    rows = await cache.manager(Artist).get_many(numbers)
                    run.compare("at rest", rows, numbers, [*run.acknowledged.values()])
    return run


def main() -> int:
    """Prints what was done and found. Returns 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="soak.cluster", description=__doc__)
    parser.add_argument("--duration", type=float, default=600, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = asyncio.run(soak(options.duration, options.seed, Path(folder)))
    print(f"{run.reads:,} reads, {run.writes:,} writes, {run.failovers} failovers, {len(run.violations)} violations")
    for violation in run.violations[:20]:
        print(f"  {violation}")
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
