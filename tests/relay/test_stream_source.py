# ruff: noqa: F401, F811
"""The values of changes by logical decoding: the tests that are about any source, with this one."""

import asyncio
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.stream.identity import Identity, identities
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.stream.slot import slot_name, slot_state
from aiomodelcache.relay.triggers.installation import install, remove
from tests.relay.capture import StreamCapture
from tests.relay.outside import other_program
from tests.relay.test_source import (
    tables,
    test_a_limit_leaves_lines_and_deleting_some_loses_none,
    test_a_value_that_cannot_be_exact_stands_for_the_whole_table,
    test_lines_are_deleted_for_their_owner_alone,
    test_values_are_those_that_the_database_returns,
)
from tests.relay.test_triggers import drained, run_all
from tests.support.databases import DatabaseUrl

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding"),
    pytest.mark.only_on("memory", because="a source knows no store"),
]


@pytest.fixture
def capture(stream_capture: StreamCapture) -> StreamCapture:
    return stream_capture


async def test_a_large_value_that_an_update_leaves_is_known_from_the_old_row(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: StreamCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run:
        large = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)"
        await run(f"INSERT INTO typed (id, text) VALUES (1, {large})")
        [change] = await drained(source)
        [(_, inserted)] = change.rows or ()
        await run("UPDATE typed SET small = 5")
        [change] = await drained(source)
        [(old, new)] = change.rows or ()
        assert inserted is not None
        assert old is not None
        assert new is not None
        assert len(inserted["text"]) == 16_000
        assert old["text"] == new["text"] == inserted["text"]
        assert (old["small"], new["small"]) == (None, 5)
    await source.close()


async def test_what_is_rolled_back_in_a_transaction_is_not_seen(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: StreamCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    async with other_program(db_url) as run, other_program(db_url) as late:
        await late("BEGIN")
        await late("INSERT INTO reading (id, region) VALUES (9, 0)")
        await run_all(run, [
            "BEGIN", "INSERT INTO reading (id, region) VALUES (1, 0)",
            "SAVEPOINT one", "INSERT INTO reading (id, region) VALUES (2, 0)", "ROLLBACK TO one",
            "INSERT INTO reading (id, region) VALUES (3, 0)", "COMMIT",
        ])  # fmt: skip
        seen = [new["id"] for change in await drained(source) for _, new in change.rows or () if new]
        assert seen == [1, 3]
        await late("COMMIT")
        assert [change.rows for change in await drained(source)] == [[(None, {"id": 9, "region": 0})]]
    await source.close()


async def test_the_identity_says_what_is_seen_and_what_to_run(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable]
) -> None:
    seat_label = next(table for table in tables if table.table == "seat_label")
    async with other_program(db_url) as run:

        async def identity() -> tuple[str, str]:
            [found] = await identities(database, [seat_label])
            assert isinstance(found, Identity)
            return found.effect, found.remedy

        effect, remedy = await identity()
        assert effect == "fails"
        assert remedy.startswith('run ALTER TABLE public.seat_label REPLICA IDENTITY USING INDEX "')
        with pytest.raises(RelayError, match=r"public\.seat_label has no replica identity.*: run ALTER TABLE"):
            await install(database, tables, PUBLICATION)
        await run(remedy.removeprefix("run "))
        assert await identity() == ("each row", "")
        await run_all(run, [
            "ALTER TABLE seat_label REPLICA IDENTITY DEFAULT",
            "ALTER TABLE seat_label ALTER seat_id DROP NOT NULL",
        ])  # fmt: skip
        assert await identity() == ("fails", "run ALTER TABLE public.seat_label REPLICA IDENTITY FULL")
        await run_all(run, [
            "ALTER TABLE seat_label ADD id serial UNIQUE NOT NULL",
            "ALTER TABLE seat_label REPLICA IDENTITY USING INDEX seat_label_id_key",
        ])  # fmt: skip
        assert await identity() == ("the whole table", "run ALTER TABLE public.seat_label REPLICA IDENTITY FULL")
        await run("ALTER TABLE seat_label DROP CONSTRAINT seat_label_id_key")
        assert (await identity())[0] == "fails"
        await run("ALTER TABLE seat_label ADD CONSTRAINT late PRIMARY KEY (id) DEFERRABLE")
        await run("ALTER TABLE seat_label REPLICA IDENTITY DEFAULT")
        assert (await identity())[0] == "fails", "an index that is checked later is no identity"


async def test_the_installation_waits_for_writers_and_refuses_what_is_not_logged(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],
    capture: StreamCapture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await capture.install(database, tables)
    await remove(database, PUBLICATION)
    monkeypatch.setattr("aiomodelcache.relay.triggers.postgres.LOCK_TIMEOUT", "100ms")
    async with other_program(db_url) as writer, other_program(db_url) as run:
        await writer("BEGIN")
        await writer("INSERT INTO reading (id, region) VALUES (1, 0)")
        with pytest.raises(Exception, match="lock timeout"):
            await install(database, tables, PUBLICATION)
        monkeypatch.setattr("aiomodelcache.relay.triggers.postgres.LOCK_TIMEOUT", "10s")
        installing = asyncio.create_task(install(database, tables, PUBLICATION))
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"
        while not await run(waits):
            await asyncio.sleep(0.01)
        await writer("COMMIT")
        assert await installing
        await run("DROP PUBLICATION aiomodelcache_ef41d12e")
        await run("ALTER TABLE reading SET UNLOGGED")
        with pytest.raises(RelayError, match=r"public\.reading is not logged.*SET LOGGED"):
            await install(database, tables, PUBLICATION)


async def test_a_table_that_is_emptied_and_a_slot_of_another_program_are_noticed(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, tables: list[CapturedTable], capture: StreamCapture
) -> None:
    await capture.install(database, tables)
    source = capture.source(database, tables)
    before = await source.check()
    await source.close()
    async with other_program(db_url) as run:
        await run("DELETE FROM aiomodelcache_stream")
        with pytest.raises(RelayError, match="no publication is installed: run `aiomodelcache publication install`"):
            await source.check()
        await capture.install(database, tables)
        assert await source.check() != before
        name = await slot_name(database)
        await run(f"SELECT pg_drop_replication_slot('{name}')")
        await run(f"SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')")
        with pytest.raises(RelayError, match="is one of another program"):
            await source.check()
        await run(f"SELECT pg_drop_replication_slot('{name}')")


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("recovers", True, "is a replica or recovers"),
        ("version", 130_014, "needs PostgreSQL 14 or newer"),
        ("wal_level", "replica", "set wal_level = logical, and restart it"),
    ],
)
async def test_a_server_that_does_not_decode_is_refused(
    database: BaseDBAsyncClient, column: str, value: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = database.execute_query_dict

    async def altered(*arguments: Any) -> Any:
        return [{**row, column: value} for row in await original(*arguments)]

    monkeypatch.setattr(database, "execute_query_dict", altered)
    with pytest.raises(RelayError, match=text):
        await slot_state(database, "none")
