"""docs/frameworks: each page's application, served by two workers of the framework's own server, over HTTP."""

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from tests.contrib.serving import PAGES, Framework, FrameworkServer, create_database
from tests.support.servers import RedisServer

pytestmark = [
    pytest.mark.exhaustive(because="serves the page of every framework"),
    pytest.mark.long(because="each server takes seconds to start"),
    pytest.mark.slow(because="starts servers"),
]

HYPERCORN = ("-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "served:app")
UVICORN = ("-m", "uvicorn", "served:app", "--port", "{port}", "--workers", "2")
LITESTAR = ("-m", "litestar", "--app", "served:app", "run", "--port", "{port}", "--web-concurrency", "2")
FRAMEWORKS = [
    Framework("fastapi", UVICORN, '{"detail":"', ["uvicorn"]),
    Framework("starlette", UVICORN, "Event", ["uvicorn"]),
    Framework("aiohttp", ("-m", "served", "{port}"), "Event"),
    Framework("quart", HYPERCORN, "<title>404 Not Found</title>", ["hypercorn"]),
    Framework("litestar", LITESTAR, '{"status_code":404,"detail":"', ["uvicorn"], by_terminal=True),
    Framework("sanic", ("-m", "sanic", "served:app", "--port", "{port}", "--workers", "2"), "Event"),
    Framework("blacksheep", UVICORN, "Resource not found", ["uvicorn"]),
]

WORKERS = {"arq", "faststream", "taskiq"}
"""Pages of libraries without HTTP. tests/contrib/test_workers.py imports the code of those that it can."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return create_database(tmp_path_factory.mktemp("frameworks") / "app.sqlite3")


@pytest.fixture(params=FRAMEWORKS, ids=lambda framework: framework.name)
def framework(request: pytest.FixtureRequest) -> Framework:
    found: Framework = request.param
    if found.missing:
        pytest.skip(f"not installed: {', '.join(found.missing)}")
    return found


@pytest.fixture
def server(framework: Framework, database: str, own_redis: RedisServer) -> Iterator[FrameworkServer]:
    with FrameworkServer(framework, database, own_redis.patient_url) as server:
        yield server


def test_a_service_of_two_workers(server: FrameworkServer, framework: Framework, own_redis: RedisServer) -> None:
    """One test for all, because a server takes seconds to start. Redis is away for some requests, and comes back."""
    with httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=30) as client:
        shown = client.get("/events/pycon")
        assert (shown.status_code, shown.json()["organizer"]) == (200, "kim"), server.log()
        assert re.match(r'cache;desc="\d+ (hit|miss)', shown.headers["server-timing"])

        missing = client.get("/events/nope")
        assert missing.status_code == 404
        assert framework.not_found in missing.text

        before = server.ask_workers("/probe")
        assert all(answer["shared"] for answer in before.values()), "requests have no scope"

        for title in (f"{framework.name} one", f"{framework.name} two"):
            writer = client.post(f"/rename/{title}").json()["pid"]
            after = server.ask_workers("/probe")
            assert {answer["title"] for answer in after.values()} == {title}
            assert writer in after

        assert_cached(server)
        own_redis.kill()
        for worker in server.ask_workers("/probe").values():
            assert worker["title"] == f"{framework.name} two"
        assert client.post(f"/rename/{framework.name} three").status_code < 300
        own_redis.restart()
        assert client.post(f"/rename/{framework.name} four").status_code < 300
        for worker in server.ask_workers("/probe").values():
            assert worker["title"] == f"{framework.name} four"
        until_cached(server)
        client.post(f"/rename/{framework.name} five")
        for worker in server.ask_workers("/probe").values():
            assert worker["title"] == f"{framework.name} five"

        assert client.get("/stream").text == "a scope: False"
        with connect(f"{server.url.replace('http', 'ws', 1)}/socket", proxy=None, ssl=None) as socket:
            assert socket.recv() == "a scope: False"
    log = server.stop()
    assert log.count("Tortoise closed; a cache is open: False") >= 2, log
    assert "a cache is open: True" not in log, log
    assert "Traceback" not in log, log


def statements(server: FrameworkServer) -> dict[int, int]:
    """Returns the numbers of statements that the workers have sent so far."""
    return {pid: answer["statements"] for pid, answer in server.ask_workers("/probe").items()}


def assert_cached(server: FrameworkServer) -> None:
    assert statements(server) == statements(server)


def until_cached(server: FrameworkServer) -> None:
    """Asks until the workers use Redis again. Each tries it once in a second."""
    deadline = time.monotonic() + 30
    while statements(server) != statements(server):
        assert time.monotonic() < deadline, server.log()


def test_every_page_is_served() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} - WORKERS == {framework.name for framework in FRAMEWORKS}
