"""examples/compose.yaml: its files fit each other, its image's command serves, and its dashboard's metrics exist."""

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.docs.test_tutorial import ComposedRedis
from tests.support.pages import ROOT
from tests.support.servers import PostgresServer
from tests.support.servers.http import HttpServer

EXAMPLES = ROOT / "examples"
MONITORING = EXAMPLES / "monitoring"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


COMPOSE: Any = load(EXAMPLES / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
DASHBOARD: Any = json.loads((MONITORING / "aiomodelcache.json").read_text("utf-8"))
DOCKERFILE = [
    line.partition(" ")
    for line in (EXAMPLES / "Dockerfile").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[str]:
    """Returns the arguments of the instructions of this name in the Dockerfile."""
    return [arguments for instruction, _, arguments in DOCKERFILE if instruction == name]


def test_the_services_are_those_of_a_monitored_application() -> None:
    assert {*SERVICES} == {"web", "database", "cache", "prometheus", "grafana"}
    for service in SERVICES.values():
        assert {*service.get("depends_on", ())} <= {*SERVICES}
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (EXAMPLES / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]
    for name, condition in SERVICES["web"]["depends_on"].items():
        assert condition == {"condition": "service_healthy"}
        assert SERVICES[name]["healthcheck"]["test"]


def test_the_urls_are_those_of_the_services() -> None:
    given, database = SERVICES["web"]["environment"], SERVICES["database"]["environment"]
    url = "asyncpg://{POSTGRES_USER}:{POSTGRES_PASSWORD}@database/{POSTGRES_DB}".format(**database)
    assert given == {"DATABASE_URL": url, "REDIS_URL": "redis://cache:6379/0"}
    [scraped] = load(MONITORING / "prometheus.yml")["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["web:8000"]}]
    [source] = load(MONITORING / "datasources.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = load(MONITORING / "dashboards.yml")["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/aiomodelcache.json" in mounted
    assert {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]} == {
        source["uid"]
    }


def test_the_image_has_what_it_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    [installed] = instructions("RUN")
    [asked] = re.findall(r"\.\[([\w,]+)\]", installed)
    assert set(asked.split(",")) <= extras.keys()
    assert (EXAMPLES / SERVICES["web"]["build"]["context"]).resolve() == ROOT
    assert ROOT / SERVICES["web"]["build"]["dockerfile"] == EXAMPLES / "Dockerfile"


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


class ComposedService(HttpServer):
    """The service, by the command of its image, in a folder with nothing but what the image has."""

    name = "composed"
    probe = "/metrics/"

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self._environment = environment

    def _prepare(self) -> None:
        for arguments in instructions("COPY"):
            *sources, target = arguments.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, self.folder / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copyfile(ROOT / source, self.folder / target / source)

    def _command(self) -> list[str | Path]:
        [line] = instructions("CMD")
        program, *arguments = json.loads(line)
        arguments[arguments.index("0.0.0.0")] = "127.0.0.1"
        arguments[arguments.index("8000")] = str(self.port)
        given = [f"{name}={value}" for name, value in self._environment.items()]
        own = [f"PYTHONPATH={self.folder}", "PYTHONDONTWRITEBYTECODE=1", *given]
        return ["/usr/bin/env", "-C", self.folder, *own, sys.executable, "-m", program, *arguments]


@pytest.fixture(scope="module")
def service(postgres_server: PostgresServer) -> Iterator[ComposedService]:
    """The service with a PostgreSQL, and a Redis with the options of the file."""
    with postgres_server.database() as database, ComposedRedis(SERVICES["cache"]["command"]) as redis:
        given = {"DATABASE_URL": database, "REDIS_URL": redis.url}
        with ComposedService(given) as served:
            yield served


def scraped(service: ComposedService) -> dict[str, list[dict[str, str]]]:
    """Returns the labels of all samples by their names, in the words of Prometheus' own parser."""
    [config] = load(MONITORING / "prometheus.yml")["scrape_configs"]
    response = httpx.get(service.url + config["metrics_path"], trust_env=False, verify=False, timeout=30)
    assert response.status_code == 200  # Prometheus follows redirects, but each scrape would take two requests
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.slow(because="it starts a service of two processes")
def test_every_metric_of_the_dashboard_is_scraped_from_the_service(service: ComposedService) -> None:
    headers = {"X-Actor": "7"}
    with httpx.Client(base_url=service.url, trust_env=False, verify=False, timeout=30, headers=headers) as client:
        assert client.post("/organisations", json={"name": "Acme"}).status_code == 201
        assert client.get("/organisations/acme/releases").status_code == 200
    deadline = time.monotonic() + 30
    while len(scraped(service).get("aiomodelcache_worker_start_time_seconds", ())) < 2:  # both processes
        assert time.monotonic() < deadline
    found = scraped(service)
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]
    assert len(queries) > 20
    for query in queries:
        for name, selector in re.findall(r"\b(aiomodelcache_\w+)(?:\{([^}]*)\})?", query):
            assert name in found, f"{query}: the exporter has no {name}"
            for label in re.findall(r"(\w+)(?:=~|=)", selector):
                assert all(label in labels for labels in found[name]), f"{query}: {name} has no label {label}"
        for label in re.findall(r"\bby \(([\w, ]+)\)", query):
            named = re.findall(r"aiomodelcache_\w+", query)
            assert all(set(label.split(", ")) <= labels.keys() for name in named for labels in found[name]), query
    outcomes = {labels["outcome"] for labels in found["aiomodelcache_lookups_total"]}
    assert set(re.findall(r'outcome="(\w+)"', " ".join(queries))) <= outcomes


def test_docker_compose_accepts_the_file() -> None:
    docker = ["docker", "compose"]
    if (
        shutil.which("docker") is None
        or subprocess.run([*docker, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine has no Docker Compose")
    command = [*docker, "--file", str(EXAMPLES / "compose.yaml"), "config", "--quiet"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
