"""Exhaustive tests run after all others, and long ones first in their group. The coverage of others is measured.

A whole run tries a part of many cases.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from coverage import Coverage

from tests.support.effort import part_of
from tests.support.groups import Groups, scopes_of
from tests.support.measuring import Measuring, measured_ones
from tests.support.warm import run_pytest

MODULES = {
    "a": "@pytest.mark.exhaustive(because='a reason')\ndef test_a(): ...\n",
    "b": "def test_b(): assert False\n",
    "c": (
        "pytestmark = [pytest.mark.exhaustive(because='another reason'), pytest.mark.long(because='a reason')]\n"
        "def test_c(): assert False\n"
    ),
    "d": "def test_d(): ...\n@pytest.mark.long(because='a reason')\ndef test_e(): ...\n",
}
"""Sources of test modules by their names."""


def run_modules(folder: Path, modules: dict[str, str], *options: str) -> str:
    """Returns what pytest prints about ``modules``."""
    for name, source in modules.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n{source}")
    return run_pytest(*options, folder)


@pytest.mark.slow(because="runs pytest in processes of its own")
@pytest.mark.parametrize("workers", [[], ["-n", "1", "--dist", "loadfile", "--no-loadscope-reorder"]])
def test_exhaustive_tests_are_last_and_long_ones_first(workers: list[str], tmp_path: Path) -> None:
    told = run_modules(tmp_path, MODULES, "-v", "--durations=10", *workers)
    course, end = told.split("= slowest", 1)
    finished = re.findall(r"test_(\w)\.py::test_\w (?:PASSED|FAILED)|(?:PASSED|FAILED) \S*test_(\w)\.py::", course)
    assert ["".join(names) for names in finished] == ["d", "d", "b", "c", "a"]
    assert re.search(r"Tests: 3 in \d+ s; then exhaustive ones: 2 in \d+ s", end)
    assert re.findall(r"^FAILED \S*::(\w+)", end, re.MULTILINE) == ["test_b", "test_c"]


@pytest.mark.slow(because="runs pytest in processes of its own")
def test_a_test_that_ends_its_worker_fails_once_and_no_other_is_lost(tmp_path: Path) -> None:
    modules = {"a": "import os\ndef test_a(): ...\ndef test_b(): os._exit(1)\ndef test_c(): ...\n"}
    told = run_modules(tmp_path, modules, "-n", "1", "--dist", "loadfile", "--no-loadscope-reorder")
    assert re.findall(r"^FAILED \S*::(\w+) - worker", told, re.MULTILINE) == ["test_b"]
    assert "1 failed, 2 passed" in told


@pytest.mark.slow(because="runs pytest in a process of its own")
@pytest.mark.parametrize("mark", ["exhaustive", "long"], ids=["last", "first"])
def test_a_mark_has_a_reason(mark: str, tmp_path: Path) -> None:
    told = run_modules(tmp_path, {"a": f"@pytest.mark.{mark}\ndef test_a(): ...\n"}, "--collect-only")
    assert f"test_a.py::test_a: {mark} needs a reason" in told


class Item:
    """A collected test, as far as ``measured_ones`` and ``part_of`` look at it."""

    def __init__(self, nodeid: str, *fixturenames: str, exhaustive: bool = False, **params: object) -> None:
        self.nodeid = nodeid
        self.fixturenames = fixturenames
        self.callspec = SimpleNamespace(params=params)
        self._exhaustive = pytest.mark.exhaustive(because="a reason").mark if exhaustive else None

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._exhaustive


def test_coverage_is_measured_on_the_first_database_and_store_of_a_test() -> None:
    items: list[Any] = [
        Item("a.py::test[1-sqlite-memory]", number=1, db_url="sqlite", backend_url="memory"),
        Item("a.py::test[2-sqlite-memory]", number=2, db_url="sqlite", backend_url="memory"),
        Item("a.py::test[1-postgres-redis]", number=1, db_url="postgres", backend_url="redis"),
        Item("a.py::other[postgres]", db_url="postgres"),
        Item("a.py::other[mariadb]", db_url="mariadb"),
        Item("a.py::everything", exhaustive=True),
        Item("a.py::nothing"),
    ]
    assert measured_ones(items) == {items[at].nodeid for at in (0, 1, 3, 6)}


def test_coverage_is_paused_for_other_tests_only() -> None:
    measuring = Measuring({"a"})
    one, other, running = Item("a"), Item("b"), Coverage.current()
    coverage = Coverage(data_file=None)
    coverage.start()
    try:
        for item, current in ((one, coverage), (other, running), (other, running), (one, coverage)):
            measuring.pytest_runtest_setup(item)  # type: ignore[arg-type]
            assert Coverage.current() is current
    finally:
        coverage.stop()


def test_exhaustive_tests_of_a_file_are_given_to_workers_apart_from_its_others() -> None:
    scopes = scopes_of(["a.py::one[1]", "a.py::one[2]", "b.py::two", "a.py::three[1]", "a.py::three[2]", "a.py::four"])
    assert list(scopes.values()) == ["a.py", "a.py", "b.py", "a.py::three", "a.py::three", "a.py::four"]


def test_a_quarter_of_many_cases_is_tried_and_every_one_of_few() -> None:
    many = [Item(f"a.py::many[{number}-sqlite]", "db_url") for number in range(40)]
    few = [Item(f"a.py::few[{number}-sqlite]", "db_url") for number in range(4)]
    pure = [Item(f"b.py::pure[{number}]") for number in range(40)]
    items: list[Any] = [*many, *few, *pure]
    kept = part_of(items)
    assert len(kept.intersection(many)) == 10
    assert kept.issuperset([*few, *pure])
    assert part_of(items) == kept


def test_each_parameter_is_tried_on_some_database() -> None:
    values = [object() for _ in range(9)]
    items: list[Any] = [
        Item(f"a.py::test[{at}-{name}]", "db_url", db_url=name, value=value)
        for at, value in enumerate(values)
        for name in ("sqlite", "postgres", "mariadb")
    ]
    kept = part_of(items)
    assert len(kept) == 9
    assert {item.callspec.params["value"] for item in items if item in kept} == set(values)


def test_a_quarter_of_the_parameters_of_an_exhaustive_test_is_tried() -> None:
    items: list[Any] = [
        Item(f"a.py::test[{number}-sqlite]", "db_url", exhaustive=True, value=object()) for number in range(40)
    ]
    assert len(part_of(items)) == 10


@pytest.mark.slow(because="runs pytest in processes of its own")
@pytest.mark.parametrize(("options", "collected"), [([], "6 tests collected"), (["--part"], "4/6 tests collected")])
def test_only_a_whole_run_leaves_out_cases(options: list[str], collected: str, tmp_path: Path) -> None:
    marks = "@pytest.mark.parametrize('number', range(2))\n@pytest.mark.every_pair(because='a reason')\n"
    source = f"{marks}def test_a(db_url, backend_url, number): ...\n"
    assert collected in run_modules(tmp_path, {"a": source}, "--collect-only", *options)


def test_a_test_is_counted_once() -> None:
    groups = Groups()
    for when, start in (("setup", 1.0), ("call", 2.0), ("teardown", 4.0)):
        groups.pytest_runtest_logreport(
            pytest.TestReport("test", ("", 0, ""), {}, "passed", None, when, start=start, stop=start + 1)  # type: ignore[arg-type]
        )
    assert str(groups.others) == "1 in 4 s"


def test_properties_have_no_deadline() -> None:
    """On a busy machine, an example may take any time."""
    assert hypothesis.settings().deadline is None
