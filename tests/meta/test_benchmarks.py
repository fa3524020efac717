"""The benchmarks run every case once, and compare each contestant's answers with the catalogue."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.asgi.load import Requested, ask_all, load
from benchmarks.asgi.pages import PAGES
from benchmarks.budgets import BUDGETS
from benchmarks.cases import CASES
from benchmarks.compare import compare
from benchmarks.contestants import Near, Own, RawRedis
from benchmarks.other_orms.__main__ import ORMS
from benchmarks.report import PAGES as PAGES_OF_REPORT
from benchmarks.report import ROOT, TABLES, block, updated
from benchmarks.results import Results

pytestmark = [
    pytest.mark.exhaustive(because="runs every case with every contestant"),
    pytest.mark.long(because="these are many, and share the results of one run"),
]

LIMIT = 800.0
"""Seconds that a run may take. Beyond it a test fails. An idle machine needs less than 30."""
MEASURED = [case for case in CASES if case.count < 1_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def results(redis_url: str, folder: Path) -> Results:
    """Results of a benchmark run in its own process, since peers leave warnings behind that are errors here."""
    run = ["benchmarks", "smoke", "--loop", "default", "--database", "sqlite", "--json", str(folder / "run.json")]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert "Stampede: " in done.stdout
    return Results.load(folder / "run.json")


@pytest.fixture(scope="module")
def served(redis_url: str, folder: Path) -> Results:
    """Results of the pages of server processes."""
    shown = ["--loop", "default", "--database", "sqlite", "--rounds", "1", "--seconds", "0", "--concurrency", "5"]
    run = ["benchmarks.asgi", *shown, "--json", str(folder / "pages.json")]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert all(page in done.stdout for page in PAGES)
    return Results.load(folder / "pages.json")


def test_every_case_is_measured(results: Results) -> None:
    [place] = results.places
    assert set(place.seconds) == {case.name for case in MEASURED}
    for case, measured in place.seconds.items():
        assert all(samples and min(samples) > 0 for samples in measured.values()), case
        assert measured.keys() & {Own.name, Near.name}, case


def test_memory_is_measured_in_redis_and_in_the_process(results: Results) -> None:
    memory = results.places[0].memory
    together, by_hand = memory["Redis: together"][Own.name], memory["Redis: together"]["by hand, pickle"]
    assert 400 < together < by_hand / 2
    assert 500 < memory["process: near"][Own.name] < memory["process: kept decoded"][Own.name] < 4_000
    instance = memory["process: an instance that a caller holds"]["Tortoise alone"]
    assert memory["process: local_cache()"][Own.name] > instance


def test_every_budget_has_a_measurement(results: Results) -> None:
    """The smoke run measures neither PostgreSQL nor a thousand concurrent requests."""
    unmeasured = [budget.text for budget in BUDGETS if budget.measure(results.places[0]) is None]
    assert unmeasured == [
        "save() on PostgreSQL / bare save()",
        "requests/s at 1,000 concurrent / at 10",
        "p99 at 1,000 concurrent / at 10",
    ]


def test_the_report_fills_the_blocks_of_the_documentation(results: Results, served: Results) -> None:
    results = replace(results, places=[replace(results.places[0], pages=served.places[0].pages)])
    pages = {page: (ROOT / page).read_text("utf-8") for page in PAGES_OF_REPORT}
    named = [name for text in pages.values() for name in re.findall(r"<!-- bench: (\w+) -->", text)]
    assert sorted(named) == sorted(TABLES)
    for page, text in pages.items():
        filled = updated(text, results)
        assert filled != text
        assert filled.count("<!-- /bench -->") == text.count("<!-- bench: "), page
        assert updated(filled, results) == filled
    [own] = re.findall(r"gains:\*\* ([\d,]+) requests/s", updated(pages["README.md"], results))
    assert f"answered {own} times" in updated(pages["docs/index.md"], results)
    row = rf"^\| four lookups +\| +aiomodelcache \| +{own} \| +[\d.]+ \| +[\d.]+ \| +[\d,]+ \|$"
    assert len(re.findall(row, updated(pages["docs/performance.md"], results), re.MULTILINE)) == 2


def test_the_report_has_the_figures_of_every_event_loop(results: Results, served: Results) -> None:
    [place] = served.places
    pages = [{**record, "per second": 2 * record["per second"]} for record in place.pages]
    both = replace(results, places=[results.places[0], replace(place, loop="uvloop", pages=pages), place])
    *first, last = (block("gain", both) or "").replace(",", "").splitlines()
    rates, faster = ([int(rate) for rate in re.findall(r"\d+", text)] for text in ("".join(first), last))
    assert last.startswith("On uvloop these are ")
    assert faster == pytest.approx([2 * rate for rate in rates], abs=1)
    heads, _, *rows = (block("pages", both) or "").splitlines()
    assert [head.strip() for head in heads.split("|")][3:-1] == [
        f"{loop}: {figure}"
        for loop in ("default", "uvloop")
        for figure in ("requests/s", "p50 ms", "p99 ms", "CPU µs each")
    ]
    assert len(rows) == len(PAGES) * len({record["contestant"] for record in place.pages})


def test_a_run_without_pages_leaves_their_blocks_alone(results: Results) -> None:
    assert {name for name in TABLES if block(name, results) is None} == {"gain", "summary", "served", "pages"}


def test_responses_are_measured_and_compared_with_the_rendered_page() -> None:
    run = ["benchmarks.responses", "--database", "sqlite", "--rounds", "1", "--seconds", "0", "--concurrency", "2"]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 304 |") == 3


@pytest.mark.slow(because="starts a server process for each contestant")
def test_pages_of_server_processes_are_measured(served: Results) -> None:
    """Without the dependencies of the benchmarks, three contestants take part."""
    [place] = served.places
    measured = {(record["page"], record["contestant"]) for record in place.pages}
    own = {"aiomodelcache", "Tortoise alone", "by hand, pickle"}
    assert measured >= {(page, name) for page in PAGES for name in own}
    assert all(record["per second"] > 0 and record["cpu"] > 0 for record in place.pages)


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[int]:
    """Runs a server that answers each request with these parts, one by one. Yields its port."""
    answers: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01)  # so that they arrive apart
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*answers)


async def test_a_response_may_arrive_in_parts() -> None:
    page = Requested.of("/", b"content")
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 7\r\n\r\ncon", b"tent") as port:
        await ask_all(port, [page] * 3, 2)
        figures = await load(port, [page], concurrency=2, seconds=0, seed=1)
    assert figures["requests"] == 2


@pytest.mark.parametrize(
    ("head", "body"), [(b"HTTP/1.1 200 OK", b"another"), (b"HTTP/1.1 500 Internal Server Error", b"content")]
)
async def test_a_wrong_response_ends_the_load(head: bytes, body: bytes) -> None:
    async with answering(head + b"\r\nContent-Length: 7\r\n\r\n" + body) as port:
        with pytest.raises(AssertionError, match="was answered by"):
            await load(port, [Requested.of("/", b"content")], concurrency=2, seconds=0, seed=1)


@pytest.mark.slow(because="starts servers and fills a catalogue")
@pytest.mark.usefixtures("redis_server", "postgres_server")  # without these, the benchmark would find none either
def test_caches_of_other_orms_are_skipped_by_name_if_they_are_missing() -> None:
    run = ["benchmarks.other_orms", "--rounds", "1"]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    for name, (_, needed) in ORMS.items():
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"| {name} ")]
        missing = [each for each in needed if find_spec(each) is None]
        assert len(lines) == (0 if missing else 3)
        assert (f"skipped: {name}: pip install --group other-orms, for {', '.join(missing)}" in done.stderr) == bool(
            missing
        )


def test_misses_are_compared_with_bare_queries() -> None:
    run = ["benchmarks.misses", "--database", "sqlite", "--rounds", "1"]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of the bare query's") == 6


def test_saves_are_compared_with_bare_ones() -> None:
    run = ["benchmarks.saves", "--database", "sqlite", "--loop", "default", "--rounds", "1", "--saves", "2"]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" times; CPU ") == 1


def test_writes_are_measured_without_and_with_triggers() -> None:
    run = ["benchmarks.triggers", "--database", "sqlite", "--rounds", "1", "--rows", "10"]
    done = subprocess.run([sys.executable, "-m", *run], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[0] for line in done.stdout.splitlines() if "of 10 rows" in line] == [
        "| `INSERT` of 10 rows",
        "| `UPDATE` of 10 rows",
        "| `DELETE` of 10 rows",
    ]


def test_two_runs_can_be_compared(results: Results, folder: Path) -> None:
    results.save(folder / "again.json")
    lines = compare(Results.load(folder / "again.json"), results).splitlines()
    assert len(lines) == 1 + len(MEASURED)
    assert all(line.split()[-2:] == ["1.00", "1.00"] for line in lines[1:])


def test_a_wrong_answer_of_a_contestant_is_an_error(results: Results) -> None:
    raw = RawRedis()
    raw.columns = lambda row: {"id": row}  # type: ignore[method-assign]
    with pytest.raises((AssertionError, KeyError)):
        CASES[0].check(raw, 1)
