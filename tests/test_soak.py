"""A small soak: the library is fresh under faults, and what is not fresh is caught by the same harness."""

import asyncio
from collections.abc import Iterator
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


def attempts(redis: RedisServer, folder: Path) -> Iterator[Path]:
    """Folders for several soaks, in one of which something must happen: how often is a matter of the machine's pace."""
    for number in range(5):
        redis.flush()
        (folder / str(number)).mkdir()
        yield folder / str(number)


def test_the_library_is_fresh_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=20, processes=2, faults=FAULTS, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.1)
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    assert result.reads > 500, str(result)  # on a busy machine; forty times as many on an idle one
    assert result.changes > 20, str(result)
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
    for folder in attempts(own_redis, tmp_path):
        result = run(plan, postgres_server, own_redis, folder)
        assert result.predicted.total() == 0, str(result)
        if result.violations:
            return
    pytest.fail(str(result))


def test_allowtime_is_used_and_respected(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=6, processes=2, faults=("slow",), pace=0.1, world=SMALL, intent_ttl=1, allowtime=0.5)
    for folder in attempts(own_redis, tmp_path):
        result = run(plan, postgres_server, own_redis, folder)
        assert result.violations == 0, str(result)
        strict = Run.load(folder)
        strict.allowtime = 0
        strict.save(folder)
        if report(folder).violations:  # so there were stale answers, and they would be found
            return
    pytest.fail(str(result))


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
    for folder in attempts(own_redis, tmp_path):
        result = run(plan, postgres_server, own_redis, folder)
        assert result.violations == 0, str(result)
        if sum(tally["near_hits"] for tally in result.run.tallies) > 0:
            return
    pytest.fail(str(result))


def test_what_does_not_hear_of_changes_is_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="deaf", duration=8, processes=2, faults=(), world=SMALL, intent_ttl=0.1, near_lag=0.2, read_pause=0.005
    )
    for folder in attempts(own_redis, tmp_path):
        result = run(plan, postgres_server, own_redis, folder)
        if result.violations:
            return
    pytest.fail(str(result))
