# ruff: noqa: F401, F811
"""Lines that wait while no relay runs: very many are replaced by one for each table, which stands for all of them."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from anyio import fail_after
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, ModelCache
from aiomodelcache.relay import source as source_module
from aiomodelcache.relay import watch as watch_module
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.relay import Drain
from aiomodelcache.relay.source import TriggerSource
from aiomodelcache.relay.triggers.installation import install
from aiomodelcache.testing import CountingBackend, count_ops
from tests.relay.outside import other_program
from tests.relay.test_relay import (
    INSERT,
    Killed,
    Outside,
    answers,
    believe,
    captured,
    create_rows,
    drain,
    fresh,
    outside,
    relaying,
    until,
)
from tests.support.databases import DatabaseUrl
from tests.support.models.relayed_models import Note

pytestmark = [
    pytest.mark.models("tests.support.models.relayed_models"),
    pytest.mark.only_on("redis", because="the steps are the same on every store"),
]
WRITES = (
    "UPDATE article SET author_id = 2, title = 'new' WHERE id = 1",
    INSERT,
    "UPDATE article SET views = 8",
    "UPDATE author SET name = 'new' WHERE id = 1",
)


@pytest.fixture
def trimmer(cache: ModelCache, database: BaseDBAsyncClient, captured: None) -> TriggerSource:
    """Another process."""
    return TriggerSource(database, captured_tables(cache.open_cache)[database.connection_name])


async def cached(drain: Drain) -> dict[str, Any]:
    """The answers to all lookups, which are cached."""
    await create_rows()
    assert await drain.drain()
    found = await answers()
    assert await answers() == found
    return found


@pytest.mark.every_pair(because="each database has lines of its own")
async def test_a_relay_that_comes_back_invalidates_what_a_line_stands_for(
    cache: ModelCache, drain: Drain, outside: Outside, trimmer: TriggerSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "MAX_KEPT", 3)
    monkeypatch.setattr(source_module, "TRIMMED_AT_ONCE", 3)
    before = await cached(drain)
    note = await Note.cache.get(id=1)
    await outside("UPDATE author SET name = 'old' WHERE id = 2")
    waiting = await trimmer.count(100)
    await trimmer.limit_backlog()
    assert await trimmer.count(100) == waiting == 1, "one line is kept"
    await outside(*WRITES)
    assert await trimmer.count(2) == 3
    await trimmer.limit_backlog()
    lines = await trimmer.changes(100)
    assert sorted(line.table.name for line in lines) == ["article", "author"]
    assert {line.rows for line in lines} == {None}
    assert await trimmer.trim() == 0
    assert await answers() != await fresh(cache), "nothing is invalidated yet"
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before
    assert await drain.claim_left() > 0
    with count_ops(cache) as ops:
        assert await Note.cache.get(id=1) == note
    assert ops.statements == []


@pytest.mark.parametrize("at", ["before the line is added", "before lines are deleted", "after it"])
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends there"])
async def test_a_relay_that_comes_back_in_the_middle_loses_nothing(
    cache: ModelCache, drain: Drain, outside: Outside, trimmer: TriggerSource, at: str, ends: bool
) -> None:
    before = await cached(drain)
    await outside(*WRITES)
    lines: Any = trimmer._lines
    steps = {"before the line is added": "read", "before lines are deleted": "delete", "after it": "delete"}
    original = getattr(lines, steps[at])

    async def step(*arguments: Any, **keywords: Any) -> Any:
        if at == "before lines are deleted":
            assert await drain.drain()
        else:
            found = await original(*arguments, **keywords)
            assert await drain.drain()
        await answers()
        await outside("UPDATE article SET title = 'newest' WHERE id = 2")
        if ends:
            raise Killed
        return await original(*arguments, **keywords) if at == "before lines are deleted" else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, steps[at], step)
        if ends:
            with pytest.raises(Killed):
                await trimmer.trim()
        else:
            await trimmer.trim()
    assert await answers() != await fresh(cache), "the last write is not drained yet"
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before
    assert await drain.source.changes(10) == []


PAGE = Path(__file__).parents[2] / "docs" / "guide" / "outside-writes.md"


def statement_of_the_guide(dialect: str) -> str:
    """The statement for the database's own scheduler, for more than three lines and each second."""
    _, _, found = PAGE.read_text().partition(f"<!-- trim: {dialect} -->\n```text\n")
    statement = found.partition("```")[0]
    for old, new in (("50001", "4"), ("50000", "3"), ("EVERY 1 MINUTE", "EVERY 1 SECOND")):
        assert old in statement or old.startswith("EVERY")
        statement = statement.replace(old, new)
    return statement


@pytest.mark.every_pair(because="each database has a scheduler of its own")
@pytest.mark.only_on("postgres", "mariadb", because="SQLite has no scheduler")
async def test_a_scheduler_of_the_database_trims(
    cache: ModelCache, drain: Drain, outside: Outside, trimmer: TriggerSource, db_url: DatabaseUrl
) -> None:
    """While a writer has an open transaction, for which it does not wait, and which waits for nothing."""
    before = await cached(drain)
    statement = statement_of_the_guide(db_url.dialect)
    async with other_program(db_url) as open_writer, other_program(db_url) as scheduler:
        await open_writer("BEGIN")
        await open_writer("UPDATE author SET name = 'open' WHERE id = 2")
        await outside("UPDATE article SET views = 9 WHERE id = 1")
        with fail_after(30):
            if db_url.dialect == "postgres":
                await scheduler(statement)
                assert len(await trimmer.changes(10)) == 1, "three lines are kept"
            for count in range(6):
                await outside(f"UPDATE article SET views = {count + 20} WHERE id = 1")
            if db_url.dialect == "postgres":
                await scheduler(statement)
            else:
                await scheduler("SET GLOBAL event_scheduler = ON")
                await scheduler(statement)
            while len(found := await trimmer.changes(10)) > 1:
                await asyncio.sleep(0.05)
            assert found[0].rows is None, "it stands for the whole table"
            await open_writer("UPDATE author SET name = 'open too' WHERE id = 2")
            await open_writer("COMMIT")
            if db_url.dialect == "mariadb":
                await scheduler("DROP EVENT aiomodelcache_trim")
                await scheduler("SET GLOBAL event_scheduler = OFF")
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before


async def test_writers_relays_and_trimmers_at_once(
    cache: ModelCache,
    drain: Drain,
    db_url: DatabaseUrl,
    outside: Outside,
    trimmer: TriggerSource,
    database: BaseDBAsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No statement of any of them fails, and after the last drain all lookups are fresh."""
    monkeypatch.setattr(source_module, "TRIMMED_AT_ONCE", 7)
    await cached(drain)
    other = TriggerSource(database, trimmer.tables)
    running = True

    async def write(number: int) -> None:
        async with other_program(db_url) as run:
            for count in range(40):
                await run("BEGIN")
                await run(f"UPDATE article SET title = 'x{count}', author_id = 3 - author_id WHERE id = {number}")
                await run("ROLLBACK" if count % 5 == 0 else "COMMIT")

    async def trim(source: TriggerSource) -> None:
        while running:
            await source.trim()

    async def relay() -> None:
        while running:
            await drain.drain()
            await answers()
            await asyncio.sleep(0.02)

    background = [asyncio.ensure_future(each) for each in (trim(trimmer), trim(other), relay())]
    await asyncio.gather(*[write(number) for number in ((1,) if db_url.dialect == "sqlite" else (1, 2, 3, 4))])
    running = False
    await asyncio.gather(*background)
    while not await drain.drain():
        pass
    assert await answers() == await fresh(cache)
    assert await drain.source.changes(10) == []


async def test_a_relay_without_a_store_trims(
    cache: ModelCache, drain: Drain, outside: Outside, trimmer: TriggerSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "MAX_KEPT", 3)
    before = await cached(drain)
    await outside(*WRITES)
    with monkeypatch.context() as patch:
        patch.setattr(cache.open_cache.writer, "deliver", AsyncMock(side_effect=BackendError("away")))
        running = asyncio.create_task(drain.run())

        async def is_trimmed() -> bool:
            return await trimmer.count(10) == 2 and drain.status.waiting_since is not None

        await until(is_trimmed)
        since = drain.status.waiting_since
        await drain._limit_backlog()
        assert drain.status.waiting_since == since, "the age is that of the lines that are gone"
        drain.stop()
        await running
    drain.stopping = False
    assert await drain.drain()
    assert await answers() == await fresh(cache) != before


@pytest.mark.models("tests.support.models.bound_models")
async def test_an_application_without_a_relay_trims(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    db_url: DatabaseUrl,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that may not, or has nothing installed, goes on without."""
    monkeypatch.setattr(watch_module, "BACKLOG_INTERVAL", 0.1)
    monkeypatch.setattr(source_module, "MAX_KEPT", 3)
    caplog.set_level("DEBUG", "aiomodelcache")
    async with ModelCache(backend, relay_lag=0.2) as cache, other_program(db_url) as run:

        async def has_tried() -> bool:
            return "is not limited" in caplog.text

        await until(has_tried)
        tables = captured_tables(cache.open_cache)[database.connection_name]
        await install(database, tables)
        for number in range(9):
            await run(f"INSERT INTO author (id, name, slug, team) VALUES ({number}, 'a', 's{number}', 1)")
        source = TriggerSource(database, tables)

        async def is_trimmed() -> bool:
            return await source.count(10) <= 3

        await until(is_trimmed)


@pytest.mark.models("tests.support.models.bound_models")
@pytest.mark.only_on("postgres", because="there a lock is waited for without a limit")
async def test_an_application_that_cannot_trim_still_looks_for_a_relay(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    db_url: DatabaseUrl,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watch_module, "BACKLOG_INTERVAL", 0.1)
    monkeypatch.setattr(watch_module, "BACKLOG_DEADLINE", 0.2)
    caplog.set_level("DEBUG", "aiomodelcache")
    async with ModelCache(backend, relay_lag=0.2) as cache, other_program(db_url) as run:
        await install(database, captured_tables(cache.open_cache)[database.connection_name])
        await run("BEGIN")
        await run("LOCK TABLE aiomodelcache_changes IN ACCESS EXCLUSIVE MODE")

        async def gave_up() -> bool:
            return "is not limited: TimeoutError" in caplog.text

        await until(gave_up)
        await run("ROLLBACK")
