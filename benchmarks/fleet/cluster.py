"""``python -m benchmarks.fleet.cluster``: what lookups cost on a Cluster of three masters, against one server.

Prints CPU time of this process, of the servers, and how many requests each lookup sends. Fails if a budget is exceeded.
The rounds of the Cluster and of the server alternate, and the cheapest of each count: other work only adds to them.
"""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from aiomodelcache import BatchCacheQuery, ModelCache, ModelCacheManager
from aiomodelcache.backends.redis.backend import RedisBackend
from benchmarks import data
from benchmarks.fleet.measure import cpu_seconds
from benchmarks.models import Product
from benchmarks.tables import aligned
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

MASTERS: Final = 3
HUNDRED: Final = list(range(101, 201))
"""Primary keys of a hundred products."""
OWNERS: Final = list(range(1, 11))
"""Owners whose lists of products are read together."""

Manager = ModelCacheManager[Product]
Work = Callable[[Manager], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ClusterCase:
    """Something to measure, and its budgets."""

    name: str
    work: Work
    limit: float | None = None
    """Maximum ratio of the CPU time of this process on the Cluster to that on one server."""
    most_requests: int = MASTERS
    """Maximum number of requests to all nodes."""


CASES: Final = [
    ClusterCase("a hit by pk", lambda manager: manager.get(id=HUNDRED[0]).resolve(), 1.3, 1),
    ClusterCase("a hit by slug", lambda manager: manager.get(slug=data.slug(HUNDRED[0])).resolve(), None, 2),
    ClusterCase("100 by pk, gathered", lambda m: asyncio.gather(*[m.get(id=pk) for pk in HUNDRED]), 1.5),
    ClusterCase("100 by pk, get_many", lambda manager: manager.get_many(HUNDRED).resolve(), 1.5),
    ClusterCase("100 by pk, a batch", lambda m: BatchCacheQuery({pk: m.get(id=pk) for pk in HUNDRED}).get(), 1.5),
    ClusterCase("100 by slug, gathered", lambda m: asyncio.gather(*[m.get(slug=data.slug(pk)) for pk in HUNDRED])),
    ClusterCase("100 by slug, get_many", lambda m: m.get_many([data.slug(pk) for pk in HUNDRED], "slug").resolve()),
    ClusterCase("10 lists of 50, get_many", lambda manager: manager.get_many(OWNERS, "owner").resolve()),
]


@dataclass(slots=True)
class Samples:
    """Seconds of CPU time of one run, of each round."""

    client: list[float] = field(default_factory=list[float])
    servers: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class ClusterSide:
    """A cache and its servers."""

    servers: Sequence[RedisServer]
    manager: Manager

    def seconds(self) -> float:
        """Returns the CPU time of the servers."""
        return sum(cpu_seconds(server.pid) for server in self.servers)

    def reads(self) -> list[int]:
        """Returns how often each server has read from a socket, without the reads for this question."""
        found = []
        for server in self.servers:
            with server.client() as client:
                client.ping()
                found.append(client.info("stats")["total_reads_processed"])
        return found

    def commands(self) -> list[int]:
        """Returns how many reads of keys each server has served."""
        found = []
        for server in self.servers:
            with server.client() as client:
                stats = client.info("commandstats")
                found.append(sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("get", "mget")))
        return found


async def requests(side: ClusterSide, work: Work) -> tuple[int, int]:
    """Returns the number of requests of one run, and of the commands in them."""
    before, commands = side.reads(), side.commands()
    again = side.reads()
    base = [two - one for one, two in zip(before, again, strict=True)]
    await work(side.manager)
    after = side.commands()
    reads = side.reads()
    found = sum(now - then - own for now, then, own in zip(reads, again, base, strict=True))
    return found, sum(after) - sum(commands)


async def measure(sides: Sequence[ClusterSide], case: ClusterCase, rounds: int, seconds: float) -> list[Samples]:
    """Measures a case on each side in turn."""
    work = case.work
    for side in sides:
        for _ in range(6):
            await work(side.manager)
    started = time.process_time()
    for _ in range(5):
        await work(sides[0].manager)
    repeats = max(1, round(seconds / ((time.process_time() - started) / 5)))
    found = [Samples() for _ in sides]
    for number in range(rounds):
        pairs = list(zip(sides, found, strict=True))
        for side, samples in pairs if number % 2 else reversed(pairs):
            await work(side.manager)
            server, client = side.seconds(), time.process_time()
            for _ in range(repeats):
                await work(side.manager)
            samples.client.append((time.process_time() - client) / repeats)
            samples.servers.append((side.seconds() - server) / repeats)
    return found


async def run(servers: Sequence[Sequence[RedisServer]], urls: Sequence[str], options: argparse.Namespace) -> bool:
    """Measures all cases. Returns True if all budgets are met."""
    rows = [["case", "1 server µs", "Cluster µs", "ratio", "servers' µs", "of Cluster", "requests", "commands", ""]]
    met = True
    async with AsyncExitStack() as stack:
        database = DatabaseUrl("sqlite://:memory:", "sqlite")
        await stack.enter_async_context(tortoise_on(database, "benchmarks.models"))
        await data.fill_database()
        sides = []
        for each, url in zip(servers, urls, strict=True):
            backend = RedisBackend(url, socket_timeout=10)
            cache = await stack.enter_async_context(ModelCache(backend))
            stack.push_async_callback(backend.close)
            sides.append(ClusterSide(each, cache.manager(Product)))
        gc.collect()
        gc.freeze()  # so that a collection is cheap
        for case in CASES:
            if options.case and not any(word in case.name for word in options.case):
                continue
            one, many = await measure(sides, case, options.rounds, options.seconds)
            sent, commands = await requests(sides[1], case.work)
            ratio = min(many.client) / min(one.client)
            good = (case.limit is None or ratio <= case.limit) and sent <= case.most_requests
            met &= good
            limit = "" if case.limit is None else f" <= {case.limit}"
            verdict = "met" if good else "EXCEEDED"
            figures = [min(one.client), min(many.client)]
            rows.append(
                [
                    case.name,
                    *[f"{figure * 1e6:.0f}" for figure in figures],
                    f"{ratio:.2f}{limit}",
                    f"{min(one.servers) * 1e6:.1f}",
                    f"{min(many.servers) * 1e6:.1f}",
                    f"{sent} <= {case.most_requests}",
                    str(commands),
                    verdict,
                ]
            )
    print("\n".join(aligned(rows)))
    return met


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says. Returns 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.001, help="CPU time of one sample, about")
    parser.add_argument("--case", action="append", help="only cases whose name contains this")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        nodes = [stack.enter_context(ClusterNode()) for _ in range(MASTERS)]
        cluster = Cluster(nodes)
        return 0 if asyncio.run(run([[server], nodes], [server.url, cluster.url], options)) else 1


if __name__ == "__main__":
    sys.exit(main())
