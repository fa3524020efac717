"""``aiomodelcache triggers``."""

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.relay.outside import other_program
from tests.support.application import Application
from tests.support.databases import SQLiteDatabases
from tests.support.servers import MariaDBServer, PostgresServer

MODULE = "tests.support.models.relay_models"


@pytest.fixture
def relayed(application: Application, tmp_path: Path, sqlite_databases: SQLiteDatabases) -> Application:
    """An application with relayed models."""
    application.modules = (MODULE,)
    application.database = sqlite_databases.create(tmp_path / "relayed.sqlite3", MODULE)
    application.keys = {"imports": "", "url": ""}
    application.configure()
    return application


def test_status_names_what_is_missing_until_it_is_installed(relayed: Application) -> None:
    ran = relayed.process("triggers", "status", status=1)
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["connection", "table", "objects", "state"]
    assert ["default", "seat", "5", "missing"] in lines
    assert "error default: the triggers are missing or out of date" in ran.out
    assert "To correct it, run `aiomodelcache triggers install`." in ran.out
    assert "2 tables" in relayed.process("triggers", "install").out
    assert relayed.run("triggers", "install").out == "ok default: nothing to do\n"
    ran = relayed.process("triggers", "status")
    assert ran.out.endswith("ok default: the triggers are those of the declarations\n")
    data = relayed.run("triggers", "status", "--json").data
    connection = data["connections"]["default"]
    assert data["ok"] is connection["ok"] is True
    assert connection["fingerprint"] == connection["installed"]
    assert {each["state"] for each in connection["objects"]} == {"ok"}
    removed = relayed.run("triggers", "remove", "--json").data["removed"]["default"]
    assert "aiomodelcache_changes" in removed
    assert relayed.run("triggers", "remove").out == "ok default: dropped 0 objects\n"


def test_triggers_of_all_cached_models(relayed: Application, tmp_path: Path) -> None:
    assert "2 tables" in relayed.run("triggers", "install").out
    relayed.run("triggers", "status", "--all", status=1)
    assert relayed.run("triggers", "install", "--all").out == "ok default: created 10 triggers\n"
    assert relayed.run("triggers", "install", "--all").out == "ok default: nothing to do\n"
    ran = relayed.run("triggers", "status")
    assert ran.out.endswith("ok default: the triggers are those of the declarations, and of 2 more tables\n")
    assert ["default", "unrelayed", "5", "further"] in [line.split() for line in ran.out.splitlines()]
    assert relayed.run("triggers", "status", "--all").out.endswith("those of the declarations\n")
    script = relayed.run("triggers", "sql", "--all").out
    relayed.run("triggers", "remove", "--all")
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection, connection:
        connection.executescript(script)
    relayed.run("triggers", "status", "--all")
    relayed.run("triggers", "install")
    assert "further" not in relayed.run("triggers", "status").out


def test_very_many_lines_are_trimmed(relayed: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomodelcache.cli.triggers.MAX_KEPT", 2)
    relayed.run("triggers", "install", "--all")
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection, connection:
        connection.execute("INSERT INTO unrelayed (id) VALUES (1), (2)")
    assert relayed.run("triggers", "trim").out == "ok default: at most 2 lines wait for a relay\n"
    assert relayed.run("triggers", "status", "--json").data["connections"]["default"]["lines"] == 2
    assert "lines wait" not in relayed.run("triggers", "status").out
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection, connection:
        connection.execute("INSERT INTO unrelayed (id) VALUES (3)")
    ran = relayed.run("triggers", "status")
    assert "warning default: more than 2 lines wait for a relay" in ran.out
    assert relayed.run("triggers", "trim").out == "ok default: replaced 3 lines\n"
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection, connection:
        assert connection.execute("SELECT source, op FROM aiomodelcache_changes").fetchall() == [("unrelayed", "A")]


def test_without_relayed_models_all_can_be_captured(application: Application) -> None:
    application.run("triggers", "install", "--all")
    application.run("triggers", "status", "--all")
    application.run("triggers", "remove")


def test_the_statements_are_what_a_migration_needs(relayed: Application, tmp_path: Path) -> None:
    script = relayed.process("triggers", "sql").out
    assert script.startswith("-- connection default\n")
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection, connection:
        connection.executescript(script)
        connection.executescript(script)
    relayed.run("triggers", "status")
    assert list(relayed.run("triggers", "sql", "--json").data["statements"]) == ["default"]


def test_a_migration_on_mariadb_knows_no_delimiter(application: Application, mariadb_server: MariaDBServer) -> None:
    with mariadb_server.database(MODULE) as url:
        application.modules, application.database = (MODULE,), url
        application.keys = {"imports": "", "url": ""}
        application.configure()
        script = application.run("triggers", "sql").out
        assert "DELIMITER //" in script
        without_ends = script.replace("DELIMITER //\n", "").replace("//\nDELIMITER ;", ";")
        assert application.run("triggers", "sql", "--migration").out == without_ends


NO_RIGHT = {
    "postgres": (
        ["CREATE ROLE {user} LOGIN", "GRANT USAGE ON SCHEMA public TO {user}"],
        ["DROP OWNED BY {user}", "DROP ROLE {user}"],
        {
            ("triggers", "status"): "GRANT SELECT ON aiomodelcache_coverage TO it",
            ("triggers", "install"): "GRANT SELECT ON aiomodelcache_coverage TO it",
            ("triggers", "trim"): "permission denied for table aiomodelcache_changes",
            ("triggers", "remove"): "must be owner of relation",
            ("relay", "--once"): "GRANT SELECT ON aiomodelcache_coverage TO it",
        },
    ),
    "mariadb": (
        # such as a user for migrations
        [
            "CREATE USER {user}",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX ON {name}.* TO {user}",
            "GRANT PROCESS ON *.* TO {user}",
        ],
        ["DROP USER {user}"],
        {
            ("triggers", "status"): "GRANT TRIGGER ON `{name}`.`branch` TO it",
            ("triggers", "install"): "GRANT TRIGGER ON `{name}`.`branch` TO it",
            ("triggers", "remove"): "GRANT TRIGGER ON `{name}`.`branch` TO it",
            ("relay", "--once"): "GRANT TRIGGER ON `{name}`.`branch` TO it",
        },
    ),
    "mariadb, not the database": (
        ["CREATE USER {user}"],
        ["DROP USER {user}"],
        dict.fromkeys([("triggers", "status"), ("relay", "--once")], "to database '{name}'"),
    ),
}


@pytest.mark.parametrize("case", NO_RIGHT)
def test_a_missing_right_is_status_2_is_named_and_harms_nothing(
    application: Application, postgres_server: PostgresServer, mariadb_server: MariaDBServer, case: str
) -> None:
    server = postgres_server if case == "postgres" else mariadb_server
    with server.database(MODULE) as url:
        name = url.rpartition("/")[2]
        user = f"limited_{name}"
        rights, undo, commands = NO_RIGHT[case]

        def execute(statements: Sequence[str]) -> None:
            async def run_all() -> None:
                async with other_program(url) as run:
                    for statement in statements:
                        await run(statement.format(user=user, name=name))

            asyncio.run(run_all())

        def use(user: str) -> None:
            application.database = url.replace(f"{server.user}@", f"{user}@")
            application.configure()
            sys.modules.pop(application.settings_module, None)

        application.modules, application.keys = (MODULE,), {"imports": ""}
        use(server.user)
        application.run("triggers", "install")
        execute(rights)
        try:
            use(user)
            for command, text in commands.items():
                assert text.format(name=name) in application.run(*command, status=2).err
            use(server.user)
            application.run("triggers", "status")
            execute(["INSERT INTO branch (id) VALUES (1)"])
        finally:
            execute(undo)


def test_without_relayed_models_there_is_nothing_to_install(application: Application) -> None:
    for name in ("sql", "install", "status"):
        ran = application.run("triggers", name, status=2)
        assert "No model has relay = True" in ran.err
