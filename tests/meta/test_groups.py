"""Exhaustive tests run after all others, have a reason, and are counted apart."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.groups import Groups

ROOT = Path(__file__).parents[2]
MODULES = {
    "a": "@pytest.mark.exhaustive(because='a reason')\ndef test_a(): ...\n",
    "b": "def test_b(): assert False\n",
    "c": "pytestmark = pytest.mark.exhaustive(because='another reason')\ndef test_c(): assert False\n",
    "d": "def test_d(): ...\n",
}
"""Sources of test modules by their names."""


def run_pytest(folder: Path, modules: dict[str, str], *options: str) -> str:
    """Returns what pytest prints about ``modules``."""
    for name, source in modules.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n{source}")
    always = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    command = [sys.executable, "-m", "pytest", *always, *options, folder]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


@pytest.mark.slow(because="runs pytest in processes of its own")
@pytest.mark.parametrize("workers", [[], ["-n", "1", "--dist", "loadfile", "--no-loadscope-reorder"]])
def test_exhaustive_tests_are_last(workers: list[str], tmp_path: Path) -> None:
    told = run_pytest(tmp_path, MODULES, "-v", "--durations=10", *workers)
    course, end = told.split("= slowest", 1)
    finished = re.findall(r"test_(\w)\.py::test_\w (?:PASSED|FAILED)|(?:PASSED|FAILED) \S*test_(\w)\.py::", course)
    assert ["".join(names) for names in finished] == ["b", "d", "a", "c"]
    assert re.search(r"Tests: 2 in \d+ s; then exhaustive ones: 2 in \d+ s", end)
    assert re.findall(r"^FAILED \S*::(\w+)", end, re.MULTILINE) == ["test_b", "test_c"]


@pytest.mark.slow(because="runs pytest in a process of its own")
def test_an_exhaustive_test_has_a_reason(tmp_path: Path) -> None:
    told = run_pytest(tmp_path, {"a": "@pytest.mark.exhaustive\ndef test_a(): ...\n"}, "--collect-only")
    assert "test_a.py::test_a: exhaustive needs a reason" in told


def test_a_test_is_counted_once() -> None:
    groups = Groups()
    for when, start in (("setup", 1.0), ("call", 2.0), ("teardown", 4.0)):
        groups.pytest_runtest_logreport(
            pytest.TestReport("test", ("", 0, ""), {}, "passed", None, when, start=start, stop=start + 1)  # type: ignore[arg-type]
        )
    assert str(groups.others) == "1 in 4 s"
