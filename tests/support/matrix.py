"""What a test runs on: every database and every store, but for what it gives a reason.

>>> @pytest.mark.only_on("redis", because="it kills the server")
... async def test_a_killed_server(database: BaseDBAsyncClient, own_redis: RedisServer) -> None:
...     ...

Only the mark restricts a test: pytest refuses a second parametrisation of ``db_url`` or ``backend_url``.

``pytest --on sqlite,memory`` runs the tests that need no other database or store than those it names.
"""

import argparse
from collections.abc import Collection, Iterable, Mapping

import pytest

NO_STORE = "no store"
"""What a test has whose subject needs none."""
NAMES = {"db_url": ("sqlite", "postgres", "mariadb"), "backend_url": ("memory", "redis", NO_STORE)}
"""What ``only_on`` may name, by the fixture that it restricts."""
SLOW = "slow(because): left out by `make quick`, which has 20 seconds for all its tests"
MARK = "only_on(*names, because): the databases or the stores that a test can do with, and why not the others"


SERVERS = {"redis_server": "redis", "own_redis": "redis", "postgres_server": "postgres", "mariadb_server": "mariadb"}
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
        reason = mark.kwargs.get("because")
        if mark.kwargs.keys() != {"because"} or not isinstance(reason, str) or " " not in reason.strip():
            raise ValueError(f"only_on{mark.args} needs a reason: because=...")
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


def narrowed(names: list[str], on: frozenset[str] | None) -> list[str]:
    """Returns the names that ``--on`` allows, or all if it allows none: then the test is deselected later."""
    return names if on is None else [name for name in names if name in on] or names


def needed_by(fixtures: Collection[str], parameters: Mapping[str, object]) -> set[str]:
    """Returns the databases and stores that one test needs, by its fixtures and their parameters."""
    servers = {name for fixture, name in SERVERS.items() if fixture in fixtures}
    return servers | {str(parameters[fixture]) for fixture in NAMES if fixture in parameters}
