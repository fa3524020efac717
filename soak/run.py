"""``soak``: one soak from beginning to end, with its rows, processes, faults, rest, and check."""

import random
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import anyio
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache, writes_without_cache
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.triggers.installation import install
from soak.cluster import CLUSTER_FAULTS, ClusterFaults, SoakCluster
from soak.databases import kind_of
from soak.faults import Faults
from soak.history import save_changes
from soak.model import Folder, Item, change
from soak.outside import FIRST_NUMBER
from soak.processes import Process
from soak.proxy import BadNetwork
from soak.relay_faults import RELAY_FAULTS, Relays
from soak.report import Report, Run, report
from soak.subjects import CLUSTERED, NEAR, RELAYED, VERIFIED, WRITE_THROUGH
from soak.worker import HAS_EAGER_TASKS, Order
from soak.world import World, slug_text
from tests.support.servers import RedisServer

FAULTS: Final = (
    "kill", "freeze", "restart", "restore", "flush", "evict", "scripts", "network", "part", "slow", "terminate"
)  # fmt: skip
SKEWS: Final = (0.0, 3_600.0, -3_600.0, 7.5)
"""Seconds by which the clocks of the processes are wrong. Processes take them in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Subject, duration, faults and load of a soak."""

    subject: str = "aiomodelcache"
    duration: float = 60.0
    processes: int = 4
    seed: int = 1
    faults: tuple[str, ...] | None = None
    """Names of faults. None for all that the subject can have."""
    pace: float = 1.0
    """Factor of the intervals between faults. Below one, faults come faster."""
    world: World = field(default_factory=World)
    readers: int = 3
    writers: int = 8
    read_pause: float = 0.05
    write_pause: float = 0.1
    batches: tuple[int, ...] = ()
    """Numbers of answers of one read. Empty for those of the subject."""
    pages: float | None = None
    """Fraction of the reads that are of pages. None for the subject's."""
    intent_ttl: float = 10.0
    allowtime: float = 0.0
    """Age that answers may have, in seconds, with DYNAMIC. Zero means none."""
    near_lag: float = 1.0
    """Seconds by which subjects that keep entries near may lag behind other processes."""
    relay_lag: float = 3.0
    """The bound for writes of other programs, in seconds, of subjects that have relays."""
    relay_source: str = "triggers"
    """The source of relays: lines of ``triggers``, or changes that PostgreSQL decodes from its WAL (``pgoutput``)."""
    relays: int = 2
    outside: int = 4
    """Number of connections of other programs that write."""
    cancel: bool = True
    """True to cancel requests of every second task at random moments."""
    eager: bool = HAS_EAGER_TASKS
    """True to use ``asyncio.eager_task_factory`` in half of the processes."""
    snapshot_pause: float | None = None
    """Maximum seconds between two reads of a long transaction. None for what the subject's TRUNCATE can wait for."""
    stuck_after: float = 30.0
    verify: float = 0.05
    """Fraction of the entries read that are compared with the database, in half of the processes of the library."""
    on_write_error: str = "mixed"
    """``retry``, ``raise``, or ``mixed`` for each in half of the processes."""


async def soak(plan: Plan, database: str, store: RedisServer | SoakCluster, folder: Path) -> Report:
    """Runs a plan on an empty database and a Redis that it may stop, kill and empty.

    Keeps logs and history in ``folder``, which exists.
    """
    redis = store.nodes[0] if isinstance(store, SoakCluster) else store
    relayed = plan.subject in RELAYED
    await _create_rows(database, plan.world)
    if relayed:
        await _capture(database, plan.relay_source)
    chance = random.Random(f"{plan.seed}/faults")
    async with AsyncExitStack() as stack:
        watched = await kind_of(database).open(database)
        stack.push_async_callback(watched.close)
        network = await stack.enter_async_context(BadNetwork(redis.port, random.Random(f"{plan.seed}/network")))
        orders = [_order(plan, slot, database, store, network, folder) for slot in range(plan.processes)]
        processes: list[Process] = []
        others: list[Process] = []
        stack.push_async_callback(_kill_all, processes)
        stack.push_async_callback(_kill_all, others)
        relays = Relays(replace(orders[0], number=1, skew=0.0), plan.relays * relayed, plan.relay_lag, chance)
        await stack.enter_async_context(relays)
        async with anyio.create_task_group() as starting:
            for order in orders:
                starting.start_soon(_start, order, processes)
            if relayed:
                order = replace(orders[0], number=FIRST_NUMBER, writers=plan.outside)
                starting.start_soon(_start, order, others, "soak.outside")
        faults = Faults(chance, redis, watched, network, processes, pace=plan.pace)
        faults.schedule |= relays.schedule
        if isinstance(store, SoakCluster):
            faults.schedule |= ClusterFaults(store, faults, chance).schedule
        start = time.monotonic()
        await faults.run(_faults(plan), plan.duration)
        await anyio.sleep(2)  # the processes work on, without faults
        async with anyio.create_task_group() as finishing:
            for process in (*processes, *others):
                finishing.start_soon(process.finish)
        seconds = time.monotonic() - start
        await anyio.sleep(max(plan.intent_ttl, plan.allowtime, plan.relay_lag * relayed))
        rest_from = time.monotonic_ns()
        resting = await Process.start(Order(**{**asdict(orders[0]), "number": 1_000_000, "at_rest": True}))
        all_processes = [*faults.ended, *processes, *others, resting]
        await resting.finish()
        relay_tallies = await relays.finish()
        faults.counts.update(relays.counts)
        changes = [change(tuple(row)) for row in await watched.connection.fetch(watched.history)]
    save_changes(folder / "history", changes)
    faults.circumstances.lives = {process.order.number: process.life for process in all_processes}
    faults.circumstances.intent_ttl = int(plan.intent_ttl * 1e9)
    tallies = [process.tally for process in (*processes, *others)]
    faults.counts.update({f"network: {fate}": count for fate, count in network.fates.items()})
    workers = [process.order for process in (*faults.ended, *processes)]
    faults.counts["processes whose clock is wrong"] = sum(order.skew != 0 for order in workers)
    faults.counts["processes with eager tasks"] = sum(order.eager for order in workers)
    Run(
        subject=plan.subject,
        processes=plan.processes,
        seed=plan.seed,
        allowtime=plan.allowtime,
        near_lag=plan.near_lag if plan.subject in NEAR else 0.0,
        relay_lag=plan.relay_lag if relayed else 0.0,
        seconds=seconds,
        rest_from=rest_from,
        circumstances=faults.circumstances,
        faults=dict(faults.counts),
        tallies=tallies,
        relays=relay_tallies,
    ).save(folder)
    return report(folder)


def _order(
    plan: Plan, slot: int, database: str, store: RedisServer | SoakCluster, network: BadNetwork, folder: Path
) -> Order:
    """Returns the order of a first process. Every second one is behind the bad network; every second pair retries.

    No process on a Cluster is behind it, because the nodes tell their own addresses.
    """
    kind = kind_of(database)
    policy = ("raise", "retry")[slot // 2 % 2] if plan.on_write_error == "mixed" else plan.on_write_error
    return Order(
        number=slot + 1,
        seed=plan.seed,
        folder=str(folder),
        database=database + kind.options,
        redis=network.url if slot % 2 and isinstance(store, RedisServer) else store.url,
        subject=plan.subject,
        settings={
            "intent_ttl": plan.intent_ttl,
            "on_write_error": policy,
            **({"near": True, "near_lag": plan.near_lag} if plan.subject in NEAR else {}),
            "write_through": plan.subject in WRITE_THROUGH and slot % 2 == 0,
            **(_relayed_settings(plan) if plan.subject in RELAYED else {}),
            **({"verify": plan.verify} if plan.subject in VERIFIED and slot % 2 == 0 else {}),
        },
        allowtime=plan.allowtime,
        skew=SKEWS[slot % len(SKEWS)],
        readers=plan.readers,
        writers=plan.writers,
        read_pause=plan.read_pause,
        write_pause=plan.write_pause,
        batches=plan.batches,
        pages=plan.pages,
        cancel=plan.cancel,
        snapshot_pause=plan.snapshot_pause
        or min(kind_of(database).snapshot_pause, 0.2 if plan.subject in RELAYED else 2.0),
        stuck_after=plan.stuck_after,
        eager=plan.eager and (slot + 1) // 2 % 2 == 1,
        world=asdict(plan.world),
    )


def _relayed_settings(plan: Plan) -> dict[str, Any]:
    loss = "serve" if plan.subject == "notified" else "bypass"
    lag, source, limit = plan.relay_lag, plan.relay_source, plan.world.rows // 2
    return {"relay_lag": lag, "relay_source": source, "on_relay_loss": loss, "bulk_limit": limit}


def _faults(plan: Plan) -> tuple[str, ...]:
    if plan.faults is not None:
        return plan.faults
    if plan.subject in CLUSTERED:
        return CLUSTER_FAULTS
    return (*FAULTS, *RELAY_FAULTS) if plan.subject in RELAYED else FAULTS


async def _create_rows(database: str, world: World) -> None:
    async with TortoiseContext() as context:
        await context.init(db_url=database, modules={"app": ["soak.model"]})
        await context.generate_schemas()
        watched = await kind_of(database).open(database)
        await watched.prepare()
        await watched.close()
        with writes_without_cache():
            await Folder.bulk_create([Folder(id=folder) for folder in range(world.folders)])
            await Item.bulk_create([_first(world, pk) for pk in range(1, world.rows + 1)], batch_size=1_000)


async def _capture(database: str, source: str) -> None:
    """Installs what captures the writes of other programs."""
    async with TortoiseContext() as context:
        await context.init(db_url=database, modules={"app": ["soak.model"]})
        client: Any = context.connections.get("default")
        Item.CacheMeta.relay = True
        try:
            async with ModelCache("memory://") as cache:
                [tables] = captured_tables(cache.open_cache).values()
        finally:
            Item.CacheMeta.relay = False
        if source == "pgoutput":
            await client.execute_script("ALTER TABLE item REPLICA IDENTITY FULL")
            await install(client, tables, PUBLICATION)
        else:
            await install(client, tables)


def _first(world: World, pk: int) -> Item:
    slug, team = slug_text(world.first_slug(pk)), world.teams_of(pk)[0]
    return Item(id=pk, slug=slug, team=team, nonce=pk, folder_id=world.folder_of(pk))


async def _start(order: Order, processes: list[Process], module: str = "soak.worker") -> None:
    processes.append(await Process.start(order, module))


async def _kill_all(processes: list[Process]) -> None:
    for process in processes:
        await process.kill()
