# ruff: noqa: F401, F811
"""The relay on logical decoding: the tests that are about any source, with this one, and its own."""

import asyncio
from contextlib import AsyncExitStack
from time import time
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.exceptions import BackendError, RelayError
from aiomodelcache.relay.relay import Drain
from aiomodelcache.relay.stream.replication import ReplicationStream, Sent, load_driver
from aiomodelcache.relay.stream.slot import slot_name, slot_state
from aiomodelcache.testing import CountingBackend, count_ops
from tests.relay.capture import StreamCapture, drop_slots
from tests.relay.outside import other_program
from tests.relay.test_relay import (
    Outside,
    answers,
    believe,
    captured,
    create_rows,
    drain,
    fresh,
    outside,
    relaying,
    running,
    test_a_cache_runs_a_relay_from_open_to_close,
    test_a_change_is_seen_by_every_tenant,
    test_a_claim_lasts_for_the_lag_from_before_the_lines_were_selected,
    test_a_failure_is_logged_once_and_tried_again,
    test_a_frozen_relay_blocks_no_writer,
    test_a_relay_that_ends_at_any_step_loses_no_line,
    test_a_relay_that_hung_while_another_cache_took_over_takes_nothing_from_it,
    test_a_running_relay_makes_lookups_fresh,
    test_a_store_that_was_restarted_is_still_the_same_cache,
    test_lookups_are_fresh_after_a_drain,
    test_nothing_is_claimed_while_lines_are_left_out,
    test_one_of_two_relays_leads_and_the_other_takes_over,
    test_past_many_lines_whole_models_are_invalidated,
    test_rows_stay_marked_while_replicas_may_lag,
    test_the_newer_of_two_releases_drains_as_long_as_it_has_a_relay,
    test_two_caches_never_lose_lines_to_each_other,
    test_what_a_relay_of_its_own_sends_is_not_counted,
    test_writes_that_were_not_captured_clear_the_models_whatever_the_catalogue_is,
    until,
)
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.gates import PATIENCE
from tests.support.models.relayed_models import Author
from tests.support.servers import PostgresServer

pytestmark = [
    pytest.mark.models("tests.support.models.relayed_models"),
    pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding"),
    pytest.mark.only_on("redis", because="the steps are the same on every store"),
]


@pytest.fixture
def capture(stream_capture: StreamCapture) -> StreamCapture:
    return stream_capture


@pytest.fixture(autouse=True)
def every_drain_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each drain find out whether something is left out. Others return what has arrived by chance."""
    monkeypatch.setattr("aiomodelcache.relay.relay.CLAIMS_PER_LAG", 1e9)
    monkeypatch.setattr("aiomodelcache.relay.stream.lines.MAX_MESSAGE_WAIT_WITH_LINES", PATIENCE)


# The slot ----------------------------------------------------------------------------------------------------


END = """
    DO $$ BEGIN
        PERFORM pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE database = current_database();
        {}
    END $$
"""
DROP = "PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();"
TAMPERED = {
    "dropped": [END.format(DROP)],
    "recreated": [
        "CREATE TEMP TABLE slot AS SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
        END.format(DROP),
        "SELECT pg_create_logical_replication_slot(slot_name, 'pgoutput') FROM slot",
    ],
    "moved on": [
        END.format(""),
        "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots "
        "WHERE database = current_database()",
    ],
    "forgotten": ["UPDATE aiomodelcache_stream SET position = NULL"],
}


@pytest.mark.parametrize("runs", [True, False], ids=["while a relay runs", "while none runs"])
@pytest.mark.parametrize("how", TAMPERED)
async def test_a_slot_that_may_lack_changes_is_created_anew_and_the_models_are_cleared(
    cache: ModelCache,
    drain: Drain,
    outside: Outside,
    how: str,
    runs: bool,
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    assert await answers() == before
    if not runs:
        await drain.close()
    cleared = drain.status.cleared
    await outside("UPDATE article SET title = 'unseen', author_id = 2 WHERE id = 1", *TAMPERED[how])
    assert await drain.drain()
    assert drain.status.cleared == cleared + 1
    await believe(cache)
    assert await answers() == await fresh(cache) != before
    await outside("UPDATE article SET title = 'seen' WHERE id = 1")
    assert await drain.drain()
    assert drain.status.cleared == cleared + 1
    assert await answers() == await fresh(cache)


async def test_a_slot_that_is_replaced_after_the_look_at_it_is_noticed(
    cache: ModelCache,
    drain: Drain,
    outside: Outside,
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    await drain.close()
    source = drain.source
    original = source.begin

    async def replaced() -> None:
        await original()
        await outside("UPDATE article SET title = 'unseen' WHERE id = 1", *TAMPERED["recreated"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "begin", replaced)
        drain.claim_at_once()
        with pytest.raises(RelayError, match="dropped and recreated"):
            await drain.drain()
    await drain.close()
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before


async def test_a_slot_that_keeps_too_much_is_given_up(
    database: BaseDBAsyncClient, backend: CountingBackend, db_url: DatabaseUrl, capture: StreamCapture
) -> None:
    junk = "SELECT pg_logical_emit_message(false, 'junk', repeat('x', 1000000)) FROM generate_series(1, 5)"
    settings = {**capture.settings, "relay_slot_limit": 4_000_000}
    async with ModelCache(backend, **settings) as cache, other_program(db_url) as run, relaying(cache) as drain:
        await capture.install_for(database, cache)
        await create_rows()
        await drain.drain()
        await believe(cache)
        before = await answers()
        await run("UPDATE article SET title = 'new'")
        await run(junk)
        assert await drain.drain()
        assert drain.status.cleared == 2
        assert await answers() == await fresh(cache) != before
        name = await slot_name(database)
        await drain.source.limit_backlog()
        assert (await slot_state(database, name)).exists, "it keeps little"
        await run(junk)
        await drain.source.limit_backlog()  # as while the store is away
        assert not (await slot_state(database, name)).exists
        await run("UPDATE article SET title = 'newest'")
        await drain.close()
        assert await drain.drain()
        assert drain.status.cleared == 3
        assert await answers() == await fresh(cache)


async def test_what_a_store_that_is_away_has_not_taken_is_sent_again(
    cache: ModelCache, drain: Drain, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    await outside("UPDATE article SET author_id = 2")
    with monkeypatch.context() as patch:
        patch.setattr(cache.open_cache.writer, "deliver", AsyncMock(side_effect=BackendError("away")))
        with pytest.raises(BackendError):
            await drain.drain()
        waiting_since = drain.status.waiting_since
        assert waiting_since is not None
        assert 0 <= time() - waiting_since < PATIENCE
        drain.claim_at_once()  # so that it confirms the changes that it has seen
        with pytest.raises(BackendError):
            await drain.drain()
        await drain.close()  # the slot does
        with pytest.raises(BackendError):
            await drain.drain()
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before


async def test_nothing_is_claimed_before_all_has_arrived(
    cache: ModelCache, drain: Drain, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    await cache.backend.delete([drain.liveness_key])
    await outside("UPDATE article SET author_id = 2")
    monkeypatch.setattr("aiomodelcache.relay.stream.lines.MAX_MESSAGE_WAIT", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ReplicationStream, "read", lambda _: None)
        assert not await drain.drain()
        assert await drain.claim_left() == 0
    assert await drain.drain()
    assert await drain.claim_left() > 0
    assert await answers() == await fresh(cache) != before


async def test_what_a_server_never_sends_clears_the_models(
    cache: ModelCache,
    drain: Drain,
    outside: Outside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    cleared = drain.status.cleared
    original = ReplicationStream.read

    def damaged(stream: ReplicationStream) -> Sent | None:
        sent = original(stream)
        return sent._replace(data=sent.data[:7]) if sent is not None and sent.data[:1] == b"U" else sent

    await outside("UPDATE article SET title = 'new', author_id = 2 WHERE id = 1")
    with monkeypatch.context() as patch:
        patch.setattr(ReplicationStream, "read", damaged)
        with pytest.raises(RelayError, match="the slot has sent a message that ends too early"):
            await drain.drain()
    await drain.close()
    assert await drain.drain()
    assert drain.status.cleared == cleared + 1
    assert await answers() == await fresh(cache) != before


async def test_a_relay_that_starts_and_a_connection_that_ends_clear_nothing(
    cache: ModelCache,
    drain: Drain,
    outside: Outside,
) -> None:
    await create_rows()
    assert await drain.drain()
    before = await answers()
    cleared = drain.status.cleared
    await outside("UPDATE article SET title = 'new' WHERE id = 1", END.format(""))
    assert await drain.drain()
    assert drain.status.cleared == cleared
    after = await answers()
    assert after == await fresh(cache) != before
    await drain.close()
    await outside("UPDATE article SET title = 'newest' WHERE id = 2")
    async with relaying(cache) as second:
        assert await second.drain()
        assert second.status.cleared == 0
        assert await answers() == await fresh(cache) != after


async def test_two_relays_at_once_lose_nothing(cache: ModelCache, drain: Drain, outside: Outside) -> None:
    """One ends the connection of the other, as happens when the leader hangs. Each tries again."""
    await create_rows()

    async def persistently(each: Drain) -> None:
        while True:
            try:
                if await each.drain():
                    return
            except RelayError:
                await each.close()

    async with relaying(cache) as other:
        for number in range(3):
            await answers()
            await outside(f"UPDATE article SET title = 'x{number}', author_id = 3 - author_id WHERE id < 4")
            async with asyncio.timeout(20):
                await asyncio.gather(persistently(drain), persistently(other))
            assert await answers() == await fresh(cache)


async def test_what_a_drain_costs(cache: ModelCache, drain: Drain, outside: Outside, monkeypatch: Any) -> None:
    """A drain that claims checks the slot, the catalogue and the owner, and writes its message. Others ask nothing."""
    await create_rows()
    await drain.drain()
    with count_ops(cache) as ops:
        assert await drain.drain()
    assert (len(ops.statements), ops.operations) == (4, ["clock", "claim"])
    monkeypatch.setattr("aiomodelcache.relay.relay.CLAIMS_PER_LAG", 1)
    await drain.drain()
    with count_ops(cache) as ops:
        assert await drain.drain()
    assert (len(ops.statements), ops.operations) == (0, [])
    await outside("UPDATE author SET name = 'new' WHERE id = 1")
    await drain.source.wait(5.0)
    with count_ops(cache) as ops:
        assert await drain.drain()
    assert (len(ops.statements), ops.operations) == (1, ["clear"]), "the values"


async def test_a_commit_ends_the_wait(cache: ModelCache, drain: Drain, outside: Outside) -> None:
    await create_rows()
    await drain.drain()
    waiting = asyncio.create_task(drain.source.wait(30.0))
    await outside("INSERT INTO note (id, text) VALUES (77, '')", "UPDATE author SET name = name WHERE false")
    assert not waiting.done()
    await outside("UPDATE author SET name = 'new' WHERE id = 1")
    await asyncio.wait_for(waiting, 10.0)


async def test_a_backlog_that_is_older_than_the_bound_is_told(
    database: BaseDBAsyncClient, backend: CountingBackend, capture: StreamCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while PostgreSQL decodes a very large transaction. The connection stays, so that it goes on."""
    async with ModelCache(backend, relay_lag=0.3, **capture.settings) as cache:
        await capture.install_for(database, cache)
        async with running(cache) as relay:
            [status] = relay.statuses

            async def is_late() -> bool:
                return status.failing == "what was written longer ago than relay_lag is still being drained"

            async def works() -> bool:
                return status.claims > claims and status.failing is None

            with monkeypatch.context() as patch:
                patch.setattr("aiomodelcache.relay.stream.lines.MESSAGE_PREFIX", "not received yet")
                await until(is_late)
                claims = status.claims
                assert status.outages == 1
                relay.drains[0].claim_at_once()
            await until(works)


async def test_a_new_slot_waits_for_the_transactions_that_have_written(
    cache: ModelCache,
    captured: None,
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their changes would be sent in part. An attempt that takes too long leaves no slot behind."""
    await create_rows()
    await drop_slots(database)
    monkeypatch.setattr("aiomodelcache.relay.relay.DRAIN_LIMIT", 0.5)
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(other_program(db_url))
        await writer("BEGIN")
        await writer("UPDATE author SET name = 'new' WHERE id = 1")
        relay = await stack.enter_async_context(running(cache))  # else it may create its slot before
        [status] = relay.statuses

        async def fails() -> bool:
            return status.failing == "TimeoutError"

        async def works() -> bool:
            return status.claims > 0 and status.failing is None

        await until(fails)
        assert status.claims == 0
        monkeypatch.setattr("aiomodelcache.relay.relay.DRAIN_LIMIT", PATIENCE)
        await writer("COMMIT")
        await until(works)
        await believe(cache)
        await answers()
        assert await answers() == await fresh(cache)


async def test_the_rights_that_a_relay_needs(
    database: BaseDBAsyncClient, backend: CountingBackend, db_url: DatabaseUrl, captured: None
) -> None:
    user = f"reader_{database.database}"  # type: ignore[attr-defined]
    async with other_program(db_url) as run:
        await run(f"CREATE ROLE {user} LOGIN REPLICATION")
        try:
            await run(f"GRANT USAGE ON SCHEMA public TO {user}")  # a test before may have created the schema anew
            await run(f"GRANT SELECT, UPDATE ON aiomodelcache_stream TO {user}")
            await run(f"GRANT SELECT ON article_label TO {user}")  # whose lists a hidden label may be in
            await create_rows()
            url = DatabaseUrl(db_url.replace("postgres@", f"{user}@"), "postgres")
            module = "tests.support.models.relayed_models"
            async with tortoise_on(url, module, create=False), ModelCache(backend, **StreamCapture.settings) as cache:
                async with relaying(cache) as drain:
                    await drain.drain()
                    await run("UPDATE author SET name = 'new' WHERE id = 1")
                    assert await drain.drain()
                    assert drain.status.lines > 0
                await run(f"ALTER ROLE {user} NOREPLICATION")
                async with relaying(cache) as drain:
                    with pytest.raises(RelayError):
                        await drain.drain()
        finally:
            await run(f"DROP OWNED BY {user}")
            await run(f"DROP ROLE {user}")


async def test_without_the_driver_it_says_what_to_install(
    cache: ModelCache,
    captured: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    with pytest.raises(RelayError, match=r"pip install 'aiomodelcache\[pgoutput\]'"):
        load_driver()
    async with relaying(cache) as drain:
        with pytest.raises(RelayError, match="needs psycopg2"):
            await drain.drain()


@pytest.mark.slow(because="it starts a server of its own several times")
async def test_a_restart_prepared_transactions_a_promotion_and_lost_wal(
    backend: CountingBackend, own_postgres: PostgresServer
) -> None:
    """None of them loses a change."""
    capture = StreamCapture()
    module = "tests.support.models.relayed_models"
    url = DatabaseUrl(own_postgres.url, "postgres")
    async with (
        tortoise_on(url, module) as client,
        ModelCache(backend, **capture.settings) as cache,
        relaying(cache) as drain,
    ):
        await capture.install_for(client, cache)
        await create_rows()

        async def assert_seen(*statements: str) -> None:
            async with other_program(url) as run:
                for statement in statements:
                    await run(statement)
            await drain.close()
            await believe(cache)
            assert await drain.drain()
            await believe(cache)
            await answers()
            assert await answers() == await fresh(cache)

        await assert_seen("UPDATE author SET name = 'first' WHERE id = 1")
        own_postgres.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        async with other_program(url) as run:
            await run("UPDATE author SET name = 'before the restart' WHERE id = 1")
        await drain.close()
        await client.close()
        own_postgres.stop()
        own_postgres.restart()
        await assert_seen("UPDATE article SET title = 'after the restart' WHERE id = 1")
        await assert_seen("BEGIN", "UPDATE author SET name = 'prepared' WHERE id = 1", "PREPARE TRANSACTION 'one'")
        await assert_seen("COMMIT PREPARED 'one'")
        assert (await Author.cache.get(id=1)).name == "prepared"
        await drain.close()
        await client.close()
        own_postgres.stop()
        (own_postgres.folder / "data" / "standby.signal").touch()
        own_postgres.restart()
        with pytest.raises(RelayError, match="is a replica or recovers"):
            await drain.drain()
        own_postgres.execute("SELECT pg_promote()")
        await assert_seen("UPDATE author SET name = 'promoted' WHERE id = 1")
        cleared = drain.status.cleared
        own_postgres.execute("ALTER SYSTEM SET wal_sender_timeout = '1500ms'", "SELECT pg_reload_conf()")
        await drain.close()
        assert await drain.drain()
        reader = "SELECT active_pid FROM pg_replication_slots"
        async with other_program(url) as run:
            [before] = await run(reader)
            await drain.source.wait(4)  # it answers meanwhile
            assert await drain.drain()
            assert [before] == await run(reader)
        assert drain.status.cleared == cleared
        await drain.close()
        own_postgres.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
        lose = ["SELECT pg_switch_wal()", "CREATE TABLE more ()", "CHECKPOINT", "DROP TABLE more"]
        await assert_seen("UPDATE author SET name = 'lost' WHERE id = 1", *lose, *lose, *lose)
        assert drain.status.cleared == cleared + 1
