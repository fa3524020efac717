"""Every block of Python in docs/ runs, and its comments about round trips and SQL are true."""

import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.contrib.pydantic import creator

import aiomodelcache
from aiomodelcache import CacheConfig, Explanation, ModelCache
from aiomodelcache.observe.stats import Counters, Stats
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.pages import DOCS, Program, blocks, program

GUIDE = DOCS / "guide"
DECLARE = GUIDE / "declare.md"
"""The page with the models and rows that all pages use."""
REDIS = '"redis://localhost:6379/0"'
DATABASE = '"postgres://localhost/app"'
ELSEWHERE = {
    "index.md": "tests/docs/test_readme.py",
    "testing.md": "tests/testing/test_guide.py",
    "tutorial.md": "tests/docs/test_tutorial.py",
}
"""Pages whose code another test runs."""
OWN_CACHE = {"app.md", "tenants.md"}
"""Pages that open their cache themselves."""
SERVED = DOCS / "frameworks"
"""The folder of the pages whose code tests/contrib/test_frameworks.py runs."""
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if program(page) and page.name not in ELSEWHERE and SERVED not in page.parents
)


@pytest.fixture
def running(request: pytest.FixtureRequest, db_url: DatabaseUrl, backend_url: str) -> Iterator[Program]:
    """The program of a page, with its modules. The modules that all pages use come first."""
    page: Path = request.param
    EXECUTOR_CACHE.clear()  # Tortoise caches SQL by connection and table, and other tests have a User
    running = Program(page, {REDIS: repr(backend_url), DATABASE: repr(str(db_url))})
    before, levels = set(sys.modules), logger_levels()
    for block in [*program(DECLARE), *(program(page) if page != DECLARE else [])]:
        if block.module:
            running.load(block)
    yield running
    for name in logger_levels():
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None:
            vars(sys.modules.pop(name)).clear()  # typing remembers classes, whose methods refer to the module
    running.forget()
    EXECUTOR_CACHE.clear()
    creator._MODEL_INDEX.clear()  # Tortoise keeps schemas by the names of models


def logger_levels() -> dict[str, int]:
    """Returns the levels of all loggers by name."""
    names = list(logging.root.manager.loggerDict)
    return {name: logging.getLogger(name).level for name in names}


def on_pages(*names: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if page.name in names] or [page for page in PAGES if page.name not in OWN_CACHE]
    return pytest.mark.parametrize("running", pages, ids=lambda page: page.stem, indirect=True)


on_one_database = pytest.mark.only_on("sqlite", because="what differs by database has its own tests")


@pytest.mark.slow(because="runs the code of every page")
@on_one_database
@on_pages()
async def test_the_code_runs_and_its_comments_are_true(running: Program, db_url: DatabaseUrl, backend_url: str) -> None:
    async with tortoise_on(DatabaseUrl(db_url, f"docs {db_url.dialect}"), "events"):
        await sys.modules["rows"].create_rows()
        async with ModelCache(backend_url) as running.names["cache"]:
            await running.run()


@pytest.mark.slow(because="runs the code of every page")
@on_one_database
@on_pages("app.md")
async def test_the_application_runs_and_answers(running: Program, db_url: DatabaseUrl) -> None:
    async with tortoise_on(DatabaseUrl(db_url, "default"), "events"):
        await sys.modules["rows"].create_rows()
    await running.run()
    for name in ("web", "api"):
        module = sys.modules[name]
        async with module.lifespan(module.app):
            assert await answer(module.app, "/events/pycon") == (200, {"title": "PyCon", "organizer": "kim"})
            assert (await answer(module.app, "/events/nope"))[0] == 404


@pytest.mark.slow(because="runs the code of a page")
@on_one_database
@on_pages("tenants.md")
async def test_the_tenants_get_their_own_rows(running: Program, db_url: DatabaseUrl, backend_url: str) -> None:
    async with tortoise_on(DatabaseUrl(db_url, f"docs {db_url.dialect}"), "notes"):
        await running.run()
    assert running.names["texts"]


async def answer(app: Any, path: str) -> tuple[int, Any]:
    """Returns the status and the body of an application's answer to a GET. A body that is no JSON is None."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body) if body.startswith(b"{") else None


@pytest.mark.slow(because="runs the code of every page")
@on_one_database
@on_pages("migration.md")
async def test_the_calls_in_the_migration_tables_run(running: Program, db_url: DatabaseUrl, backend_url: str) -> None:
    cells = re.findall(r"^\|[^|\n]*\|([^|\n]*)\|$", running.page.read_text("utf-8"), re.MULTILINE)
    calls = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell) if re.search(r"[(=]", code)]
    assert len(calls) > 30
    async with tortoise_on(DatabaseUrl(db_url, f"docs {db_url.dialect}"), "events"):
        await sys.modules["rows"].create_rows()
        async with ModelCache(backend_url) as running.names["cache"]:
            await running.run()
            for call in calls:
                await running.run_call(call)


def test_the_guide_to_cached_functions_begins_with_twelve_lines() -> None:
    page = GUIDE / "cache-anything.md"
    first = blocks(page)[0]
    assert first.module == "front"
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 12
    assert "takes twelve lines" in page.read_text("utf-8")


def test_every_block_has_a_known_language() -> None:
    for page in DOCS.rglob("*.md"):
        for block in blocks(page):
            known = {"python", "sh", "ini", "yaml", "dockerfile", "text", "mermaid", "{toctree}", "{eval-rst}"}
            assert block.language in known, f"{page.name}:{block.line}: {block.language}"
        assert page.read_text("utf-8").count("\n```") == 2 * len(blocks(page)), page.name


def test_every_block_that_is_not_run_has_a_reason() -> None:
    reasons = {block.reason for page in DOCS.rglob("*.md") for block in blocks(page) if block.reason}
    assert all(re.fullmatch(r"[\w .,'-]{4,}", reason) for reason in reasons)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("declare.md", "lifetime of entries; the default is {config.timeout:g} seconds"),
        ("declare.md", 'the entry "there is no such row"; the default is {config.negative_timeout:g} seconds'),
        ("app.md", "`socket_timeout` ({config.socket_timeout:g} s)"),
        ("app.md", "`breaker_cooldown` ({config.breaker_cooldown:g} s)"),
        ("app.md", "`load_wait` ({config.load_wait:g} s)"),
        ("deploy.md", "within `socket_timeout` ({config.socket_timeout:g} s)"),
        ("troubleshooting.md", "`load_wait` ({config.load_wait:g} s)"),
    ],
)
def test_the_guide_states_the_defaults_of_the_settings(page: str, said: str) -> None:
    text = " ".join((GUIDE / page).read_text("utf-8").split())
    assert said.format(config=CacheConfig()) in text


@pytest.mark.parametrize("page", ["guide/deploy.md", "scale.md"])
def test_tables_of_settings_state_the_defaults(page: str) -> None:
    table = re.search(r"^\| setting \| default \|.*\n(?:\|.*\n)+", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    assert table is not None
    for name, said in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table[0], re.MULTILINE):
        default = getattr(CacheConfig(), name)
        ways = [f"`{default!r}`".replace("'", '"')]
        if isinstance(default, int | float):
            ways += [f"{default:,g}", f"{default:g} s", f"{default:,}", f"{default / 1024**3:g} GiB"]
        assert said in ways, name


def test_the_errors_that_applications_meet_are_listed() -> None:
    page = (GUIDE / "app.md").read_text("utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    public = {name: value for name, value in vars(aiomodelcache).items() if name in aiomodelcache.__all__}
    errors = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, Exception)}
    assert listed == errors - {"CacheError"}


def test_the_log_lines_of_the_page_are_logged() -> None:
    page = (GUIDE / "troubleshooting.md").read_text("utf-8").partition("\n## Log lines\n")[2]
    lines = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)[2:]
    assert len(lines) > 10
    constants = [
        node.value
        for path in Path(aiomodelcache.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for line in lines:
        for part in re.split("…|, (?:because )?", line):
            assert any(part.strip() in constant for constant in constants), line


def test_every_reason_to_query_the_database_has_a_remedy() -> None:
    page = (GUIDE / "troubleshooting.md").read_text("utf-8")
    reasons = {value for part in get_args(get_type_hints(Explanation)["reason"]) for value in get_args(part) or [part]}
    documented = set(re.findall(r"^\| `([a-z ]+)` \|", page, re.MULTILINE))
    assert documented - {"reason"} == reasons - {"hit", "negative", "stale", "scope"}


def test_every_documented_count_exists() -> None:
    page = (GUIDE / "metrics.md").read_text("utf-8")
    counts = {field.name for part in (Stats, Counters) for field in fields(part)}
    cells = re.findall(r"^\| (`\w+`.*?) \|", page, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert len(documented) > 5
    assert documented <= counts
