"""The relay end to end: another program writes with a driver of its own, the relay drains, the next lookup is fresh."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from time import time
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext

from aiomodelcache import BackendError, ModelCache
from aiomodelcache.backends.protocol import Backend
from aiomodelcache.exceptions import CacheConfigurationError, RelayError
from aiomodelcache.relay import Relay, watch
from aiomodelcache.relay import relay as relay_module
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.mysql_lines import RESTART_TOLERANCE
from aiomodelcache.relay.relay import Drain
from aiomodelcache.relay.source import Source
from aiomodelcache.relay.triggers.installation import install, installation_statements, script_of
from aiomodelcache.testing import CountingBackend, assert_ops, count_ops
from tests.relay.capture import TriggerCapture
from tests.relay.outside import other_program
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.gates import PATIENCE
from tests.support.models.relayed_afar_models import Distance
from tests.support.models.relayed_models import Article, ArticleCount, Author, Label, Newest, Note, article_titles
from tests.support.servers import DatabaseServer, RedisServer

pytestmark = pytest.mark.models("tests.support.models.relayed_models")


Outside = Callable[..., Awaitable[None]]
AUTHORS, ARTICLES, LABELS = range(1, 4), range(1, 8), range(1, 4)
SLUGS = [f"s{number}" for number in range(1, 8)]


async def create_rows() -> None:
    """Two authors with two articles each, two labels, of which one is hidden, and their links."""
    await Author.bulk_create([Author(id=1, name="kim"), Author(id=2, name="ann")])
    await Label.bulk_create([Label(id=1, name="red"), Label(id=2, name="blue", hidden=True)])
    await Article.bulk_create(
        [
            Article(id=number, slug=f"s{number}", title=f"t{number}", author_id=1 + number // 3)
            for number in (1, 2, 3, 4)
        ]
    )
    await Note.create(id=1, text="note")
    for number in (1, 2, 3):
        article = await Article.get(id=number)
        await article.labels.add(await Label.get(id=1))
    # Tortoise does not find the hidden label.
    await Article._meta.db.execute_script("INSERT INTO article_label (article_id, label_id) VALUES (1, 2)")


def columns_of(row: Any) -> Any:
    return None if row is None else {name: getattr(row, name) for name in row._meta.db_fields}


async def answers() -> dict[str, Any]:
    """The answers of every kind of lookup of these rows, asked for at once."""
    cache: Any = Article.cache
    asked: dict[str, Awaitable[Any]] = {
        "all": rows_of(cache.filter()),
        "sum": cache.query(Article.filter(views__gte=0).count()),
        "labelled": sorted_by_value(cache.query(Article.filter(labels__id=1).values_list("id", flat=True))),
        **{f"author {number}": row_of(Author.cache.get_or_none(id=number)) for number in AUTHORS},
        **{f"author {name}": row_of(Author.cache.get_or_none(name=name)) for name in ("kim", "ann", "new")},
        **{f"article {slug}": row_of(cache.get_or_none(slug=slug)) for slug in SLUGS},
        **{f"label {number}": row_of(Label.cache.get_or_none(id=number)) for number in LABELS},
        **{f"article {number}": article_and_relations(number) for number in ARTICLES},
    }
    for number in AUTHORS:
        query = Article.filter(author_id=number, views__gt=5).order_by("id")
        asked |= {
            f"by author {number}": rows_of(cache.filter(author=number)),
            f"t1 by author {number}": rows_of(cache.filter(author=number, title="t1")),
            f"page by author {number}": rows_of(cache.filter(author=number)[1:2]),
            f"count of author {number}": result_of(ArticleCount(number)),
            f"newest of author {number}": rows_of(Newest(number)),
            f"titles of author {number}": result_of(article_titles(number)),
            f"viewed of author {number}": rows_of(cache.query(query)),
        }
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


async def result_of(query: Any) -> Any:
    return await query


async def row_of(query: Any) -> Any:
    return columns_of(await query)


async def rows_of(query: Any) -> list[Any]:
    return [columns_of(row) for row in await query]


async def sorted_by_value(query: Any) -> list[Any]:
    return sorted(await query)


async def article_and_relations(number: int) -> Any:
    article = await Article.cache.get_or_none(id=number)
    if article is None:
        return None
    labels, author = sorted([row.id for row in await article.labels]), columns_of(await article.author)
    return columns_of(article), labels, author


async def believe(cache: ModelCache) -> None:
    """Lets the cache learn of the claims at once. It asks the store now and then."""
    relays = cache._views.relays
    assert relays is not None
    await relays.ask()


@asynccontextmanager
async def relaying(cache: ModelCache) -> AsyncIterator[Drain]:
    """The drain of a relay whose steps the test makes."""
    relay = Relay(cache)
    [drain] = relay.drains
    yield drain
    await drain.close()


@pytest.fixture
async def captured(cache: ModelCache, database: BaseDBAsyncClient, capture: TriggerCapture) -> None:
    """Captures the writes of the models' tables."""
    await capture.install_for(database, cache)


@pytest.fixture
async def outside(db_url: DatabaseUrl, captured: None) -> AsyncIterator[Outside]:
    """Another program, which executes statements one after another, each in a transaction of its own."""
    async with other_program(db_url) as run:

        async def execute(*statements: str) -> None:
            for statement in statements:
                await run(statement)

        yield execute


@pytest.fixture
async def drain(cache: ModelCache, captured: None) -> AsyncIterator[Drain]:
    async with relaying(cache) as drain:
        await drain.drain()
        await believe(cache)
        yield drain


async def fresh(cache: ModelCache) -> dict[str, Any]:
    """The answers of the database."""
    with cache.disabled():
        return await answers()


INSERT = "INSERT INTO article (id, slug, title, views, author_id) VALUES (5, 's5', 't1', 9, 1)"
WRITES = {
    "insert": [INSERT],
    "update of a row": ["UPDATE article SET views = views + 10 WHERE id = 1"],
    "update of a list's key": ["UPDATE article SET author_id = 2 WHERE id = 1"],
    "update of half of a list's key": ["UPDATE article SET title = 't1' WHERE id = 3"],
    "update of a unique key": ["UPDATE article SET slug = 's6' WHERE id = 2"],
    "update of all rows": ["UPDATE article SET views = 7, title = 't1'"],
    "delete": ["DELETE FROM article_label WHERE article_id = 1", "DELETE FROM article WHERE id = 1"],
    "delete of all": ["DELETE FROM article_label", "DELETE FROM article"],
    "change of a primary key": ["UPDATE article SET id = 6 WHERE id = 4"],
    "link": ["INSERT INTO article_label (article_id, label_id) VALUES (4, 1)"],
    "unlink": ["DELETE FROM article_label WHERE article_id = 2"],
    "move of a link": ["UPDATE article_label SET article_id = 4 WHERE article_id = 1"],
    "hidden row shown": ["UPDATE label SET hidden = FALSE WHERE id = 2"],
    "shown row hidden": ["UPDATE label SET hidden = TRUE WHERE id = 1"],
    "cascade": ["DELETE FROM author WHERE id = 1"],
    "first row of a kind": ["INSERT INTO author (id, name) VALUES (3, 'new')"],
    "rename": ["UPDATE author SET name = 'new' WHERE id = 1"],
    "several": [INSERT, "UPDATE author SET name = 'new' WHERE id = 2", "UPDATE article SET author_id = 2 WHERE id = 5"],
}


@pytest.mark.exhaustive(because="every kind of write")
async def test_lookups_are_fresh_after_a_drain(cache: ModelCache, drain: Drain, outside: Outside) -> None:
    await create_rows()
    await drain.drain()
    for name, statements in WRITES.items():
        await believe(cache)
        before = await answers()
        assert await answers() == before
        await outside(*statements)
        expected = await fresh(cache)
        assert expected != before, name
        assert await answers() != expected, f"{name}: nothing was cached, so that the test shows nothing"
        assert await drain.drain()
        assert await answers() == expected, name
        await outside("DELETE FROM article_label", "DELETE FROM article", "DELETE FROM label", "DELETE FROM author")
        await Note.all().delete()
        await drain.drain()
        await create_rows()
        await drain.drain()


async def test_with_triggers_of_all_models_a_relay_invalidates_rows_of_those_that_do_not_have_it(
    cache: ModelCache, database: BaseDBAsyncClient, outside: Outside
) -> None:
    """They are used without a relay, too. A line of theirs invalidates its row alone, and is deleted."""
    every = captured_tables(cache.open_cache, every=True)[database.connection_name]
    assert Note in {model for table in every for model in table.models}
    await install(database, every)
    async with relaying(cache) as drain:
        await create_rows()
        await Note.create(id=2, text="other")
        await drain.drain()
        await believe(cache)
        cleared = drain.status.cleared
        before = await answers()
        for number in (1, 2):
            await Note.cache.get(id=number)
        await outside("UPDATE note SET text = 'new' WHERE id = 1", "UPDATE author SET name = 'new' WHERE id = 1")
        assert await drain.drain()
        with count_ops(cache) as ops:
            assert [(await Note.cache.get(id=number)).text for number in (1, 2)] == ["new", "other"]
        assert len(ops.statements) == 1
        assert await answers() == await fresh(cache) != before
        assert (drain.status.cleared, drain.status.tables) == (cleared, len(every) - 1)
        assert await drain.claim_left() > 0
        assert await drain.source.changes(10) == []


# Two relays, and relays that end ----------------------------------------------------------------------------

on_postgres = pytest.mark.only_on("postgres", because="the steps are the same on every database")
on_redis = pytest.mark.only_on("redis", because="the steps are the same on every store")


class Killed(BaseException):
    """The end of a relay's process."""


STEPS = ["clock", "check", "changes", "deliver", "delete", "remaining", "claim"]


@contextmanager
def killed(drain: Drain, backend: CountingBackend, step: str, *, before: bool) -> Iterator[None]:
    """Ends a drain before or after the first call of one of its steps."""
    patch = pytest.MonkeyPatch()
    writer, source = drain._cache.writer, drain.source
    owner: Any = {"deliver": writer, "check": source, "changes": source, "delete": source}.get(step, backend.backend)
    original: Callable[..., Awaitable[Any]] = getattr(owner, step)

    async def end(*arguments: Any, **keywords: Any) -> Any:
        if step == "claim" and arguments[0] != drain.liveness_key:
            return await original(*arguments)
        if not before:
            await original(*arguments, **keywords)
        raise Killed

    patch.setattr(owner, step, end)
    try:
        yield
    finally:
        patch.undo()


@pytest.mark.exhaustive(because="ends a relay before and after every step")
@pytest.mark.long(because="each case waits for the next relay")
@on_postgres
@on_redis
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_relay_that_ends_at_any_step_loses_no_line(
    cache: ModelCache, backend: CountingBackend, drain: Drain, outside: Outside, step: str, before: bool
) -> None:
    await create_rows()
    await drain.drain()
    old = await answers()
    assert await answers() == old
    await backend.delete([drain.liveness_key])
    async with relaying(cache) as first, relaying(cache) as second:
        await outside("UPDATE article SET author_id = 2, title = 'new' WHERE id = 1", INSERT)
        with killed(first, backend, step, before=before), pytest.raises(Killed):
            await first.drain()
        assert bool(await first.claim_left()) is (step == "claim" and not before)
        assert await second.drain()
        assert await answers() == await fresh(cache) != old
        async with asyncio.timeout(PATIENCE):
            while not await second.claim_left():  # the lookups may have taken longer than its claim holds
                await second.drain()
        assert await second.source.changes(10) == []


@on_postgres
@on_redis
async def test_two_relays_at_once(cache: ModelCache, drain: Drain, outside: Outside) -> None:
    await create_rows()
    async with relaying(cache) as other:
        for number in range(10):
            await answers()
            await outside(f"UPDATE article SET title = 'x{number}', author_id = 3 - author_id WHERE id < 4")
            await asyncio.gather(drain.drain(), other.drain())
            assert await answers() == await fresh(cache)
    assert await drain.source.changes(10) == []


@on_postgres
@on_redis
async def test_a_frozen_relay_blocks_no_writer(cache: ModelCache, drain: Drain, outside: Outside) -> None:
    await create_rows()
    for step in ("deliver", "delete"):
        reached, go_on = asyncio.Event(), asyncio.Event()
        owner: Any = {"deliver": cache.open_cache.writer, "delete": drain.source}[step]
        original = getattr(owner, step)

        async def wait(*arguments: Any, original: Any = original) -> Any:
            reached.set()  # noqa: B023
            await go_on.wait()  # noqa: B023
            return await original(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, step, wait)
            await outside("UPDATE article SET views = views + 1")
            frozen = asyncio.create_task(drain.drain())
            await reached.wait()
            async with asyncio.timeout(5):
                await outside("UPDATE article SET views = views + 1", "DELETE FROM article WHERE id = 4")
            go_on.set()
            assert await frozen
    await drain.drain()
    assert await answers() == await fresh(cache)


# Claims ------------------------------------------------------------------------------------------------------


@on_postgres
@on_redis
async def test_a_claim_lasts_for_the_lag_from_before_the_lines_were_selected(
    cache: ModelCache, backend: CountingBackend, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = int(1000 * cache.config.relay_lag)
    assert lag - 5_000 < await drain.claim_left() <= lag
    calls: list[tuple[str, Any]] = []
    for owner, name in ((backend.backend, "clock"), (drain.source, "changes"), (backend.backend, "claim")):
        original = getattr(owner, name)

        async def noted(*arguments: Any, name: str = name, original: Any = original, **keywords: Any) -> Any:
            answer = await original(*arguments, **keywords)
            calls.append((name, arguments[1] if name == "claim" else answer))
            return answer

        monkeypatch.setattr(owner, name, noted)
    drain.claim_at_once()
    assert await drain.drain()
    assert [name for name, _ in calls] == ["clock", "changes", "claim"]
    assert calls[2][1] == calls[0][1] + lag


@on_postgres
@on_redis
async def test_nothing_is_claimed_while_lines_are_left_out(
    cache: ModelCache, drain: Drain, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_rows()
    await drain.drain()
    before = await answers()
    assert await answers() == before
    monkeypatch.setattr(relay_module, "LINES_PER_DRAIN", 2)
    for number in (1, 2, 3, 4):
        await outside(f"UPDATE article SET title = 'x' WHERE id = {number}")
    await cache.backend.delete([drain.liveness_key])
    drain.claim_at_once()
    assert not await drain.drain()
    assert await drain.claim_left() == 0
    assert not await drain.drain()
    assert await drain.claim_left() == 0
    assert await drain.drain()
    assert await drain.claim_left() > 0
    assert await answers() == await fresh(cache) != before


@on_postgres
@on_redis
async def test_past_many_lines_whole_models_are_invalidated(
    cache: ModelCache, drain: Drain, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_rows()
    await drain.drain()
    monkeypatch.setattr(relay_module, "LINES_PER_DRAIN", 2)
    monkeypatch.setattr(relay_module, "MAX_LINES", 2)
    monkeypatch.setattr(relay_module, "LINES_AT_ONCE", 2)
    await answers()
    note = await Note.cache.get(id=1)
    cleared = drain.status.cleared
    for number in (1, 2, 3, 4):
        await outside(f"UPDATE article SET title = 'x', author_id = 2 WHERE id = {number}")
    while not await drain.drain():
        pass
    assert drain.status.cleared == cleared + 1, "two lines came after the second one"
    assert await answers() == await fresh(cache)
    with count_ops(cache) as ops:
        assert await Note.cache.get(id=1) == note
    assert ops.statements == []


COPIED = {
    "postgres": ("source, size, old, new", "clock_timestamp() - interval '1 day'"),
    "mariadb": ("source, op, old, new", "CURRENT_TIMESTAMP(3) - INTERVAL 1 DAY"),
    "sqlite": ("source, op, o0, o1, o2, o3, n0, n1, n2, n3", "julianday('now') - 1"),
}
"""The columns of a line of an article, and the time of a day ago."""
DOUBLED = 9


@pytest.mark.exhaustive(because="writes thousands of lines")
@on_redis
@pytest.mark.every_pair(because="each database has lines of its own")
async def test_after_a_day_without_a_relay_the_lines_are_not_read_one_by_one(
    cache: ModelCache,
    database: Any,
    drain: Drain,
    outside: Outside,
    db_url: DatabaseUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Writers add a line each, whatever the table holds. The relay deletes lines in statements of bounded size."""
    monkeypatch.setattr(relay_module, "MAX_LINES", 2_000)
    writes = (f"UPDATE article SET title = 'x{number}', author_id = 3 - author_id WHERE id = 1" for number in range(99))

    async def lines() -> int:
        [row] = await database.execute_query_dict("SELECT count(*) AS number FROM aiomodelcache_changes")
        return int(row["number"])

    await create_rows()
    await drain.drain()
    before = await answers()
    await drain.close()
    await cache.backend.delete([drain.liveness_key])
    await believe(cache)
    await outside(*[next(writes) for _ in range(49)])
    assert await lines() == 49
    assert await answers() == await fresh(cache) != before
    assert cache.stats.relay_bypassed > 0
    columns, day_ago = COPIED[db_url.dialect]
    for _ in range(DOUBLED):
        table = "aiomodelcache_changes"
        await outside(f"INSERT INTO {table} ({columns}, written) SELECT {columns}, {day_ago} FROM {table}")
    deleted: list[int] = []
    async with relaying(cache) as relay:
        original = relay.source.delete

        async def delete(ids: Any) -> None:
            deleted.append(len(ids))
            await original(ids)

        monkeypatch.setattr(relay.source, "delete", delete)
        with count_ops(cache) as ops:
            while not await relay.drain():
                assert relay.status.oldest > 80_000
                assert not await relay.claim_left()
                await outside(next(writes))
                assert await answers() == await fresh(cache)
        assert deleted == [1_000, 1_000, 10_000, 10_000, 49 * 2**DOUBLED + 4 - 22_000]
        assert len([each for each in ops.statements if "DELETE FROM aiomodelcache_changes" in each]) == len(deleted)
        cleared = 4 if db_url.dialect == "sqlite" else 3  # there, a relay that starts clears the models
        assert (await lines(), relay.status.oldest, relay.status.cleared) == (0, 0, cleared)
        assert await relay.claim_left() > 0
    await believe(cache)
    assert await answers() == await fresh(cache)
    with count_ops(cache) as ops:
        assert (await Article.cache.get(id=1)).title == "x52"
        assert len(await Article.cache.filter(author=2)) > 0
    assert ops.statements == []


@on_postgres
@on_redis
async def test_a_change_of_the_catalogue_clears_the_models_once(
    cache: ModelCache, drain: Drain, database: Any, capture: TriggerCapture
) -> None:
    await create_rows()
    await drain.drain()
    await answers()
    cleared = drain.status.cleared
    drain.claim_at_once()
    await drain.drain()
    assert drain.status.cleared == cleared
    # With the triggers off for a moment, no line tells of the write.
    await database.execute_script(
        "ALTER TABLE article DISABLE TRIGGER ALL; UPDATE article SET title = 'unseen' WHERE id = 1"
    )
    drain.claim_at_once()
    with pytest.raises(RelayError, match="aiomodelcache triggers install"):
        await drain.drain()
    await capture.install_for(database, cache)
    drain.claim_at_once()
    await drain.drain()
    assert drain.status.cleared == cleared + 1
    assert await answers() == await fresh(cache)
    async with relaying(cache) as second:  # what the catalogue was is in the store
        await second.drain()
        assert second.status.cleared == 0


@pytest.mark.only_on("sqlite", because="its script drops the change table first")
async def test_a_script_of_triggers_that_is_run_again_clears_the_models(
    cache: ModelCache, drain: Drain, outside: Outside, database: Any
) -> None:
    await create_rows()
    await drain.drain()
    before = await answers()
    await outside("UPDATE author SET name = 'new' WHERE id = 1")
    tables = captured_tables(cache.open_cache)[database.connection_name]
    await database.execute_script(script_of(database, await installation_statements(database, tables)))
    drain.claim_at_once()
    await drain.drain()
    assert await answers() == await fresh(cache) != before


@on_postgres
@on_redis
async def test_writes_that_were_not_captured_clear_the_models_whatever_the_catalogue_is(
    cache: ModelCache, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = drain.status.cleared
    with monkeypatch.context() as patch:
        patch.setattr(drain.source, "check", AsyncMock(side_effect=RelayError("no triggers are installed")))
        drain.claim_at_once()
        with pytest.raises(RelayError):
            await drain.drain()
    assert await drain.drain()
    assert drain.status.cleared == cleared + 1


# Costs -------------------------------------------------------------------------------------------------------


async def test_what_a_drain_costs(cache: ModelCache, drain: Drain, outside: Outside, db_url: DatabaseUrl) -> None:
    """A drain that claims checks the catalogue and the owner, and asks the store twice. Others send one SELECT."""
    await create_rows()
    await drain.drain()
    with count_ops(cache) as ops:
        assert await drain.drain()
    assert (len(ops.statements), ops.operations) == (1, [])
    drain.claim_at_once()
    with count_ops(cache) as ops:
        assert await drain.drain()
    checks = {"sqlite": 3, "postgres": 2, "mariadb": 4}[db_url.dialect]
    assert (len(ops.statements), ops.operations) == (1 + checks, ["clock", "claim"])
    await outside("UPDATE author SET name = 'new' WHERE id = 1")
    with count_ops(cache) as ops:
        assert await drain.drain()
    more = 1 if db_url.dialect == "mariadb" else 2
    text = "the lines, their values on PostgreSQL, the DELETE, and a mark on SQLite"
    assert (len(ops.statements), ops.operations) == (more + 1, ["clear"]), text
    assert drain.status.lines > 0


# The loop ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(cache: ModelCache) -> AsyncIterator[Relay]:
    """A relay that runs until the block ends."""
    relay = Relay(cache)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        async with asyncio.timeout(PATIENCE):
            await task


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_a_running_relay_makes_lookups_fresh(cache: ModelCache, outside: Outside) -> None:
    await create_rows()
    async with running(cache) as relay:
        for statement in (INSERT, "UPDATE article SET author_id = 2 WHERE id = 1", "DELETE FROM author WHERE id = 1"):
            await answers()
            await outside(statement)
            expected = await fresh(cache)

            async def are_fresh(expected: dict[str, Any] = expected) -> bool:
                return await answers() == expected

            await until(are_fresh)

        async def is_ok() -> bool:  # a claim may end for a moment on a busy machine
            return bool((await relay.health())["ok"])

        await until(is_ok)
        [connection] = (await relay.health())["connections"]
        assert connection["leading"]
        assert connection["failing"] is None
        assert 0 <= connection["lag"] < PATIENCE
        assert 0 < connection["claim_left"] <= cache.config.relay_lag


@on_postgres
@on_redis
@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
async def test_a_failure_is_logged_once_and_tried_again(
    cache: ModelCache, outside: Outside, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    await create_rows()
    failures = 3
    original = Source.changes

    async def fail(source: Source, limit: int, *, whole: bool) -> Any:
        nonlocal failures
        if not failures:
            return await original(source, limit, whole=whole)
        failures -= 1
        if hangs:
            await asyncio.sleep(PATIENCE)
        raise OSError("the database is away, with a secret value")

    async with running(cache) as relay:
        [status] = relay.statuses

        async def has_drained(before: int = 0) -> bool:
            return status.drains > before

        await until(has_drained)
        monkeypatch.setattr(relay_module, "DRAIN_LIMIT", 0.5 if hangs else PATIENCE)
        await until(partial(has_drained, status.drains + 1))  # one with the new limit
        caplog.clear()
        monkeypatch.setattr(Source, "changes", fail)

        async def has_failed() -> bool:
            return not failures

        await until(has_failed)
        monkeypatch.setattr(relay_module, "DRAIN_LIMIT", PATIENCE)
        await outside("UPDATE author SET name = 'new' WHERE id = 1")

        async def has_recovered() -> bool:
            return status.failing is None and await Author.cache.exists(name="new")

        await until(has_recovered)
        assert status.outages == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"aiomodelcache: the relay of postgres does not drain for now: {'TimeoutError' if hangs else 'OSError'}",
        "aiomodelcache: the relay of postgres works again",
    ]


@on_redis
@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_a_server_that_is_restarted_is_used_again(
    backend: CountingBackend, capture: TriggerCapture, kind: str, request: pytest.FixtureRequest
) -> None:
    server: DatabaseServer = request.getfixturevalue(f"own_{kind}")
    url = DatabaseUrl(server.url, kind)
    async with (
        tortoise_on(url, "tests.support.models.relayed_models") as client,
        ModelCache(backend, **capture.settings) as cache,
    ):
        await capture.install_for(client, cache)
        await create_rows()
        async with running(cache) as relay:
            [status] = relay.statuses

            async def has_claimed() -> bool:
                return status.claims > 0 and status.failing is None

            async def has_run() -> bool:
                """Returns True if a restart cannot pass for the same run. MariaDB tells its start in whole seconds."""
                rows = await client.execute_query_dict("SHOW GLOBAL STATUS LIKE 'Uptime'") if kind == "mariadb" else []
                return all(int(row["Value"]) > RESTART_TOLERANCE + 1 for row in rows)

            await until(has_claimed)
            await until(has_run)
            cleared = status.cleared
            server.stop()

            async def has_failed() -> bool:
                return status.failing is not None

            await until(has_failed)
            server.restart()
            async with other_program(url) as run:
                await run("UPDATE author SET name = 'new' WHERE id = 1")

            async def has_recovered() -> bool:
                return status.cleared > cleared and (await Author.cache.get(id=1)).name == "new"

            await until(has_recovered)
            assert await answers() == await fresh(cache)


@on_postgres
@pytest.mark.only_on("memory", because="the store is a Redis of the test's own")
async def test_a_store_that_is_away_keeps_the_lines(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, capture: TriggerCapture
) -> None:
    async with ModelCache(own_redis.url, socket_timeout=0.5, breaker_cooldown=0.05, **capture.settings) as cache:
        await capture.install_for(database, cache)
        await create_rows()
        async with relaying(cache) as drain, other_program(db_url) as run:
            await drain.drain()
            await believe(cache)
            before = await answers()
            await run("UPDATE article SET author_id = 2")
            own_redis.stop()
            for _ in range(2):
                with pytest.raises(BackendError):
                    await drain.drain()
            assert sum(len(change.rows or ()) for change in await drain.source.changes(10)) == 4
            own_redis.cont()

            async def has_drained() -> bool:
                try:
                    return await drain.drain()
                except BackendError:
                    return False

            await until(has_drained)
            assert await answers() == await fresh(cache) != before
            assert await drain.source.changes(10) == []


@on_postgres
@pytest.mark.only_on("memory", because="the store is a Redis of the test's own")
async def test_a_store_that_takes_no_writes_keeps_the_lines(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, capture: TriggerCapture
) -> None:
    """As when it is a replica for a while. Entries are read from it until the claim ends, and then no more."""
    settings = {"relay_lag": 2, "breaker_cooldown": 0.05, **capture.settings}
    async with ModelCache(own_redis.url, **settings) as cache:
        await capture.install_for(database, cache)
        await create_rows()
        async with AsyncExitStack() as stack:
            redis = stack.enter_context(own_redis.client())
            relay = await stack.enter_async_context(running(cache))
            run = await stack.enter_async_context(other_program(db_url))
            [status] = relay.statuses

            async def has_claimed() -> bool:
                return status.failing is None and (await relay.health())["ok"]

            async def is_lost() -> bool:
                return status.failing is not None and not (await relay.health())["ok"]

            await until(has_claimed)
            await believe(cache)
            await answers()
            redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            await run("UPDATE author SET name = 'new' WHERE id = 1")
            await until(is_lost)
            await believe(cache)
            assert await answers() == await fresh(cache)
            redis.execute_command("REPLICAOF", "NO", "ONE")
            await until(has_claimed)
            await believe(cache)
            assert await answers() == await fresh(cache)


@pytest.mark.only_on("memory", because="the store is a Redis of the test's own")
async def test_the_age_of_the_oldest_line_grows_while_the_store_is_away(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer
) -> None:
    async with ModelCache(own_redis.url, socket_timeout=0.5, breaker_cooldown=0.05) as cache:
        await install(database, captured_tables(cache.open_cache)[database.connection_name])
        async with running(cache) as relay, other_program(db_url) as run:
            [status] = relay.statuses

            async def has_drained() -> bool:
                return status.failing is None and status.claims > 0 and status.oldest == 0

            await until(has_drained)
            own_redis.stop()
            began = time()
            await run("INSERT INTO author (id, name) VALUES (1, 'kim')")

            async def is_growing() -> bool:
                return status.oldest > 0.2

            await until(is_growing)
            assert status.waiting_since is not None
            assert began - 1 < status.waiting_since < began + PATIENCE
            assert status.oldest <= status.data()["oldest"]
            own_redis.cont()
            await until(has_drained)


@on_postgres
@on_redis
async def test_one_of_two_relays_leads_and_the_other_takes_over(
    database: BaseDBAsyncClient, backend: CountingBackend, db_url: DatabaseUrl, capture: TriggerCapture
) -> None:
    async with ModelCache(backend, relay_lag=1.2, **capture.settings) as cache, other_program(db_url) as run:
        await capture.install_for(database, cache)
        await create_rows()
        async with running(cache) as second, AsyncExitStack() as stack:
            first = await stack.enter_async_context(running(cache))

            async def leads() -> bool:
                return first.statuses[0].leading or second.statuses[0].leading

            async def one_leads() -> bool:  # both do for a moment if one was late to hold its lease longer
                return first.statuses[0].leading != second.statuses[0].leading

            await until(leads)
            await asyncio.sleep(0.5)  # more than the time between two attempts to lead
            await until(one_leads)
            leading = [relay.statuses[0].leading for relay in (first, second)]
            (first if leading[0] else second).stop()
            other = (second if leading[0] else first).statuses[0]

            async def takes_over() -> bool:
                return other.leading and other.drains > 0

            await until(takes_over)
            await believe(cache)
            await Author.cache.get(id=1)
            await run("UPDATE author SET name = 'new' WHERE id = 1")

            async def is_fresh() -> bool:
                return (await Author.cache.get(id=1)).name == "new"

            await until(is_fresh)


@on_redis
async def test_a_relay_that_was_stopped_runs_again(cache: ModelCache, outside: Outside) -> None:
    relay = Relay(cache)
    relay.stop()
    async with asyncio.timeout(PATIENCE):
        await relay.run()
    assert relay.statuses[0].drains == 0, "it was told to stop before it began"
    for number in (1, 2):
        task = asyncio.create_task(relay.run())
        await outside(f"INSERT INTO author (id, name) VALUES ({number}, 'a{number}')")

        async def has_drained(number: int = number) -> bool:
            return relay.statuses[0].lines >= number

        await until(has_drained)
        relay.stop()
        relay.stop()
        async with asyncio.timeout(PATIENCE):
            await task


@on_postgres
async def test_a_relay_needs_models(database: BaseDBAsyncClient, backend: Backend, capture: TriggerCapture) -> None:
    models: list[Any] = [Author, Article, Label]
    with pytest.MonkeyPatch.context() as patch:
        for model in models:
            patch.setattr(model.CacheMeta, "relay", False)
        async with ModelCache(backend, **capture.settings) as cache:
            with pytest.raises(CacheConfigurationError, match="relay = True"):
                Relay(cache)


# Another cache -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def held(owner: Any, step: str) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Holds a method before its call. Yields the event that it is reached, and the one that lets it go on."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    original = getattr(owner, step)

    async def wait(*arguments: Any, **keywords: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await original(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, step, wait)
        yield reached, go_on


@on_postgres
@on_redis
async def test_two_caches_never_lose_lines_to_each_other(
    cache: ModelCache,
    backend: CountingBackend,
    drain: Drain,
    outside: Outside,
    caplog: pytest.LogCaptureFixture,
    capture: TriggerCapture,
) -> None:
    await create_rows()
    await drain.drain()
    before = await answers()
    async with ModelCache(backend, namespace="other", **capture.settings) as other, relaying(other) as second:
        assert await second.drain()
        assert "takes postgres over" in caplog.text
        await outside("UPDATE article SET author_id = 2, title = 'new'")
        drain.claim_at_once()
        with pytest.raises(RelayError, match="another cache"):
            await drain.drain()
        assert await second.drain()
        assert await second.source.changes(10) == []
        assert await answers() == before, "the line was drained for the other cache"
        async with relaying(cache) as third:  # one that starts takes over at once
            assert await third.drain()
        after = await answers()
        assert after == await fresh(cache) != before
        second.claim_at_once()
        with pytest.raises(RelayError):
            await second.drain()
        second._ownership._not_before = 0.0
        assert await second.drain()
        await outside("UPDATE article SET title = 'newest'")
        assert await second.drain()
        drain._ownership._not_before = 0.0
        drain.claim_at_once()
        assert await drain.drain()
        assert await answers() == await fresh(cache) != after


@on_postgres
@on_redis
async def test_the_newer_of_two_releases_drains_as_long_as_it_has_a_relay(
    cache: ModelCache, backend: CountingBackend, drain: Drain, capture: TriggerCapture
) -> None:
    async with ModelCache(backend, **capture.settings) as newer:
        newer.open_cache.many_to_many.pop()  # another list than before
        async with relaying(newer) as second:
            assert await second.drain()
            drain._ownership._not_before = 0.0
            drain.claim_at_once()
            with pytest.raises(RelayError, match="newer release"):
                await drain.drain()
            async with relaying(cache) as another:  # of a process that has just become the leader
                with pytest.raises(RelayError):
                    await another.drain()
            drain._ownership._not_before = 0.0
            with pytest.raises(RelayError):
                await drain.drain()
            async with relaying(newer) as third:
                assert await third.drain()
                assert third.status.cleared == 0
            assert await second.drain()
            second.claim_at_once()
            second._ownership._announce_at = 0.0
            assert await second.drain()
        assert await drain.drain()
        assert drain.status.failing is None


@on_postgres
@on_redis
async def test_a_store_that_was_restarted_is_still_the_same_cache(
    cache: ModelCache, backend: CountingBackend, drain: Drain
) -> None:
    await backend.delete([drain.liveness_key + b":store"])  # a version, which does not survive a restart
    async with relaying(cache) as another:
        assert await another.drain()
        assert another.status.cleared == 1
        drain.claim_at_once()
        assert await drain.drain()


@on_postgres
@pytest.mark.only_on("memory", because="the store is a Redis of the test's own")
async def test_a_store_that_comes_back_empty_is_claimed_at_once_by_a_relay_that_is_alone(
    database: BaseDBAsyncClient, own_redis: RedisServer
) -> None:
    """The store has forgotten that the relay lives. No other relay has taken the database over."""
    async with ModelCache(own_redis.patient_url, breaker_cooldown=0.05) as cache:
        await install(database, captured_tables(cache.open_cache)["postgres"])
        async with running(cache) as relay:
            [status] = relay.statuses

            async def has_claimed() -> bool:
                return status.failing is None and await relay.drains[0].claim_left() > 0

            async def fails() -> bool:
                return status.failing is not None

            await until(has_claimed)
            own_redis.kill()
            relay.drains[0].claim_at_once()
            await until(fails)
            own_redis.restart()
            await until(has_claimed)


@on_postgres
@on_redis
@pytest.mark.parametrize("step", ["changes", "delete"])
async def test_a_relay_that_hung_while_another_cache_took_over_takes_nothing_from_it(
    cache: ModelCache, backend: CountingBackend, drain: Drain, outside: Outside, step: str, capture: TriggerCapture
) -> None:
    await create_rows()
    await drain.drain()
    async with ModelCache(backend, namespace="other", **capture.settings) as other, relaying(other) as second:
        await backend.delete([drain.liveness_key])
        drain.claim_at_once()
        await outside("UPDATE article SET title = 'new' WHERE id = 1")
        async with held(drain.source, step) as (reached, go_on):
            hung = asyncio.create_task(drain.drain())
            await reached.wait()
            if step == "changes":  # the line is gone when the first relay looks for it
                assert await second.drain()
            else:
                await second._check()
            go_on.set()
            if step == "changes":
                with pytest.raises(RelayError):
                    await hung
                assert await drain.claim_left() == 0
            else:
                await hung
                assert len(await second.source.changes(10)) == 1


# In a cache, with tenants, with replicas -----------------------------------------------------------------------


async def test_a_cache_runs_a_relay_from_open_to_close(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    db_url: DatabaseUrl,
    capture: TriggerCapture,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watch, "FIRST_CLAIM_LIMIT", PATIENCE)
    async with ModelCache(backend, **capture.settings) as cache:
        await capture.install_for(database, cache)
        await create_rows()
    before = asyncio.all_tasks()
    caplog.clear()
    async with ModelCache(backend, relay=True, **capture.settings) as cache, other_program(db_url) as run:

        async def is_cached() -> bool:
            with count_ops(cache) as ops:
                await Author.cache.get(id=1)
            return not ops.statements

        await Author.cache.get(id=1)
        await until(is_cached)
        assert cache.stats.relay_bypassed == 0, "opening waits for the relay's first claim"
        assert "no relay lives" not in caplog.text
        assert cache.relay is not None
        health = await cache.relay.health()
        assert (health["ok"], health["connections"][0]["leading"]) == (True, True)
        assert cache.worker.relays[0].claims > 0
        await run("UPDATE author SET name = 'new' WHERE id = 1")

        async def is_fresh() -> bool:
            return (await Author.cache.get(id=1)).name == "new"

        await until(is_fresh)
        await until(is_cached)
    assert asyncio.all_tasks() == before


@on_redis
async def test_what_a_relay_of_its_own_sends_is_not_counted(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    db_url: DatabaseUrl,
    capture: TriggerCapture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the counts of an application's tests would depend on when its relay drains."""
    monkeypatch.setattr(relay_module, "CLAIMS_PER_LAG", 1e9)
    async with ModelCache(backend, **capture.settings) as cache:
        await capture.install_for(database, cache)
    async with ModelCache(backend, relay=True, **capture.settings) as cache, other_program(db_url) as run:
        assert cache.relay is not None
        [status] = cache.relay.statuses
        claims = status.claims

        async def has_drained_and_claimed() -> bool:
            return status.lines > 0 and status.claims > claims + 1

        async with assert_ops(cache, sql=0, redis=0, transactions=0):
            await run("INSERT INTO author (id, name) VALUES (1, 'kim')")
            await until(has_drained_and_claimed)


@on_postgres
@on_redis
async def test_opening_waits_for_the_claim_of_another_relay_that_leads(
    cache: ModelCache,
    captured: None,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watch, "FIRST_CLAIM_LIMIT", PATIENCE)
    async with held(Drain, "drain") as (reached, go_on), running(cache):
        await reached.wait()
        caplog.clear()
        other = ModelCache(backend, relay=True)
        opening = asyncio.create_task(other.open())
        done, _ = await asyncio.wait([opening], timeout=0.3)
        assert not done
        go_on.set()
        await opening
        assert "no relay lives" not in caplog.text
        await other.close()


@on_postgres
@on_redis
async def test_opening_waits_no_longer_than_its_limit_and_can_be_cancelled(
    cache: ModelCache,
    captured: None,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = ModelCache(backend, relay=True)
    before = asyncio.all_tasks()
    async with held(Drain, "drain") as (reached, go_on):
        monkeypatch.setattr(watch, "FIRST_CLAIM_LIMIT", PATIENCE)
        opening = asyncio.create_task(other.open())
        await reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert asyncio.all_tasks() == before
        monkeypatch.setattr(watch, "FIRST_CLAIM_LIMIT", 0.1)
        caplog.clear()
        async with other:
            assert caplog.text.count("no relay lives") == 1
            go_on.set()


@on_postgres
@pytest.mark.only_on("memory", because="the store is a Redis of the test's own")
@pytest.mark.parametrize("away", ["triggers", "store"])
async def test_opening_does_not_wait_for_a_relay_that_fails(
    database: BaseDBAsyncClient,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    away: str,
) -> None:
    monkeypatch.setattr(watch, "FIRST_CLAIM_LIMIT", 2 * PATIENCE)
    if away == "store":
        own_redis.stop()
    async with asyncio.timeout(PATIENCE):
        async with ModelCache(own_redis.url, relay=True):
            assert caplog.text.count("no relay lives") == 1
    own_redis.cont()


@on_postgres
@on_redis
async def test_a_change_is_seen_by_every_tenant(
    database: BaseDBAsyncClient, backend: CountingBackend, db_url: DatabaseUrl, capture: TriggerCapture
) -> None:
    tenant: ContextVar[int | None] = ContextVar("tenant", default=None)
    async with ModelCache(backend, tenant=tenant.get, **capture.settings) as cache, other_program(db_url) as run:
        await capture.install_for(database, cache)
        async with relaying(cache) as drain:
            await drain.drain()
            await believe(cache)
            await Author.create(id=1, name="kim")
            await drain.drain()
            for number in (1, 2):
                tenant.set(number)
                assert (await Author.cache.get(id=1)).name == "kim"
            tenant.set(None)
            await run("UPDATE author SET name = 'new' WHERE id = 1")
            await drain.drain()
            for number in (1, 2):
                tenant.set(number)
                assert (await Author.cache.get(id=1)).name == "new"


@on_postgres
@on_redis
async def test_rows_stay_marked_while_replicas_may_lag(
    database: BaseDBAsyncClient, backend: CountingBackend, db_url: DatabaseUrl, capture: TriggerCapture
) -> None:
    async with ModelCache(backend, replica_lag=600, **capture.settings) as cache, other_program(db_url) as run:
        await capture.install_for(database, cache)
        async with relaying(cache) as drain:
            await drain.drain()
            await believe(cache)
            await run("INSERT INTO author (id, name) VALUES (1, 'kim')")
            await drain.drain()
            rows = cache.open_cache.models[Author].rows
            [entry] = await backend.read([rows.key(1)])
            assert entry is not None
            assert entry[:1] == b"W"
            [left] = await backend.backend.remaining([rows.key(1)])  # type: ignore[attr-defined]
            assert 590_000 < left <= 600_000


@on_redis
@pytest.mark.only_on("sqlite", because="the databases differ by name alone")
async def test_each_database_is_drained_and_claimed_by_itself(
    backend: CountingBackend, db_url: DatabaseUrl, other_url: DatabaseUrl, capture: TriggerCapture
) -> None:
    config = {
        "connections": {"here": str(db_url), "there": str(other_url)},
        "apps": {
            "app": {"models": ["tests.support.models.relayed_models"], "default_connection": "here"},
            "afar": {"models": ["tests.support.models.relayed_afar_models"], "default_connection": "there"},
        },
    }
    async with TortoiseContext() as context:
        await context.init(config=config)
        await context.generate_schemas()
        await Author.create(id=1, name="kim")
        await Distance.create(id=1, size=1)
        async with ModelCache(backend, **capture.settings) as cache:
            for name, tables in captured_tables(cache.open_cache).items():
                await install(context.connections.get(name), tables)
            relay = Relay(cache)
            assert [status.connection for status in relay.statuses] == ["here", "there"]
            await relay.drain()
            await believe(cache)
            for _ in range(2):
                assert (await Author.cache.get(id=1)).name == "kim"
                assert (await Distance.cache.get(id=1)).size == 1
            async with other_program(db_url) as here, other_program(other_url) as there:
                await here("UPDATE author SET name = 'new'")
                await there("UPDATE distance SET size = 2")
                assert (await Author.cache.get(id=1)).name == "kim"
                await there("DROP TABLE aiomodelcache_coverage")
                with pytest.raises(RelayError, match=r"^there: no triggers are installed"):
                    await relay.drain()
            assert [status.lines for status in relay.statuses] == [1, 0]
            assert (await Author.cache.get(id=1)).name == "new"
            assert (await Distance.cache.get(id=1)).size == 1, "its claim still lives"
            health = await relay.health()
            assert health["ok"]
