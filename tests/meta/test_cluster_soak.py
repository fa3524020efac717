"""A small soak on a Redis Cluster: nothing is stale while its nodes fail and its slots move."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from soak.cluster import SoakCluster
from soak.report import Report
from soak.run import Plan, soak
from soak.world import SMALL
from tests.support.effort import all_effort
from tests.support.servers import PostgresServer, RedisServer

pytestmark = [
    pytest.mark.exhaustive(because="soaks under faults of a Cluster"),
    pytest.mark.long(because="nodes fail over, and come back as replicas"),
]


def run(plan: Plan, postgres: PostgresServer, folder: Path) -> Report:
    folder.mkdir()
    with postgres.database() as database, SoakCluster() as cluster:
        return asyncio.run(soak(plan, database, cluster, folder))


def test_nothing_is_stale_while_nodes_fail_over_and_slots_move(
    postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    # ``redis_server`` skips where there is no Redis.
    faults = ("node-death", "node-force", "node-stall", "reshard")
    plan = Plan(subject="cluster", duration=8, processes=2, faults=faults, pace=0.2, world=SMALL, intent_ttl=2)
    result = run(plan, postgres_server, tmp_path / "soak")
    assert result.violations == 0, str(result)
    assert result.reads > 500, str(result)
    assert result.run.faults["keys moved with their slots"], str(result)
    for fault in ("SIGKILL", "CLUSTER FAILOVER", "SIGSTOP"):
        assert any(name.startswith(f"node: {fault}") for name in result.run.faults), str(result)


@all_effort
def test_a_library_that_believes_what_a_replica_brings_back_is_caught(
    postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    faults = ("node-death", "node-force")
    plan = Plan(subject="unmasked", duration=10, processes=2, faults=faults, pace=0.2, world=SMALL, write_pause=0.02)
    for number in range(5):
        result = run(plan, postgres_server, tmp_path / str(number))
        if result.violations:
            return
    pytest.fail(str(result))


NEAR = Plan(
    processes=2, faults=("reshard", "node-cut"), pace=0.1, world=SMALL, read_pause=0.002, write_pause=0.3, intent_ttl=2
)
"""A load that near entries answer, with the faults that change who reports their changes."""


def test_near_entries_are_never_stale_while_connections_end_and_slots_move(
    postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    plan = replace(NEAR, subject="cluster-near", duration=8)
    result = run(plan, postgres_server, tmp_path / "soak")
    assert result.violations == 0, str(result)
    assert result.total("near_hits"), str(result)
    for fault in ("node: CLIENT KILL", "keys moved with their slots"):
        assert result.run.faults[fault], str(result)


@all_effort
def test_near_entries_that_stay_when_connections_end_and_slots_move_are_caught(
    postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    for number in range(5):
        plan = replace(NEAR, subject="hoarding", duration=20, seed=number)
        result = run(plan, postgres_server, tmp_path / str(number))
        if result.violations:
            return
    pytest.fail(str(result))
