"""Every test that has a database runs on all of them and on every store, or says why not."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.matrix import runs_on

TESTS = Path(__file__).parents[1]
ON_THEIR_OWN = {
    "test_architecture.py": "a program that shows that nothing is patched",
    "test_binding.py": "errors in declarations, which are found before anything is asked",
    "test_matrix.py": "this module",
    "test_plans.py": "models that are never looked up",
    "test_releases.py": "the example, which is a process of its own on PostgreSQL and Redis",
    "test_servers.py": "the servers themselves",
    "test_soak.py": "several processes on one database and one store, for as long as that takes",
}
"""The modules that name databases or servers themselves, with what for."""
DATABASES = ("sqlite://", "asyncpg://", "mysql://", "postgres_server", "mariadb_server")
SKIPS = {"skip", "skipif"}


def ways_around(source: str) -> Iterator[str]:
    """What a module does to leave out a database or a store without ``only_on``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SKIPS:
            yield ast.unparse(node.func)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in ("db_url", "backend_url"):
            yield f"a {node.name} of its own"
        elif isinstance(node, ast.arg) and node.arg in DATABASES:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(DATABASES):
            yield node.value


def test_nothing_is_left_out_in_another_way() -> None:
    found = {path.name: list(ways_around(path.read_text("utf-8"))) for path in TESTS.rglob("test_*.py")}
    assert {name: ways for name, ways in found.items() if ways and name not in ON_THEIR_OWN} == {}
    source = """
@pytest.mark.skipif(True)
def test_one(postgres_server):
    pytest.skip("sqlite://")
def db_url(): ...
"""
    assert len(list(ways_around(source))) == 5


def only_on(*names: str, **reason: object) -> pytest.Mark:
    return pytest.mark.only_on(*names, **reason).mark


BOTH = {"db_url", "backend_url"}
ALL = {"db_url": ["sqlite", "postgres", "mariadb"], "backend_url": ["memory", "redis"]}


@pytest.mark.parametrize(
    ("fixtures", "marks", "expected"),
    [
        (BOTH, [], ALL),
        ({"backend_url"}, [], {"backend_url": ["memory", "redis"]}),
        ({"other"}, [], {}),
        (BOTH, [only_on("redis", because="a reason")], ALL | {"backend_url": ["redis"]}),
        (BOTH, [only_on("mariadb", "sqlite", because="a reason")], ALL | {"db_url": ["sqlite", "mariadb"]}),
        ({"db_url"}, [only_on("redis", because="a reason")], {"db_url": ALL["db_url"]}),
        ({"db_url"}, [only_on("no store", because="a reason")], {"db_url": ALL["db_url"]}),
        (
            BOTH,
            [only_on("postgres", because="a reason"), only_on("memory", because="a reason")],
            {"db_url": ["postgres"], "backend_url": ["memory"]},
        ),
    ],
)
def test_a_test_runs_on_everything_that_its_marks_leave(
    fixtures: set[str], marks: list[pytest.Mark], expected: dict[str, list[str]]
) -> None:
    assert runs_on(fixtures, marks) == expected


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([], "take its store from backend_url, backend or cache, or use only_on"),
        ([only_on("sqlite", because="a reason")], "take its store from"),
        ([only_on("redis")], "needs a reason"),
        ([only_on("redis", because="")], "needs a reason"),
        ([only_on("redis", because="redis")], "needs a reason"),
        ([only_on("redis", reason="a reason")], "needs a reason"),
        ([only_on(because="a reason")], "name some of"),
        ([only_on("oracle", because="a reason")], "name some of"),
        ([only_on("sqlite", "redis", because="a reason")], "name some of"),
    ],
)
def test_a_restriction_has_a_reason(marks: list[pytest.Mark], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs_on({"db_url"}, marks)


def test_marks_leave_something() -> None:
    for store in ("no store", "redis"):
        marks = [only_on("memory", "no store", because="a reason"), only_on(store, because="another reason")]
        with pytest.raises(ValueError, match="leave nothing"):
            runs_on(BOTH, marks)


MODULES = {
    "everything": ("models()", "db_url, backend_url"),
    "a_store": ("only_on('redis', because='a reason')", "database"),
    "no_reason": ("only_on('redis')", "cache"),
    "nothing_said": ("models()", "database"),
    "another_way": ("parametrize('db_url', ['sqlite'], indirect=True)", "cache"),
}


@pytest.mark.slow(because="runs pytest in a process of its own")
def test_pytest_keeps_to_it(tmp_path: Path) -> None:
    for name, (mark, arguments) in MODULES.items():
        source = f"import pytest\n@pytest.mark.{mark}\ndef test_it({arguments}): ...\n"
        (tmp_path / f"test_{name}.py").write_text(source)
    options = ["-qq", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--collect-only"]
    command = [sys.executable, "-m", "pytest", *options, tmp_path]
    run = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    for told in (
        "test_everything.py: 6\n",
        "test_a_store.py: 3\n",
        "test_no_reason.py::test_it: only_on('redis',) needs a reason",
        "test_nothing_said.py::test_it: it has a database",
        "duplicate parametrization of 'db_url'",
    ):
        assert told in run.stdout
