"""A small soak: the library serves nothing stale under faults, and the same harness catches libraries that do."""

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE

from aiomodelcache import MemoryBackend
from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.observe.stats import Stats
from soak.checker import Violation
from soak.databases import Databases, SQLiteFiles
from soak.log import Kind
from soak.patience import Patience
from soak.proxy import BadNetwork
from soak.relay_faults import RELAY_FAULTS
from soak.report import Report, Run, report
from soak.run import Plan, soak
from soak.subjects import WatchedBackend
from soak.worker import HAS_EAGER_TASKS
from soak.world import SMALL, TINY
from tests.support.effort import FULL, all_effort
from tests.support.servers import MySQLServer, PostgresServer, RedisServer

pytestmark = [
    pytest.mark.exhaustive(because="soaks for minutes under faults"),
    pytest.mark.long(because="soaks under faults"),
]

COUNTED = (
    "kill -9, ",
    "Redis SIGSTOP",
    "Redis SIGKILL, back empty",
    "Redis SIGKILL, back with an old RDB",
    "FLUSHALL",
    "maxmemory, ",
    "SCRIPT FLUSH",
    "network: parted",
    "slow SQL",
    "slow COMMITs",
    "processes whose clock is wrong",
)
RELAY_COUNTED = (
    "relay: kill -9, ",
    "relay: SIGSTOP",
    "relay: two drain at once",
    "relay: cut off from ",
    "relay: bad network",
)


def run(plan: Plan, databases: Databases, redis: RedisServer, folder: Path) -> Report:
    EXECUTOR_CACHE.clear()  # that of Tortoise, which has no dialect
    with databases.database() as database:
        return asyncio.run(soak(plan, database, redis, folder))


def soaks(plan: Plan, databases: Databases, redis: RedisServer, folder: Path) -> Iterator[Report]:
    """Yields up to five soaks, in folders by number, until the test has seen what must happen in one of them.

    Slow machines may need several. Fails after the last one.
    """
    for number in range(5):
        redis.flush()
        (folder / str(number)).mkdir()
        result = run(plan, databases, redis, folder / str(number))
        yield result
    pytest.fail(str(result))


def test_the_library_serves_nothing_stale_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=15, processes=2, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.1)
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    assert result.total("compared"), str(result)  # and none of them was called stale without being so
    assert result.reads > 500, str(result)  # an idle machine makes forty times as many
    assert result.changes > 20, str(result)
    assert result.checker.snapshots, str(result)
    assert result.total("cancelled_reads"), str(result)
    assert result.total("cancelled_writes"), str(result)
    assert bool(result.run.faults["processes with eager tasks"]) is HAS_EAGER_TASKS, str(result)
    faults = result.run.faults
    missing = [fault for fault in COUNTED if not any(name.startswith(fault) and faults[name] for name in faults)]
    assert len(missing) <= faults.get("faults that a busy machine did not let happen", 0), (missing, str(result))


@all_effort
@pytest.mark.parametrize("subject", ["delete-after-commit"])
def test_a_library_that_serves_stale_reads_is_caught(
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
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.predicted.total() == 0, str(result)
        if result.violations:
            return


@all_effort
def test_a_library_whose_transactions_do_not_survive_a_cancellation_is_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="unshielded", duration=6, processes=2, faults=(), world=SMALL, intent_ttl=0.1, write_pause=0.02)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        if result.checker.violations[Violation.LOST] and result.total("stuck") and result.total("leaked"):
            return


@all_effort
def test_verify_finds_the_stale_entries_of_a_library_that_forgets_to_mark(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="unmarked", duration=6, processes=2, faults=(), world=SMALL, write_pause=0.05, verify=0.05)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.false_alarms == 0, str(result)
        if result.true_alarms and result.violations:
            return


def test_results_of_cached_functions_are_never_stale_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="derived", duration=6, processes=2, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.2)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.violations == 0, str(result)
        if result.checker.reads[Kind.TOGETHER] and result.checker.pages:
            return


@all_effort
def test_cached_responses_are_never_stale_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="responses", duration=6, processes=2, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.2)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.violations == 0, str(result)
        if result.checker.reads[Kind.TOGETHER] and result.total("not_modified"):
            return


@all_effort
def test_a_304_for_a_body_that_is_not_current_is_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="agreeing", duration=5, processes=2, faults=(), world=TINY, write_pause=0.05, read_pause=0.01)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        if result.violations:
            return


@all_effort
def test_rows_that_writers_store_are_never_stale_under_faults(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="through", duration=6, processes=2, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.05)
    result = run(plan, postgres_server, own_redis, tmp_path)
    assert result.violations == 0, str(result)
    assert result.total("rows_stored"), str(result)


@all_effort
def test_writers_that_do_not_look_for_other_writers_are_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(subject="blind", duration=6, processes=2, faults=("slow",), pace=0.1, world=TINY, write_pause=0.02)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.checker.violations.keys() <= {Violation.STALE, Violation.BACKWARDS, Violation.AT_REST}
        if result.violations:
            return


@all_effort
@pytest.mark.parametrize("pages", [0.0, 1.0])
def test_a_library_whose_snapshots_are_torn_is_caught(
    pages: float, postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """By pairs, and by pages."""
    plan = Plan(
        subject="torn",
        duration=6,
        processes=2,
        faults=(),
        world=TINY,
        write_pause=0.02,
        read_pause=0.01,
        pages=pages,
    )
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert set(result.checker.violations) <= {Violation.TORN}, str(result)
        if result.violations:
            return


@all_effort
@pytest.mark.parametrize(("subject", "pages"), [("timed", 0.0), ("timed", 1.0), ("forgetful", 0.0)])
def test_cached_functions_without_recorded_dependencies_are_caught(
    subject: str, pages: float, postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    """A timeout alone, and an invalidation by hand that forgets the lists."""
    plan = Plan(subject=subject, duration=5, processes=2, faults=(), world=SMALL, write_pause=0.05, pages=pages)
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        if result.violations:
            return


@all_effort
def test_stale_copies_are_served_within_allowtime_only(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(duration=6, processes=2, faults=("slow",), pace=0.1, world=SMALL, intent_ttl=1, allowtime=0.5)
    for number, result in enumerate(soaks(plan, postgres_server, own_redis, tmp_path)):
        assert result.violations == 0, str(result)
        folder = tmp_path / str(number)
        strict = Run.load(folder)
        strict.allowtime = 0
        strict.save(folder)
        if report(folder).violations:  # stale copies were served, and the strict check finds them
            return


def test_near_cached_reads_lag_at_most_near_lag(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="near",
        duration=6,
        processes=2,
        faults=("freeze", "flush", "network"),
        pace=0.2,
        world=SMALL,
        intent_ttl=2,
        near_lag=0.5,
        read_pause=0.005,
    )
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.violations == 0, str(result)
        if sum(tally["near_hits"] for tally in result.run.tallies) > 0:
            return


@all_effort
def test_a_near_cache_without_invalidation_messages_is_caught(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="deaf", duration=8, processes=2, faults=(), world=SMALL, intent_ttl=0.1, near_lag=0.2, read_pause=0.005
    )
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        if result.violations:
            return


@pytest.fixture(
    params=["postgres", *(pytest.param(each, marks=all_effort) for each in ("pgoutput", "mariadb", "sqlite"))]
)
def source(request: pytest.FixtureRequest) -> tuple[Databases, str]:
    """The databases of one kind, and the source of relays there."""
    name: str = request.param
    if name == "sqlite":
        return SQLiteFiles(), "triggers"
    server: Databases = request.getfixturevalue("mariadb_server" if name == "mariadb" else "postgres_server")
    if isinstance(server, MySQLServer):
        pytest.skip("MySQL has neither sequences nor numbers of transactions, which the history is made of")
    return server, "pgoutput" if name == "pgoutput" else "triggers"


def test_writes_of_other_programs_are_seen_within_the_bound_under_faults(
    source: tuple[Databases, str], own_redis: RedisServer, tmp_path: Path
) -> None:
    """Also writes of the library are never missed for longer, even where "What remains" says that they may be."""
    databases, relay_source = source
    plan = Plan(
        subject="relayed", relay_source=relay_source, duration=15 if FULL else 4, processes=2,
        faults=None if FULL else RELAY_FAULTS, pace=0.2, world=SMALL, intent_ttl=2, write_pause=0.2,
        relay_lag=2 if relay_source == "pgoutput" else 1,
    )  # fmt: skip
    for result in soaks(plan, databases, own_redis, tmp_path):
        assert result.violations == 0, str(result)
        assert sum(relay["lines"] for relay in result.run.relays), str(result)
        missing = [fault for fault in RELAY_COUNTED if not any(name.startswith(fault) for name in result.run.faults)]
        assert missing == [], str(result)
        assert "writes by other programs" in str(result)
        if result.total("hits") and result.checker.lateness:
            return


@all_effort
def test_writes_of_other_programs_are_seen_within_the_bound_and_near_lag(
    postgres_server: PostgresServer, own_redis: RedisServer, tmp_path: Path
) -> None:
    plan = Plan(
        subject="relayed-near", duration=10, processes=2, pace=0.2, world=SMALL, intent_ttl=2, relay_lag=1,
        near_lag=0.5, read_pause=0.005, write_pause=1.0,
    )  # fmt: skip
    for result in soaks(plan, postgres_server, own_redis, tmp_path):
        assert result.violations == 0, str(result)
        if result.total("near_hits"):
            return


@all_effort
@pytest.mark.parametrize("subject", ["notified", "hasty"])
def test_relays_without_a_bound_are_caught(
    subject: str, source: tuple[Databases, str], own_redis: RedisServer, tmp_path: Path
) -> None:
    """NOTIFY alone, and a relay that deletes lines before it invalidates what they name."""
    databases, relay_source = source
    if (subject, relay_source) == ("hasty", "pgoutput"):
        pytest.skip("A stream sends again what was not confirmed, and only a later drain confirms it.")
    plan = Plan(
        subject=subject, relay_source=relay_source, duration=8, processes=1, faults=(), world=SMALL, relay_lag=1,
        relays=1, writers=1, write_pause=0.3, read_pause=0.02,
    )  # fmt: skip
    result = run(plan, databases, own_redis, tmp_path)
    assert result.checker.violations[Violation.LATE], str(result)
    [relay] = result.run.relays  # caught for what it lacks, and not because it never drained
    assert relay["lines"], str(result)


async def cancelled_and_swallowed() -> None:
    patience = Patience(random.Random(1))
    async with patience.request():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        with patience.paused():
            await asyncio.sleep(0)
        patience.stop()


def test_a_cancellation_that_a_client_swallows_ends_no_request() -> None:
    asyncio.run(cancelled_and_swallowed())


# The bad network ------------------------------------------------------------------------------------------


LEASE = b"*6\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nL\r\n$2\r\nNX\r\n$2\r\nPX\r\n$4\r\n9999\r\n"
COUNT = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"


async def through(redis: RedisServer, fate: str, request: bytes) -> tuple[bytes, type[Exception] | None, int]:
    """Sends a request through a network with one fate. Returns the reply, the error and the number of counted fates."""
    async with BadNetwork(redis.port, random.Random(1)) as network:
        network.chances = {fate: 1}
        where = urlsplit(network.url)
        loop = asyncio.get_running_loop()
        reply, ended = b"", None
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, (where.hostname, where.port))
            try:
                await loop.sock_sendall(client, request)
                async with asyncio.timeout(8):
                    while reply.count(b"\r\n") < request.count(b"*"):
                        piece = await loop.sock_recv(client, 1_000)
                        assert piece, "ended without a reset"
                        reply += piece
                    while network.fates["repeat"] and _executed(redis) < 2:
                        await asyncio.sleep(0.05)  # the network repeats the request within two seconds
            except (TimeoutError, OSError) as error:
                ended = type(error)
        return reply, ended, network.fates[fate]


@pytest.mark.parametrize(
    ("fate", "request_", "came", "ended", "counted", "executed"),
    [
        ("delay request", COUNT, b":1\r\n", None, 1, 1),
        ("late", COUNT, b":1\r\n", None, 1, 1),
        ("delay reply", COUNT, b":1\r\n", None, 1, 1),
        ("repeat", COUNT, b":1\r\n", None, 1, 2),
        ("repeat", COUNT + LEASE, b":1\r\n+OK\r\n", None, 0, 1),
        ("lose", COUNT, b"", TimeoutError, 1, 1),
        ("cut", COUNT, b":", ConnectionResetError, 1, 1),
    ],
)
def test_the_bad_network_applies_and_counts_each_fate(
    own_redis: RedisServer,
    fate: str,
    request_: bytes,
    came: bytes,
    ended: type[Exception] | None,
    counted: int,
    executed: int,
) -> None:
    assert asyncio.run(through(own_redis, fate, request_)) == (came, ended, counted)
    assert _executed(own_redis) == executed


def _executed(redis: RedisServer) -> int:
    with redis.client() as client:
        return int(cast("bytes", client.get("n")))


def test_the_log_learns_of_invalidations_that_cannot_be_delivered() -> None:
    guarded: Any = GuardedBackend(MemoryBackend(), Stats(), cooldown=1.0, enabled=True)
    guarded.__class__ = WatchedBackend
    reported: list[bool] = []
    guarded.on_undelivered = reported.append
    for undelivered in (True, True, False):
        guarded.has_undelivered = undelivered
    assert reported == [True, False]
