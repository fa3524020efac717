"""Measures what requests cost a private Redis, and what a hit costs a process, in CPU time.

CPU time depends less on what else the machine does than the time that passes. The client waits for each reply, so each
request is a socket event of its own. Busy servers take several requests from one event, and need less for each.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack

from aiomodelcache import ModelCache
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.scripts import load_script
from benchmarks.fleet.costs import Costs
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import User
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

VALUE = bytes(320)
"""As many bytes as a row of ten columns has."""
REQUESTS = 3_000
"""Requests in one round."""
HITS = 500
"""Lookups in one round."""
ROUNDS = 7
"""Rounds of each kind, in turn. The cheapest counts, because other work on the machine only adds to it."""
MANY = 100
"""Commands or keys of a request that has many."""


def measured() -> Costs:
    """Starts a server, measures, and ends it."""
    with RedisServer() as server, server.client() as client:
        lease = load_script("lease")
        client.execute_command("SCRIPT", "LOAD", lease.text)
        keys = [b"row:%d" % number for number in range(MANY)]
        for key in keys:
            client.set(key, VALUE)
        kinds: dict[str, list[Command]] = {
            "two keys": [("MGET", *keys[:2])],
            "many keys": [("MGET", *keys)],
            "one get": [("GET", keys[0])],
            "many gets": [("GET", key) for key in keys],
            "lease": lease.commands([b"row:new"], (), [(b"", bytes(17), 1)], 1),
        }
        rounds: dict[str, list[float]] = {name: [] for name in kinds}
        connection = client.connection_pool.get_connection()

        def request(commands: list[Command]) -> Callable[[], None]:
            packed = connection.pack_commands(commands)

            def send() -> None:
                connection.send_packed_command(packed)
                for _ in commands:
                    connection.read_response()

            return send

        requests = {name: request(commands) for name, commands in kinds.items()}
        for _ in range(ROUNDS):
            for name, send in requests.items():
                before = cpu_seconds(server.pid)
                for _ in range(REQUESTS):
                    send()
                rounds[name].append((cpu_seconds(server.pid) - before) / REQUESTS)
        client.connection_pool.release(connection)
    found = {name: min(values) for name, values in rounds.items()}
    return Costs(
        request=found["two keys"],
        get=(found["many gets"] - found["one get"]) / (MANY - 1),
        key=(found["many keys"] - found["two keys"]) / (MANY - 2),
        script=found["lease"],
    )


def memory_of_an_entry() -> int:
    """Returns the bytes that a server needs for a value and its key."""
    with RedisServer() as server, server.client() as client:
        key = b"shop:amc:r:default:event:i1234567"
        client.set(key, VALUE, px=3_600_000)
        usage: int = client.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0)
        return usage


def lone_hits() -> tuple[float, float]:
    """Returns the seconds of this process's CPU for a hit alone in its request, on one server and on a Cluster."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        cluster = Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])
        return asyncio.run(_lone_hits(server.url, cluster.url))


async def _lone_hits(*urls: str) -> tuple[float, float]:
    async with AsyncExitStack() as stack:
        database = DatabaseUrl("sqlite://:memory:", "sqlite")
        await stack.enter_async_context(tortoise_on(database, "tests.support.models.models"))
        caches = [await stack.enter_async_context(ModelCache(url, socket_timeout=10)) for url in urls]
        user = await User.create(username="kim")
        rounds: list[list[float]] = [[] for _ in caches]
        for _ in range(ROUNDS):
            for cache, found in zip(caches, rounds, strict=True):
                manager = cache.manager(User)
                before = time.process_time()
                for _ in range(HITS):
                    await manager.get(id=user.id)
                found.append((time.process_time() - before) / HITS)
        first, second = map(min, rounds)
        return first, second


def cpu_seconds(process: int) -> float:
    """Returns the CPU time of all threads of a process."""
    return time.clock_gettime(((~process) << 3) | 2)  # clock_getcpuclockid(3), which Python lacks


def shown(costs: Costs) -> str:
    """Returns the costs in microseconds."""
    return ", ".join(f"{name} {getattr(costs, name) * 1e6:.2f} µs" for name in ("request", "get", "key", "script"))
