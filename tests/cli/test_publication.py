"""``aiomodelcache publication``, and a relay that reads what it installs."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.relay.outside import other_program
from tests.support.application import Application
from tests.support.servers import PostgresServer

MODULE = "tests.support.models.relayed_models"
TABLES = ("article", "article_label", "author", "label")


@pytest.fixture
def relayed(application: Application, postgres_server: PostgresServer) -> Iterator[Application]:
    """An application with relayed models in PostgreSQL."""
    with postgres_server.database(MODULE) as url:
        application.modules = (MODULE,)
        application.database = url
        application.keys = {"imports": f'["{MODULE}"]'}
        application.configure()
        yield application
        application.run("publication", "remove")


def executed(application: Application, *statements: str) -> None:
    async def execute(_: object) -> None:
        async with other_program(application.database) as run:
            for statement in statements:
                await run(statement)

    application.do(execute)


def test_it_says_what_is_missing_and_a_relay_reads_what_is_installed(relayed: Application) -> None:
    ran = relayed.run("publication", "install", status=2)
    assert "article_label has no replica identity" in ran.err
    assert "run ALTER TABLE public.article_label REPLICA IDENTITY USING INDEX" in ran.err
    executed(relayed, "ALTER TABLE article_label REPLICA IDENTITY FULL", "ALTER TABLE author REPLICA IDENTITY FULL")
    ran = relayed.run("publication", "status", status=1)
    assert "error default: the publication is missing or out of date" in ran.out
    assert "To correct it, run `aiomodelcache publication install`." in ran.out
    once = ("relay", "--source", "pgoutput", "--once")
    assert "run `aiomodelcache publication install`" in relayed.run(*once, status=2).err
    assert relayed.run("publication", "install").out == "ok default: created 1 publication, 1 table\n"
    assert relayed.run("publication", "install").out == "ok default: nothing to do\n"
    ran = relayed.run("publication", "status")
    assert "ok default: the publication is that of the declarations" in ran.out
    assert "there is no slot, until a relay has started" in ran.out
    assert "each UPDATE and DELETE of public.article invalidates the whole table" in ran.out
    assert "To correct it, run ALTER TABLE public.article REPLICA IDENTITY FULL." in ran.out
    assert "author" not in ran.out.partition("slot")[2]
    assert relayed.run(*once).out == "ok invalidated 0 lines of 4 tables of default\n"
    executed(relayed, "INSERT INTO author (id, name) VALUES (1, 'kim')", "UPDATE author SET name = 'ann'")
    assert relayed.run(*once).out == "ok invalidated 2 lines of 4 tables of default\n"
    assert "MB of WAL, and no relay reads it" in relayed.run("publication", "status").out
    findings = {each["subject"]: each for each in relayed.run("doctor", "--json", status=None).data["findings"]}
    assert findings["slot"]["paste"] == ["aiomodelcache publication remove"]
    removed = relayed.run("publication", "remove", "--json").data["removed"]["default"]
    assert len(removed) == 3
    assert relayed.run("publication", "remove").out == "ok default: dropped 0 objects\n"


def test_the_doctor_examines_the_slot_and_the_identities(relayed: Application) -> None:
    relayed.keys["config"] = f'"{relayed.settings_module}.CACHE"'
    relayed.configure()
    with (relayed.folder / f"{relayed.settings_module}.py").open("a") as settings:
        settings.write("from aiomodelcache import CacheConfig\nCACHE = CacheConfig(relay_source='pgoutput')\n")
    executed(relayed, "ALTER TABLE article_label REPLICA IDENTITY FULL")
    relayed.run("publication", "install")
    assert relayed.run("relay", "--once").out == "ok invalidated 0 lines of 4 tables of default\n"
    ran = relayed.run("doctor")
    assert "slot: default: the slot keeps" in ran.out
    assert "ALTER SYSTEM SET max_slot_wal_keep_size" in ran.out
    assert "each UPDATE and DELETE of public.author invalidates the whole table" in ran.out
    assert "ALTER TABLE public.author REPLICA IDENTITY FULL" in ran.out


def test_a_relay_that_ends_frees_the_slot_for_the_next_one(relayed: Application) -> None:
    executed(relayed, "ALTER TABLE article_label REPLICA IDENTITY FULL")
    relayed.run("publication", "install")
    arguments = [sys.executable, "-u", "-m", "aiomodelcache", "relay", "--source", "pgoutput"]
    with subprocess.Popen(
        arguments, cwd=relayed.folder, env=relayed.environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ok 4 tables of default, until SIGTERM\n"
            executed(relayed, "INSERT INTO author (id, name) VALUES (1, 'kim')")
            while "a relay reads it" not in relayed.run("publication", "status").out:
                time.sleep(0.05)
            assert "cannot be dropped" in relayed.run("publication", "remove", status=2).err
            running.terminate()
            assert running.stdout.read().startswith("ok invalidated ")
            assert running.wait() == 0
        finally:
            running.kill()
    while "no relay reads it" not in relayed.run("publication", "status").out:  # PostgreSQL has yet to notice
        time.sleep(0.05)


def test_the_statements_are_what_a_migration_needs(relayed: Application) -> None:
    executed(relayed, "ALTER TABLE article_label REPLICA IDENTITY FULL")
    [statements] = relayed.run("publication", "sql", "--json").data["statements"].values()
    executed(relayed, *statements, *statements)
    assert "ok default" in relayed.run("publication", "status").out


def test_a_publication_of_all_cached_models(relayed: Application) -> None:
    executed(
        relayed,
        "ALTER TABLE article_label REPLICA IDENTITY FULL",
        *[f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in ("article", "author", "label", "note")],
    )
    relayed.run("publication", "install")
    relayed.run("publication", "status", "--all", status=1)
    assert relayed.run("publication", "install", "--all").out == "ok default: created 1 publication\n"
    assert relayed.run("publication", "install", "--all").out == "ok default: nothing to do\n"
    for options in ((), ("--all",)):
        assert "ok default: the publication is that" in relayed.run("publication", "status", *options).out
    once = ("relay", "--source", "pgoutput", "--once", "--json")
    relayed.run(*once)
    executed(relayed, "INSERT INTO note (id, text) VALUES (1, 'one')")
    [status] = relayed.run(*once).data["connections"]
    assert (status["lines"], status["cleared"]) == (1, 0), "it invalidates its own row"
    [statements] = relayed.run("publication", "sql", "--all", "--json").data["statements"].values()
    assert "note" in "".join(statements)
    assert relayed.run("publication", "install").out == "ok default: created 1 publication\n"
    assert "note" not in relayed.run("publication", "status").out


def test_other_databases_have_no_publications(application: Application) -> None:
    application.modules = (MODULE,)
    application.keys = {"imports": "", "url": ""}
    application.configure()
    for options in ((), ("--all",)):
        assert "in a PostgreSQL database" in application.run("publication", "install", *options, status=2).err
    assert application.run("publication", "remove").out == ""
