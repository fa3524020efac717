"""A small soak: the library is fresh under faults, and what is not fresh is caught by the same harness."""

import asyncio
from pathlib import Path

import pytest

from soak.report import Report, Run, report
from soak.run import Plan, soak
from soak.world import SMALL
from tests.servers import PostgresServer, RedisServer

FAULTS = ("kill", "freeze", "restart", "restore", "flush", "evict", "scripts", "network", "slow", "terminate")


def run(plan: Plan, postgres: PostgresServer, redis: RedisServer, folder: Path) -> Report:
    with postgres.database() as database:
        return asyncio.run(soak(plan, database, redis, folder))


def test_the_library_is_fresh_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=20, processes=2, faults=FAULTS, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.1)
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    assert result.reads > 2_000, str(result)  # on a busy machine; ten times as many on an idle one
    assert result.changes > 50, str(result)
    assert len(result.run.faults) > 2, str(result)


@pytest.mark.parametrize("subject", ["delete-after-commit"])
def test_what_is_not_fresh_is_caught(
    subject: str, postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject=subject,
        duration=6,
        processes=2,
        faults=("slow",),
        pace=0.1,
        world=SMALL,
        intent_ttl=0.1,
        write_pause=0.05,
    )
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations > 0, str(result)
    assert result.predicted.total() == 0, str(result)


def test_allowtime_is_used_and_respected(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=6, processes=2, faults=("slow",), pace=0.1, world=SMALL, intent_ttl=1, allowtime=0.5)
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    strict = Run.load(tmp_path)
    strict.allowtime = 0
    strict.save(tmp_path)
    assert report(tmp_path).violations > 0  # so there were stale answers, and they would be found


def test_what_is_near_is_late_by_no_more_than_it_may_be(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="near",
        duration=12,
        processes=2,
        faults=("freeze", "flush", "network"),
        pace=0.2,
        world=SMALL,
        intent_ttl=2,
        near_lag=0.5,
        read_pause=0.005,
    )
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    assert sum(tally["near_hits"] for tally in result.run.tallies) > 0, str(result)


def test_what_does_not_hear_of_changes_is_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="deaf", duration=8, processes=2, faults=(), world=SMALL, intent_ttl=0.1, near_lag=0.2, read_pause=0.005
    )
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations > 0, str(result)
