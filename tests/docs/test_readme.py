"""README.md: its program runs as it stands, its commands and documents exist, its figures are those of docs/."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.databases import DatabaseUrl

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text("utf-8")
SQLITE = '"sqlite://:memory:"'
MEMORY = '"memory://"'


def code(language: str) -> list[str]:
    """Returns the README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``source`` as a program in an empty folder."""
    program = folder / "program.py"
    program.write_text(source, "utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow(because="runs a program in a process of its own")
def test_the_program_runs_as_it_stands(tmp_path: Path) -> None:
    [program], [printed] = code("python"), code("text")
    ran = run(program, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, printed, "")


def test_the_program_shows_two_hits_and_a_save_that_is_seen_at_once() -> None:
    miss, hit, written = re.findall(r"^(computing\n)?(PyCon.*)\n", code("text")[0], re.MULTILINE)
    assert (miss[0], hit[0], written[0]) == ("computing\n", "", "computing\n")
    assert miss[1] == hit[1] != written[1]


def test_the_documentation_begins_with_the_same_program() -> None:
    [program], [printed] = code("python"), code("text")
    shown = f"```python\n{program}```\n\nIt prints:\n\n```text\n{printed}```\n"
    assert shown in README
    assert shown in (ROOT / "docs" / "index.md").read_text("utf-8")


def test_the_program_is_short_enough_to_read() -> None:
    [program] = code("python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 24


@pytest.mark.slow(because="runs a program in a process of its own")
def test_the_program_runs_on_every_database_and_store(tmp_path: Path, db_url: DatabaseUrl, backend_url: str) -> None:
    [program], [printed] = code("python"), code("text")
    assert program.count(SQLITE) == program.count(MEMORY) == 1
    replaced = program.replace(SQLITE, repr(str(db_url))).replace(MEMORY, repr(backend_url))
    ran = run(replaced, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, printed, "")


def test_the_figures_are_those_of_the_performance_page() -> None:
    found = re.search(
        r"gains:\*\* ([\d,]+) requests/s.*?against ([\d,]+) with plain.*?([\d,]+) with a cache", README, re.DOTALL
    )
    assert found is not None
    for contestant, figure in zip(("aiomodelcache", "Tortoise alone", "by hand, pickle"), found.groups(), strict=True):
        rates = re.findall(rf"^\| four lookups +\| +{contestant} \| +([\d,]+) \|", PERFORMANCE, re.MULTILINE)
        assert rates == [figure] * 2, "both tables of pages have it"


def test_every_case_that_loses_to_a_cache_by_hand_is_named() -> None:
    _, heads, *_ = re.split(r"^(\| +\| +aiomodelcache \| +aiomodelcache near.*)$", PERFORMANCE, flags=re.MULTILINE)
    by_hand = [head.strip() for head in heads.split("|")].index("by hand, pickle")
    table = PERFORMANCE.partition(heads)[2].partition("<!-- /bench -->")[0]
    rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines() if row.count("|") > by_hand]
    losing = {row[1]: found[1] for row in rows if (found := re.search(r"\((0\.\d+)\)", row[by_hand]))}
    named = PERFORMANCE.partition("<!-- bench: losses -->")[2].partition("<!-- /bench -->")[0]
    assert losing == dict(re.findall(r"^\| ([^|]+) \| (0\.\d+) \|", named, re.MULTILINE))
    assert losing


@pytest.mark.slow(because="runs a program in a process of its own")
def test_the_benchmark_that_the_readme_names_exists() -> None:
    [command] = [block for block in code("sh") if "bench" in block and "demo" not in block]
    assert command in PERFORMANCE
    [arguments] = re.findall(r'^make bench BENCH="([^"]+)"$', command, re.MULTILINE)
    helped = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert helped.returncode == 0, helped.stderr


def test_the_commands_are_those_of_the_makefile() -> None:
    rules = re.findall(r"^([a-z-]+(?: [a-z]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    commands = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= commands <= targets
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_the_documents_that_the_readme_links_to_exist(link: str) -> None:
    assert (ROOT / link).is_file()
