"""``aiomodelcache advise`` reads real logs and the real ``pg_stat_statements``, and proposes keys."""

import asyncio
import dataclasses
import json
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache, writes_without_cache
from aiomodelcache.cli.statements import observed_in_log, parsed
from tests.conftest import run
from tests.support.application import MODULE, Application
from tests.support.models.shop_models import Latest, Listing, Mark, Seller
from tests.support.servers import PostgresServer


@contextmanager
def logged(path: Path, form: str) -> Generator[None]:
    """Writes Tortoise's statements into a file."""
    logger, handler = logging.getLogger("tortoise.db_client"), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(form))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


async def serve(*, requests: int = 30) -> None:
    """Sends what an application without a cache would send: reads by several keys, few writes, and other statements."""
    with writes_without_cache():
        kim = await Seller.create(name="kim")
        for number in range(3):
            await Listing.create(slug=f"secret-{number}", title=f"t{number}", seller=kim)
        await Mark.create(name="a")
        for number in range(requests):
            await Listing.get(title=f"t{number % 3}", seller=kim)
            await Listing.filter(title=f"t{number % 2}", public=True).order_by("-id")
            await Listing.filter(slug=f"secret-{number % 3}").count()
            await Mark.get_or_none(name="a")
            await Mark.filter(name="a").update(name="a")
            await Listing.filter(title="a").select_related("seller")
            await Listing.filter(id__gt=number)
        await Listing.filter(other=None)
        await Listing.filter(title="z")


async def with_tortoise(database: str) -> None:
    config = {"connections": {"default": database}, "apps": {"app": {"models": [MODULE]}}}
    async with TortoiseContext() as context:
        await context.init(config=config)
        await serve()


@pytest.fixture
def log(application: Application, tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    with logged(path, "%(asctime)s %(levelname)s %(name)s %(message)s"):
        asyncio.run(with_tortoise(application.database))
    return path


def keys(data: list[dict[str, Any]]) -> dict[tuple[str, str, tuple[str, ...]], tuple[int, int]]:
    return {
        (each["model"], each["setting"].partition("_")[0], tuple(each["key"])): (each["statements"], each["saved"])
        for each in data
    }


def test_keys_are_proposed_by_a_log_of_tortoise(application: Application, log: Path) -> None:
    ran = application.run("advise", "--log", str(log), "--json", "--url", "redis://127.0.0.1:1")
    data = ran.data
    assert keys(data["declare"]) == {
        ("Listing", "get", ("seller", "title")): (30, 30 - 3 - 3),
        ("Listing", "filter", ("public", "title")): (30, 30 - 2 - 3),
    }
    assert keys(data["declared"]) == {
        ("Listing", "get", ("slug",)): (30, 24),
        ("Listing", "filter", ("other",)): (1, 0),
    }
    refused = {(each["model"], each["reason"]): each["statements"] for each in data["not_proposed"]}
    assert refused == {
        ("Listing", "it joins tables"): 30,
        ("Listing", "it compares otherwise than by equality"): 30,
        ("Listing", "fewer than 10 by one key"): 1,
        ("Mark", "writes and new values would leave less than half to save"): 30,
    }
    assert data["statements"] == 30 * 6 + 2
    assert data["saved"] == 24 + 25
    assert data["remove"] == []
    assert data["paste"] == {
        "Listing": [
            'get_key_fields_list = [("slug",), ("seller", "title")]',
            "filter_key_fields_list = [",
            '    ("seller",),',
            '    ("public",),',
            '    ("other",),',
            '    ("public", "title"),',
            "]",
        ]
    }
    assert "secret" not in ran.out


def test_the_pasted_lists_are_valid(application: Application, log: Path) -> None:
    lines = application.run("advise", "--log", str(log), "--json").data["paste"]["Listing"]
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    assert found["get_key_fields_list"] == [("slug",), ("seller", "title")]
    assert found["filter_key_fields_list"] == [("seller",), ("public",), ("other",), ("public", "title")]


def test_people_read_tables_and_lines_to_paste(application: Application, log: Path) -> None:
    out = application.process("advise", "--log", str(log)).out
    assert '        get_key_fields_list = [("slug",), ("seller", "title")]\n' in out
    assert "ok 49 of 182 statements (27%) would be saved" in out
    assert "get (seller, title)" in application.terminal("advise", "--log", str(log))


def test_a_log_of_json_lines_tells_the_same(application: Application, log: Path, tmp_path: Path) -> None:
    other = tmp_path / "app.json"
    lines = [json.dumps({"level": "debug", "event": line}) for line in log.read_text("utf-8").splitlines()]
    other.write_text("\n".join(["{no json", *lines]), "utf-8")
    plain, of_json = (application.run("advise", "--log", str(path), "--json").data for path in (log, other))
    assert plain == of_json


def test_keys_that_were_never_asked_for_are_to_be_removed(application: Application, tmp_path: Path) -> None:
    async def work(cache: ModelCache) -> dict[str, Any]:
        seller = await Seller.create(id=1, name="kim")
        await Listing.create(id=1, slug="a", seller=seller)
        await Listing.cache.get(slug="a")
        await Listing.cache.filter(seller=1)
        await Latest(1)
        return dataclasses.asdict(cache.stats)

    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps(application.do(work), default=list), "utf-8")
    data = application.run("advise", "--counts", str(counts), "--json").data
    removed = {(each["model"], *each["key"]) for each in data["remove"]}
    assert removed == {("Listing", "public"), ("Listing", "other"), ("Seller", "name")}
    assert data["paste"]["Listing"] == [
        'get_key_fields_list = [("slug",)]',
        'filter_key_fields_list = [("seller",)]',
    ]
    assert data["paste"]["Seller"] == ["get_key_fields_list = []"]
    assert set(data["never_asked_for"]) == {"ListingCount", "Listing.marks"}
    assert "warning Listing.marks was never asked for" in application.process("advise", "--counts", str(counts)).out
    assert {each["marks_saved"] for each in data["remove"]} == {None}  # no statements were given, so no writes

    async def ask_processes(cache: ModelCache) -> tuple[Any, str]:
        await work(cache)
        cache.publish_stats()
        await cache.fleet()
        ran = await asyncio.to_thread(application.process, "advise", "--published", "--json")
        return ran.data, ran.out

    application.do(lambda cache: Listing.filter(id=1).delete())
    application.do(lambda cache: Seller.filter(id=1).delete())
    by_fleet, _ = application.do(ask_processes)
    assert (by_fleet["remove"], by_fleet["never_asked_for"]) == (data["remove"], data["never_asked_for"])
    assert "No process publishes" in application.run("advise", "--published", status=2).err


def test_the_saving_of_a_removal_is_that_of_the_writes(application: Application, log: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"by_cache": {"Listing(slug)": {"hits": 9}}}), "utf-8")
    arguments = ("advise", "--log", str(log), "--counts", str(counts))
    saved = {
        (each["model"], *each["key"]): each["marks_saved"]
        for each in application.run(*arguments, "--json").data["remove"]
    }
    assert (saved["Listing", "public"], saved["Seller", "name"]) == (3, 1)
    text = "Listing: (public) of filter_key_fields_list was never asked for"
    assert f"warning {text}: remove it, so that 3 writes mark one key less" in application.run(*arguments).out


def test_what_cannot_be_read_is_status_2(application: Application, tmp_path: Path) -> None:
    assert "pass --log, --statements, --counts or --published" in application.run("advise", status=2).err
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[1]", "utf-8")
    assert "does not hold the counts" in application.run("advise", "--counts", str(wrong), status=2).err
    wrong.write_text('{"by_cache": {"Listing": {"hits": 0}}}', "utf-8")
    assert "no lookup at all" in application.run("advise", "--counts", str(wrong), status=2).err
    assert "is no PostgreSQL" in application.run("advise", "--statements", "default", status=2).err
    assert "no connection 'none'" in application.run("advise", "--statements", "none", status=2).err


class StatisticsServer(PostgresServer):
    """A PostgreSQL with ``pg_stat_statements``."""

    def _command(self) -> list[str | Path]:
        return [*super()._command(), "-c", "shared_preload_libraries=pg_stat_statements"]


@pytest.fixture(scope="module")
def statistics_server() -> Iterator[PostgresServer]:
    library = PostgresServer.program().parent.parent
    if not [*library.rglob("pg_stat_statements.so"), *library.rglob("pg_stat_statements.dylib")]:
        pytest.skip("this PostgreSQL has no pg_stat_statements")
    yield from run(StatisticsServer())


def test_keys_are_proposed_by_pg_stat_statements(
    application: Application, statistics_server: PostgresServer, tmp_path: Path
) -> None:
    with statistics_server.database(MODULE) as url:
        application.database = url
        application.configure()
        error = application.run("advise", "--statements", "default", status=2).err
        assert "CREATE EXTENSION pg_stat_statements" in error
        log = tmp_path / "postgres.log"
        asyncio.run(_install(url))
        with logged(log, "%(message)s"):
            asyncio.run(with_tortoise(url))
        data = application.run("advise", "--statements", "default", "--json").data
        by_log = application.run("advise", "--log", str(log), "--json").data
    found = keys(data["declare"])
    assert found["Listing", "filter", ("public", "title")] == (30, 30 - 1 - 3)
    assert found["Listing", "filter", ("seller", "title")] == (30, 30 - 1 - 3)  # the LIMIT of get() is not told
    assert keys(by_log["declare"])["Listing", "get", ("seller", "title")] == (30, 30 - 3 - 3)
    for each in data["declare"]:
        assert each["saved_is_a_bound"]
        assert 0 < each["saved_seconds"] < 10


async def _install(url: str) -> None:
    async with TortoiseContext() as context:
        await context.init(db_url=url, modules={"app": [MODULE]})
        await context.connections.get("default").execute_script("CREATE EXTENSION pg_stat_statements")


@pytest.mark.parametrize(
    ("sql", "columns", "reason"),
    [
        ("SELECT `id` FROM `event` WHERE `slug`=%s AND `state`=%s LIMIT %s", "slug state", None),
        ('SELECT "id" FROM "main"."event" WHERE "event"."slug"=$1', "slug", None),
        ('SELECT "id" FROM "event" WHERE "slug" IN ($1,$2) AND "public"=TRUE', "slug public", None),
        ('SELECT "id" FROM "event" WHERE "slug"=\'it\'\'s\'', "slug", None),
        ('SELECT "id" FROM "event" WHERE "slug"=? OR "id"=?', "", "it compares otherwise than by equality"),
        ('SELECT "id" FROM "event" WHERE NOT "slug"=?', "", "it compares otherwise than by equality"),
        ('SELECT "id" FROM "event" WHERE "slug"="title"', "", "it compares otherwise than by equality"),
        ('SELECT "id" FROM "event" WHERE "slug"=? FOR UPDATE', "", "it locks rows"),
        ('SELECT SUM("id") FROM "event" WHERE "slug"=?', "", "it computes a value"),
        ('SELECT DISTINCT "id" FROM "event" WHERE "slug"=?', "", "it computes a value"),
        ('SELECT "id" FROM "event" WHERE "slug"=? GROUP BY "id"', "", "it computes a value"),
        ('SELECT "id" FROM "event","user" WHERE "slug"=?', "", "it joins tables"),
        ('SELECT "id" FROM "event" WHERE "id" IN (SELECT "id" FROM "user")', "", "it joins tables"),
        ("SELECT 1", "", "another kind of statement"),
        ("", "", "another kind of statement"),
        ("SELECT FROM", "", "it reads all rows"),
        ('SELECT "id" FROM "event" WHERE', "", "it compares otherwise than by equality"),
        ('SELECT "id" FROM "event" WHERE "slug"=', "", "it compares otherwise than by equality"),
        ('SELECT "id" FROM "event" WHERE "slug" IN (', "", "it compares otherwise than by equality"),
    ],
)
def test_a_statement_is_understood_or_refused(sql: str, columns: str, reason: str | None) -> None:
    statement = parsed(sql)
    assert (set(statement.columns), statement.reason) == (set(columns.split()), reason)


def test_the_values_of_a_limit_are_not_those_of_the_key() -> None:
    statement = """SELECT "id" FROM "event" WHERE "slug"=? LIMIT ?"""
    lines = [f"x DEBUG {statement}: ['a', {limit}]\n" for limit in (1, 2)]
    lines += ["a line of another logger\n", "\n", f"x DEBUG executing partial(<execute>, '{statement}', ['a', 2])\n"]
    first, second = observed_in_log(lines)
    assert (first.limit, second.limit) == (1, 2)
    assert first.values == second.values == "['a']"
