"""What a test runs on: every database and every store, but for what it gives a reason.

>>> @pytest.mark.only_on("redis", because="it kills the server")
... async def test_a_killed_server(database: BaseDBAsyncClient, own_redis: RedisServer) -> None:
...     ...

Only the mark restricts a test: pytest refuses a second parametrisation of ``db_url`` or ``backend_url``.
"""

from collections.abc import Collection, Iterable

import pytest

NO_STORE = "no store"
"""What a test has whose subject needs none."""
NAMES = {"db_url": ("sqlite", "postgres", "mariadb"), "backend_url": ("memory", "redis", NO_STORE)}
"""What ``only_on`` may name, by the fixture that it restricts."""
MARK = "only_on(*names, because): the databases or the stores that a test can do with, and why not the others"


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
