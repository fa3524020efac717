"""docs/tutorial.md: its files are a project whose tests pass, and whose service answers as the page shows."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.effort import all_effort
from tests.support.pages import DOCS, ROOT, blocks
from tests.support.servers import PostgresServer, RedisServer
from tests.support.servers.http import HttpServer
from tests.support.servers.server import free_port

TUTORIAL = DOCS / "tutorial.md"
DEPLOY = DOCS / "guide" / "deploy.md"
_FILE = re.compile(r"# ([\w.]+\.\w+)\n")


def files(page: Path) -> dict[str, str]:
    """Returns the blocks of a page that begin with the name of a file, by that name."""
    return {found[1]: block.code for block in blocks(page) if (found := _FILE.match(block.code))}


class Exchange:
    """A ``curl`` of the page, and the JSON in the comment below it."""

    def __init__(self, command: str, answer: str) -> None:
        words = shlex.split(command.replace("\\\n", " "))
        assert words.pop(0) == "curl"
        self.body: Any = None
        self.method = "GET"
        while len(words) > 1:
            option, value, *words = words
            assert option in ("--json", "-X"), option
            if option == "--json":
                self.body = json.loads(value)
                self.method = "POST" if self.method == "GET" else self.method
            else:
                self.method = value
        host, _, path = words[0].partition("/")
        assert host == "localhost:8000"
        self.path = f"/{path}"
        self.answer = json.loads(re.sub(r"^# ?", "", answer, flags=re.MULTILINE))


def exchanges() -> list[Exchange]:
    """Returns the requests of the page, in their order."""
    found = [
        re.findall(r"^(curl (?:.*\\\n)*.*)\n((?:# .*\n)+)", block.code, re.MULTILINE) for block in blocks(TUTORIAL)
    ]
    return [Exchange(command, answer) for pairs in found for command, answer in pairs]


class TutorialServer(HttpServer):
    """The service of the page, run by the page's command on a free port."""

    name = "tutorial"
    probe = "/stats"

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self._project = project
        self._environment = environment

    def _command(self) -> list[str | Path]:
        given = [f"{name}={value}" for name, value in self._environment.items()]
        uvicorn = [sys.executable, "-m", "uvicorn", "main:app", "--app-dir", self._project, "--port", str(self.port)]
        return ["/usr/bin/env", f"PYTHONPATH={ROOT}", *given, *uvicorn]


class ComposedRedis(RedisServer):
    """A Redis with the options of a Compose file."""

    def __init__(self, command: list[str]) -> None:
        super().__init__()
        program, *self._options = command
        assert program == "redis-server"

    def _command(self) -> list[str | Path]:
        ours = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", self.socket]
        return [self.program(), *ours, *self._options]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path / "bookshop"
    folder.mkdir()
    for name, code in files(TUTORIAL).items():
        (folder / name).write_text(code, "utf-8")
    return folder


def run_tests(project: Path, **environment: str) -> str:
    """Runs the project's tests as the page says. Returns the last line of their output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    kept |= {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-p no:cacheprovider -W error"} | environment
    command = [sys.executable, "-m", "pytest"]
    ran = subprocess.run(command, cwd=project, env=kept, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1]


@all_effort  # the script below runs them, too
@pytest.mark.slow(because="runs pytest in a project of its own")
def test_the_tests_of_the_tutorial_pass_without_servers(project: Path) -> None:
    assert "6 passed" in run_tests(project)


@all_effort
def test_the_tests_of_the_tutorial_pass_on_postgresql_and_redis(
    project: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    with postgres_server.database() as database:
        last_line = run_tests(project, DATABASE_URL=database, REDIS_URL=redis_server.patient_url)
    assert "6 passed" in last_line


def test_the_service_answers_as_the_tutorial_shows(
    project: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    redis_server.flush()
    shown = exchanges()
    assert len(shown) == 8
    with (
        postgres_server.database() as database,
        TutorialServer(project, {"DATABASE_URL": database, "REDIS_URL": redis_server.patient_url}) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=60) as client,
    ):
        for exchange in shown:
            assert client.request(exchange.method, exchange.path, json=exchange.body).json() == exchange.answer, (
                exchange.path
            )
        counted = client.get("/stats").json()
        before = client.get("/stats").json()["statements"]
        assert client.get("/books/dune").json()["stock"] == 5
        assert client.get("/stats").json()["statements"] == before
        log = (server.folder / "log").read_text()
    assert counted["hits"] > 0
    assert "Traceback" not in log


# By a script ------------------------------------------------------------------------------------------------

PRELUDE = """
set -euo pipefail
python() {
    if [ "$*" = "-m venv .venv" ]; then
        "$PYTHON" -m venv --without-pip .venv
        packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\\n' "$PACKAGES" "$ROOT" > "$packages/tests.pth"
        for name in pytest uvicorn; do
            printf '#!%s/.venv/bin/python\\nimport runpy; runpy.run_module("%s", run_name="__main__")\\n' \\
                "$PWD" "$name" > ".venv/bin/$name"
            chmod +x ".venv/bin/$name"
        done
    else
        command python "$@"
    fi
}
pip() { printf '%s\\n' "$@" > ../pip.txt; }
docker() { echo "$@" >> ../docker.txt; }
curl() { command curl --silent --show-error --noproxy '*' "$@" >> ../answers.txt; echo >> ../answers.txt; }
"""
"""Functions in place of the programs that a test cannot run: the servers run already, and the packages are there."""
SERVE = """
uvicorn main:app --port "$PORT" > ../service.txt 2>&1 &
service=$!
trap 'kill $service; wait $service || true' EXIT
until command curl --silent --noproxy '*' "localhost:$PORT/stats" > /dev/null; do
    kill -0 $service
    sleep 0.1
done
"""
"""The command ``uvicorn main:app``, and the other terminal."""


def script(replaced: Mapping[str, str]) -> str:
    """Returns all blocks of the tutorial as a script, in their order."""
    lines = [PRELUDE]
    for block in blocks(TUTORIAL):
        code = block.code
        if named := _FILE.match(code):
            lines.append(f"cat > {named[1]} << 'END OF FILE'\n{code}END OF FILE\n")
        else:
            assert block.language == "sh", code
            for old, new in replaced.items():
                code = code.replace(old, new)
            lines.append(SERVE if code == "uvicorn main:app\n" else code)
    return "\n".join(lines)


@pytest.mark.slow(because="it runs a script with two runs of pytest and a service")
def test_a_script_that_follows_the_tutorial_from_an_empty_folder(
    tmp_path: Path, postgres_server: PostgresServer, own_redis: RedisServer
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    port = free_port()
    with postgres_server.database() as database, postgres_server.database() as of_tests:
        replaced = {
            "postgres://shop:secret@localhost:5432/shop_test": of_tests,
            "postgres://shop:secret@localhost:5432/shop": database,
            "redis://localhost:6379": own_redis.url.removesuffix("/0"),
            "localhost:8000": f"localhost:{port}",
        }
        (tmp_path / "follow.sh").write_text(script(replaced), "utf-8")
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        packages = sysconfig.get_path("purelib")
        given = {"PYTHON": sys.executable, "PACKAGES": packages, "ROOT": str(ROOT), "PORT": str(port)}
        given |= {"PYTEST_ADDOPTS": "-p no:cacheprovider -W error", "PYTHONPATH": ""}
        ran = subprocess.run(
            ["bash", "follow.sh"],
            cwd=tmp_path,
            env=kept | given,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    log = (tmp_path / "service.txt").read_text() if (tmp_path / "service.txt").exists() else ""
    assert ran.returncode == 0, ran.stdout + ran.stderr + log
    assert ran.stdout.count("6 passed") == 2
    answers = [json.loads(line) for line in (tmp_path / "answers.txt").read_text().splitlines()]
    assert answers == [exchange.answer for exchange in exchanges()]
    assert (tmp_path / "docker.txt").read_text().splitlines() == [
        "compose up --detach",
        "compose exec database createdb -U shop shop_test",
    ]
    verb, checkout, *others = (tmp_path / "pip.txt").read_text().splitlines()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert (verb, re.sub(r"\[.*", "", checkout)) == ("install", "../aiomodelcache")
    assert set(re.findall(r"[a-z]+", checkout.partition("[")[2])) <= extras.keys()
    assert all(find_spec(name) is not None for name in others)


def composed(page: Path) -> dict[str, Any]:
    """Returns the services of a page's Compose file."""
    services: dict[str, Any] = yaml.safe_load(files(page)["compose.yaml"])["services"]
    return services


@pytest.fixture(params=[TUTORIAL, DEPLOY], ids=lambda page: page.stem)
def composed_redis(request: pytest.FixtureRequest) -> Iterator[ComposedRedis]:
    RedisServer.program()
    with ComposedRedis(composed(request.param)["cache"]["command"]) as server:
        yield server


def test_redis_accepts_the_options_of_the_compose_files(composed_redis: ComposedRedis) -> None:
    with composed_redis.client() as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_the_urls_are_those_of_the_services() -> None:
    for page in (TUTORIAL, DEPLOY):
        services = composed(page)
        database = services["database"]["environment"]
        url = "postgres://{POSTGRES_USER}:{POSTGRES_PASSWORD}@".format(**database)
        text = page.read_text("utf-8")
        assert url in text
        assert f"/{database['POSTGRES_DB']}\n" in text
    web = composed(DEPLOY)["web"]
    assert web["environment"]["DATABASE_URL"].partition("@")[2].partition("/")[0] in composed(DEPLOY)
    assert web["environment"]["REDIS_URL"].partition("//")[2].partition(":")[0] in composed(DEPLOY)
    assert web["depends_on"].keys() == {"database", "cache"}
