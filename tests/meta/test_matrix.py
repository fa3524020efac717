"""Every test with a database runs on all databases and stores that its marks leave, or gives a reason."""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.matrix import needed_by, pairs, parse_on, runs_on, tried, wants_every_pair
from tests.support.warm import run_pytest

TESTS = Path(__file__).parents[1]
ON_THEIR_OWN = {
    "test_advise.py": "statistics of PostgreSQL, an extension of which its server may lack",
    "test_architecture.py": "a program that shows that nothing is patched",
    "test_benchmarks.py": "benchmarks, which start servers of their own",
    "test_binding.py": "errors in declarations, which are found before anything is asked",
    "test_compose.py": "the service of a Compose file, which is a process of its own on PostgreSQL and Redis",
    "test_decoded.py": "memory that rows take, which the database plays no part in",
    "test_divided_tenants.py": "tenants, each of which has a connection of its own to one file",
    "test_doctor.py": "the command line, a process of its own on a server that has a fault",
    "test_frameworks.py": "frameworks, one of which may not be installable on a Python",
    "test_matrix.py": "this module",
    "test_near_cluster.py": "a rule for one subcommand, which servers have since Redis 7",
    "test_publication.py": "the command line, a process of its own on PostgreSQL",
    "test_plans.py": "models that are never looked up",
    "test_releases.py": "the example, which is a process of its own on PostgreSQL and Redis",
    "test_redis_cluster_hosts.py": "settings of a Cluster that Redis has since version 7",
    "test_redis_tls.py": "a server of Redis that was built without TLS",
    "test_restores.py": "servers and copies that take the place of others",
    "test_response_keys.py": "many examples of one test, which share a database",
    "test_servers.py": "the servers themselves",
    "test_shared_tables.py": "connections to one database and to several; the skip is about Tortoise, not a database",
    "test_starlette.py": "applications that open Tortoise themselves",
    "test_soak.py": "several processes on one database and one store, for as long as that takes",
    "test_cluster_soak.py": "as test_soak.py",
    "test_terminals.py": "a terminal multiplexer, which a machine may lack",
    "test_triggers.py": "the command line, a process of its own on MariaDB; those of relays use all databases",
    "test_tutorial.py": "the tutorial's service, which is a process of its own on PostgreSQL and Redis",
    "test_workers.py": "workers, which open Tortoise themselves",
}
"""Modules that name databases or servers themselves, with the reason."""
DATABASES = ("sqlite://", "asyncpg://", "mysql://", "postgres_server", "mariadb_server")
SKIPS = {"skip", "skipif"}
DIALECTS = re.compile("dialect|sqlite|asyncpg|postgres|mysql|mariadb", re.IGNORECASE)
OF_DIALECTS = {
    "cli.advise",  # reads statistics that PostgreSQL alone has
    "cli.model_faults",  # proposes a statement that PostgreSQL or SQLite accepts
    "cli.relay",
    "cli.triggers",
    "contrib.opentelemetry",  # names the database in spans
    "contrib.sentry",
    "engine.derivation",
    "engine.observing",
    "inspection.replication",  # examines PostgreSQL's slots
    "observe.events",
    "orm.catalogue",
    "orm.fields",
    "orm.key_values",
    "orm.keyset",
    "orm.outcomes",
    "orm.samples",
    "orm.remembered",
    "orm.schema",
    "orm.snapshots",
    "orm.sql_tables",
    "orm.statements",
    "orm.stored_values",
    "orm.tables",
    "orm.transactions",
    "orm.unchanged_rows",
    "query.lists",
    "query.parts",
    "relay.mysql_lines",
    "relay.postgres_lines",
    "relay.source",
    "relay.sqlite_lines",
    "relay.stream.identity",  # logical decoding is PostgreSQL's
    "relay.stream.lines",
    "relay.stream.publication",
    "relay.stream.replication",
    "relay.stream.rows",
    "relay.stream.slot",
    "relay.triggers.definitions",
    "relay.triggers.installation",
    "relay.triggers.mysql",
    "relay.triggers.postgres",
    "relay.triggers.sqlite",
    "testing.counting",
    "views",
    "write.gated",
    "write.transactions",
}
"""The modules of the library whose code depends on the database. Tests of these run on every database; a reason for
running on SQLite alone holds as long as its subject is elsewhere."""


def ways_around(source: str) -> Iterator[str]:
    """Yields code of a module that leaves out a database or a store without ``only_on``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SKIPS:
            yield ast.unparse(node.func)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in ("db_url", "backend_url"):
            yield f"a {node.name} of its own"
        elif isinstance(node, ast.arg) and node.arg in DATABASES:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(DATABASES):
            yield node.value


@pytest.mark.slow(because="reads every test")
def test_only_only_on_leaves_out_databases_and_stores() -> None:
    found = {path.name: list(ways_around(path.read_text("utf-8"))) for path in TESTS.rglob("test_*.py")}
    assert {name: ways for name, ways in found.items() if ways and name not in ON_THEIR_OWN} == {}
    source = """
@pytest.mark.skipif(True)
def test_one(postgres_server):
    pytest.skip("sqlite://")
def db_url(): ...
"""
    assert len(list(ways_around(source))) == 5


def names_in(source: str) -> Iterator[str]:
    """The names and the strings in a module's code, without docstrings."""
    for node in ast.walk(ast.parse(source)):
        body = node.body if isinstance(getattr(node, "body", None), list) else []  # type: ignore[attr-defined]
        for each in body:
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                each.value.value = None
        for value in vars(node).values():
            if isinstance(value, str):
                yield value


@pytest.mark.slow(because="reads every module of the library")
def test_few_modules_of_the_library_depend_on_the_database() -> None:
    package = TESTS.parent / "aiomodelcache"
    found = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if any(map(DIALECTS.search, names_in(path.read_text("utf-8"))))
    }
    assert found == OF_DIALECTS


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
def test_a_test_runs_on_all_combinations_that_its_marks_allow(
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
def test_a_mark_without_a_reason_or_a_known_name_is_refused(marks: list[pytest.Mark], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs_on({"db_url"}, marks)


@pytest.mark.parametrize(
    ("databases", "stores", "expected"),
    [
        (ALL["db_url"], ALL["backend_url"], {"sqlite memory", "postgres redis", "mariadb redis"}),
        (ALL["db_url"], ["memory"], {"sqlite memory", "postgres memory", "mariadb memory"}),
        (["postgres", "mariadb"], ["memory", "redis"], {"postgres memory", "mariadb redis"}),
        (["sqlite"], ["memory", "redis"], {"sqlite memory", "sqlite redis"}),
        (["mariadb"], ["redis"], {"mariadb redis"}),
    ],
)
def test_each_database_and_each_store_is_tried(databases: list[str], stores: list[str], expected: set[str]) -> None:
    found = pairs(databases, stores)
    assert {" ".join(pair) for pair in found} == expected
    assert len(found) == max(len(databases), len(stores))
    assert {database for database, _ in found} == set(databases)
    assert {store for _, store in found} == set(stores)
    assert len(set(pairs(databases, stores, every=True))) == len(databases) * len(stores)


def test_the_name_of_a_test_decides_on_which_two_pairs_it_is_tried() -> None:
    ordinary = pairs(ALL["db_url"], ALL["backend_url"])
    found = [tuple(tried(ordinary, f"test_{number}")) for number in range(100)]
    assert Counter(found).keys() == {(ordinary[0], ordinary[1]), (ordinary[0], ordinary[2])}
    assert all(count > 30 for count in Counter(found).values())
    both = pairs(["sqlite"], ALL["backend_url"])
    assert {tuple(tried(both, f"test_{number}")) for number in range(100)} == {(both[0],), (both[1],)}
    assert tried(ordinary[1:2], "test") == ordinary[1:2]


def test_every_pair_has_a_reason() -> None:
    assert not wants_every_pair([])
    assert wants_every_pair([pytest.mark.every_pair(because="a reason").mark])
    for mark in (pytest.mark.every_pair, pytest.mark.every_pair(because="reason")):
        with pytest.raises(ValueError, match=r"every_pair.* needs a reason"):
            wants_every_pair([mark.mark])


def test_marks_that_exclude_everything_are_refused() -> None:
    for store in ("no store", "redis"):
        marks = [only_on("memory", "no store", because="a reason"), only_on(store, because="another reason")]
        with pytest.raises(ValueError, match="leave nothing"):
            runs_on(BOTH, marks)


MODULES = {
    "everything": ("models()", "db_url, backend_url"),
    "every_pair": ("every_pair(because='a reason')", "db_url, backend_url"),
    "a_store": ("only_on('redis', because='a reason')", "database"),
    "no_reason": ("only_on('redis')", "cache"),
    "nothing_said": ("models()", "database"),
    "another_way": ("parametrize('db_url', ['sqlite'], indirect=True)", "cache"),
}


def collect(folder: Path, modules: dict[str, tuple[str, str]], *options: str, effort: str = "") -> str:
    """Returns the output of pytest that collects one test for each mark and its arguments."""
    for name, (mark, arguments) in modules.items():
        source = f"import pytest\n@pytest.mark.{mark}\ndef test_it({arguments}): ...\n"
        (folder / f"test_{name}.py").write_text(source)
    return run_pytest("-qq", "--collect-only", *options, folder, AIOMODELCACHE_EFFORT=effort)


@pytest.mark.slow(because="runs pytest in processes of its own")
@pytest.mark.parametrize(("effort", "pairs", "every"), [("", 2, 3), ("full", 3, 6)])
def test_pytest_collects_by_the_marks(effort: str, pairs: int, every: int, tmp_path: Path) -> None:
    output = collect(tmp_path, MODULES, effort=effort)
    for line in (
        f"test_everything.py: {pairs}\n",
        f"test_every_pair.py: {every}\n",
        "test_a_store.py: 3\n",
        "test_no_reason.py::test_it: only_on('redis',) needs a reason",
        "test_nothing_said.py::test_it: it has a database",
        "duplicate parametrization of 'db_url'",
    ):
        assert line in output


# --on ---------------------------------------------------------------------------------------------------------

SELECTABLE = {
    "everything": ("models()", "db_url, backend_url"),
    "a_store": ("only_on('redis', because='a reason')", "cache"),
    "a_database": ("only_on('mariadb', because='a reason')", "cache"),
    "own_server": ("models()", "own_redis"),
    "pure": ("models()", "tmp_path"),
}


@pytest.mark.slow(because="runs pytest in processes of its own")
@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("sqlite,memory", {"everything": 1, "pure": 1}),
        ("redis, memory , sqlite", {"everything": 2, "a_store": 1, "own_server": 1, "pure": 1}),
        ("mariadb,redis", {"everything": 1, "a_store": 1, "a_database": 1, "own_server": 1, "pure": 1}),
        ("mariadb,memory", {"everything": 1, "a_database": 1, "pure": 1}),
        ("redis", {"own_server": 1, "pure": 1}),
    ],
)
def test_on_selects_tests_that_need_only_the_named_stores(on: str, expected: dict[str, int], tmp_path: Path) -> None:
    output = collect(tmp_path, SELECTABLE, "--on", on)
    found = {name: int(count) for name, count in re.findall(r"test_(\w+)\.py: (\d+)$", output, re.MULTILINE)}
    assert found == expected


def test_on_accepts_only_names_of_databases_and_stores() -> None:
    assert parse_on("sqlite, memory") == {"sqlite", "memory"}
    for wrong in ("", "oracle", "sqlite,no store"):
        with pytest.raises(argparse.ArgumentTypeError, match="name some of mariadb, memory, postgres, redis, sqlite"):
            parse_on(wrong)


def test_a_server_fixture_counts_as_a_needed_store() -> None:
    assert needed_by(["own_redis", "db_url"], {"db_url": "sqlite"}) == {"redis", "sqlite"}
    assert needed_by(["postgres_server"], {"number": 3}) == {"postgres"}


def test_every_slow_mark_has_a_reason() -> None:
    for path in TESTS.rglob("*.py"):
        for found in re.findall(r"mark\.slow\b.*", path.read_text("utf-8")):
            assert re.match(r'mark\.slow\(because="\w+ [^"]+"\)|mark\.slow\\b', found), f"{path}: {found}"
