"""The databases and stores that a test runs on: all of them, unless it gives a reason.

A test that has both a database and a store runs on three of the six pairs: SQLite with memory, PostgreSQL and MariaDB
with Redis. Databases differ in their SQL and in what they return, stores in how they keep bytes. No code of the library
is about both, and every store passes the conformance suite. So each database and each store is tried once, and where
one database is left, each store with it. The tests of features, those of the protocol, and the state machine run on all
six pairs, by the mark ``every_pair``:

>>> pytestmark = pytest.mark.every_pair(because="a feature has one test that sees all of it")

``make test`` has fifteen minutes. There a test runs on two of its pairs, one with SQLite and one with a server, and on
three of six; and of many cases of one test a quarter is tried (``effort.py``). Its name decides
which, so half of all tests run on PostgreSQL and half on MariaDB, the same in each run.
``make exhaustive`` runs all pairs, and so does ``--on``.

What the library does differently by database is in few modules, which ``tests/meta/test_matrix.py`` names. A test
of anything else may run on SQLite alone, and a test of the database alone needs no store. Both say so:

>>> @pytest.mark.only_on("sqlite", because="an explanation asks no database")
... async def test_an_explanation(cache: ModelCache) -> None:
...     ...

Only these marks select: pytest refuses a second parametrisation of ``db_url`` or ``backend_url``.

``pytest --on sqlite,memory`` runs the tests that need no other database or store than those it names.
"""

import argparse
import itertools
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest

NO_STORE = "no store"
"""The store of a test whose subject needs none."""
NAMES = {"db_url": ("sqlite", "postgres", "mariadb"), "backend_url": ("memory", "redis", NO_STORE)}
"""Names that ``only_on`` takes, by the fixture that it restricts."""
SLOW = "slow(because): left out by `make quick`, which takes less than 20 seconds"
MARK = "only_on(*names, because): the databases or the stores that a test can do with, and why not the others"
EVERY_PAIR = "every_pair(because): runs on every database with every store, not on three pairs of them"

SERVERS = {
    "redis_server": "redis",
    "own_redis": "redis",
    "postgres_server": "postgres",
    "own_postgres": "postgres",
    "mariadb_server": "mariadb",
    "own_mariadb": "mariadb",
}
"""The fixtures that start a server, with the name of the database or store that it is."""
ON_NAMES = frozenset({name for names in NAMES.values() for name in names} - {NO_STORE})
"""Names that ``--on`` takes."""


def runs_on(fixtures: Collection[str], marks: Iterable[pytest.Mark]) -> dict[str, list[str]]:
    """The parameters of ``db_url`` and ``backend_url`` for a test with these fixtures and these ``only_on`` marks.

    Raises ``ValueError`` if a mark is wrong or has no reason, if the marks leave nothing, and if a test has a
    database, but neither a store from ``backend_url`` nor a mark that says which one it has.
    """
    left = {fixture: list(names) for fixture, names in NAMES.items()}
    for mark in marks:
        _check_reason(mark, "only_on")
        restricted = [fixture for fixture, names in NAMES.items() if mark.args and set(mark.args) <= set(names)]
        if not restricted:
            raise ValueError(f"only_on{mark.args}: name some of {' or some of '.join(map(str, NAMES.values()))}")
        for fixture in restricted:
            left[fixture] = [name for name in left[fixture] if name in mark.args]
    if "db_url" in fixtures and "backend_url" not in fixtures and len(left["backend_url"]) == len(NAMES["backend_url"]):
        raise ValueError("it has a database: take its store from backend_url, backend or cache, or use only_on")
    values = {fixture: [name for name in names if name != NO_STORE] for fixture, names in left.items()}
    used = {fixture: names for fixture, names in values.items() if fixture in fixtures}
    if not all(used.values()):
        raise ValueError("its only_on marks leave nothing to run on")
    return used


def parse_on(value: str) -> frozenset[str]:
    """Returns the names in the value of ``--on``. Raises ``ArgumentTypeError`` for an unknown one."""
    names = frozenset(name.strip() for name in value.split(","))
    if unknown := names - ON_NAMES:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, sorted(unknown)))}: name some of {', '.join(sorted(ON_NAMES))}"
        )
    return names


def pairs(databases: Sequence[str], stores: Sequence[str], *, every: bool = False) -> list[tuple[str, str]]:
    """Returns the pairs that a test with a database and a store runs on.

    The first database has all stores but the last one, which the other databases have. An only database has every
    store. With ``every``, each has.
    """
    if every or len(databases) == 1 or len(stores) == 1:
        return list(itertools.product(databases, stores))
    return [(databases[0], store) for store in stores[:-1]] + [(database, stores[-1]) for database in databases[1:]]


def tried(found: Sequence[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """Returns the pairs on which ``make test`` runs the test of this name: one with SQLite and one with a server."""
    kinds = [[pair for pair in found if (pair[0] == "sqlite") is wanted] for wanted in (True, False)]
    return [kind[zlib.crc32(name.encode()) % len(kind)] for kind in kinds if kind]


def wants_every_pair(marks: Iterable[pytest.Mark]) -> bool:
    """Returns whether there is an ``every_pair`` mark. Raises ``ValueError`` if one has no reason."""
    found = list(marks)
    for mark in found:
        _check_reason(mark, "every_pair")
    return bool(found)


def _check_reason(mark: pytest.Mark, name: str) -> None:
    reason = mark.kwargs.get("because")
    if mark.kwargs.keys() != {"because"} or not isinstance(reason, str) or " " not in reason.strip():
        raise ValueError(f"{name}{mark.args} needs a reason: because=...")


def narrowed(names: list[str], on: frozenset[str] | None) -> list[str]:
    """Returns the names that ``--on`` allows, or all if it allows none: then the test is deselected later."""
    return names if on is None else [name for name in names if name in on] or names


def needed_by(fixtures: Collection[str], parameters: Mapping[str, object]) -> set[str]:
    """Returns the databases and stores that one test needs, by its fixtures and their parameters."""
    servers = {name for fixture, name in SERVERS.items() if fixture in fixtures}
    return servers | {str(parameters[fixture]) for fixture in NAMES if fixture in parameters}
