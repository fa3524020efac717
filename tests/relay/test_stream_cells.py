"""The writes that logical decoding sees: its column of the table."""

from pathlib import Path

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.stream.publication import publication_name
from tests.relay.capture import StreamCapture
from tests.relay.cells import CELLS, PARTITION_TABLES, PARTITIONS, RESET, SCHEMA_CELLS, STREAM
from tests.relay.outside import Run, other_program
from tests.relay.test_triggers import outcome, run_all, tables  # noqa: F401
from tests.support.databases import DatabaseUrl

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding"),
    pytest.mark.only_on("memory", because="a source knows no store"),
]

DROP_SLOT = """DO $$ BEGIN
    PERFORM pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE database = current_database();
    PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
END $$"""


def outside(run: Run) -> Run:
    """Runs the statements of cells, with the names of the installation."""
    names = {"{publication}": publication_name("public"), "{drop slot}": DROP_SLOT}

    async def execute(statement: str) -> object:
        for name, text in names.items():
            statement = statement.replace(name, text)
        return await run(statement)

    return execute


@pytest.mark.exhaustive(because="every kind of write")
async def test_every_cell_of_the_table_is_as_it_says(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],  # noqa: F811
    tmp_path: Path,
    stream_capture: StreamCapture,
) -> None:
    wrong = {}
    await stream_capture.install(database, tables)
    source = stream_capture.source(database, tables)
    async with other_program(db_url) as run:
        for cell in [*CELLS, *SCHEMA_CELLS]:
            if STREAM in cell.how:
                await stream_capture.install(database, tables)
                await run_all(run, RESET)
                if problem := await outcome(source, outside(run), cell, STREAM, tmp_path):
                    wrong[cell.what] = problem
                await run_all(run, cell.undo)
    await source.close()
    assert wrong == {}


async def test_partitions_and_children(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    tables: list[CapturedTable],  # noqa: F811
    tmp_path: Path,
    stream_capture: StreamCapture,
) -> None:
    wrong = {}
    source = stream_capture.source(database, tables)
    async with other_program(db_url) as run:
        await run_all(run, PARTITION_TABLES)
        for cell in PARTITIONS:
            await stream_capture.install(database, tables)
            if problem := await outcome(source, outside(run), cell, STREAM, tmp_path):
                wrong[cell.what] = problem
            await run_all(run, cell.undo)
    await source.close()
    assert wrong == {}
