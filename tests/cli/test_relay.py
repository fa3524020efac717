"""``aiomodelcache relay`` as a process, for writes of another program."""

import configparser
import json
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.cli.test_top import process
from tests.support.application import LIMIT, Application
from tests.support.databases import SQLiteDatabases
from tests.support.pages import DOCS, blocks

MODULE = "tests.support.models.relayed_models"


@pytest.fixture
def relayed(application: Application, tmp_path: Path, sqlite_databases: SQLiteDatabases) -> Application:
    """An application with relayed models, and with their triggers."""
    application.modules = (MODULE,)
    application.database = sqlite_databases.create(tmp_path / "relayed.sqlite3", MODULE)
    application.keys = {"imports": ""}
    application.configure()
    application.run("triggers", "install")
    return application


def write(tmp_path: Path, statement: str) -> None:
    with closing(sqlite3.connect(tmp_path / "relayed.sqlite3")) as connection:
        connection.execute(statement)
        connection.commit()


def test_once_invalidates_the_present_lines(relayed: Application, tmp_path: Path) -> None:
    write(tmp_path, "INSERT INTO author (id, name) VALUES (1, 'kim'), (2, 'ann')")
    assert relayed.process("relay", "--once").out == "ok invalidated 2 lines of 4 tables of default\n"
    [connection] = relayed.run("relay", "--once", "--json").data["connections"]
    assert (connection["connection"], connection["lines"], connection["claims"]) == ("default", 0, 1)


def test_without_triggers_or_models_it_says_what_to_do(application: Application, relayed: Application) -> None:
    relayed.run("triggers", "remove")
    assert "run `aiomodelcache triggers install`" in relayed.run("relay", "--once", status=2).err
    assert "--health is 80x80" in relayed.run("relay", "--health", "80x80", status=2).err


def test_an_address_for_health_that_cannot_be_used_is_status_2(relayed: Application) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"--health is {port}" in relayed.run("relay", "--health", port, status=2).err


def answer(url: str) -> tuple[int, str]:
    """Returns the status and the text that a URL answers with."""
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def await_health(url: str, **expected: Any) -> dict[str, Any]:
    """Waits until the relay's only connection has these values."""
    until = time.monotonic() + LIMIT
    while True:
        status, text = answer(url)
        data: dict[str, Any] = json.loads(text)
        [connection] = data["connections"]
        assert (status == 200) is data["ok"]
        if connection.items() >= expected.items() and data["ok"]:
            return dict(connection)
        assert time.monotonic() < until, connection
        time.sleep(0.02)


@pytest.mark.slow(because="runs a process")
def test_the_process_relays_until_sigterm_and_shows_its_health(relayed: Application, tmp_path: Path) -> None:
    arguments = ["-u", "-m", "aiomodelcache", "relay", "--health", "0"]
    with process(relayed, arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        url = running.stdout.readline().decode().split()[-1]
        assert running.stdout.readline() == b"ok 4 tables of default, until SIGTERM\n"
        await_health(url, leading=True, lines=0)
        write(tmp_path, "INSERT INTO author (id, name) VALUES (1, 'kim')")
        connection = await_health(url, lines=1, failing=None, outages=0)
        assert 0 < connection["claim_left"] <= 10
        status, metrics = answer(f"{url}metrics")
        assert status == 200
        assert 'aiomodelcache_relay_lines_total{connection="default"} 1' in metrics
        assert 'aiomodelcache_relay_oldest_seconds{connection="default"} 0' in metrics
        relayed.redis.flush()
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT) == 0
        assert running.stdout.read() == b"ok invalidated 1 line of 4 tables of default\n"
        assert running.stderr.read() == b""


def shown(language: str) -> str:
    """Returns the only block of a language on the page about relays."""
    [code] = [block.code for block in blocks(DOCS / "guide" / "outside-writes.md") if block.language == language]
    return code


def test_the_unit_of_systemd_runs_a_relay(relayed: Application) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(shown("ini"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).is_relative_to(unit["Service"]["WorkingDirectory"])
    assert Path(program).name == "aiomodelcache"
    assert relayed.run(*arguments, "--once").out == "ok invalidated 0 lines of 4 tables of default\n"


@pytest.mark.slow(because="runs processes")
def test_the_container_runs_a_relay_and_knows_its_health(relayed: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    service = yaml.safe_load(shown("yaml"))["services"]["relay"]
    program, *arguments = service["command"]
    assert (program, arguments[-1]) == ("aiomodelcache", "0.0.0.0:9105")
    how, python, *check = service["healthcheck"]["test"]
    assert (how, python) == ("CMD", "python")
    [variable] = service["environment"]
    relayed.keys["url"] = ""  # the variable alone names the store
    relayed.configure()
    monkeypatch.setenv(variable, relayed.redis.url)

    def is_healthy(port: str) -> bool:
        command = [argument.replace("9105", port) for argument in check]
        ran = subprocess.run([sys.executable, *command], capture_output=True, timeout=LIMIT, check=False)
        return ran.returncode == 0

    run = ["-u", "-m", program, *arguments[:-1], "127.0.0.1:0"]
    with process(relayed, run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        url = running.stdout.readline().decode().split()[-1]
        port = url.strip("/").rpartition(":")[2]
        await_health(url, leading=True)
        assert is_healthy(port)
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT) == 0
        assert not is_healthy(port)
