"""Cached responses of a FastAPI application in two workers, which share a Redis and a database."""

import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.databases import DatabaseUrl
from tests.support.gates import PATIENCE
from tests.support.pages import ROOT
from tests.support.servers.http import HttpServer

pytestmark = [
    pytest.mark.only_on("sqlite", because="what workers share depends on no database"),
    pytest.mark.only_on("redis", because="workers share a server"),
    pytest.mark.slow(because="starts two workers"),
]

PROGRAM = """
import os

from fastapi import FastAPI
from tortoise.contrib.fastapi import register_tortoise

from aiomodelcache.contrib.fastapi import register_model_cache
from aiomodelcache.contrib.http import cached_response
from tests.support.models.models import User

app = FastAPI()
register_tortoise(app, db_url="{database}", modules={{"app": ["tests.support.models.models"]}})
register_model_cache(app, "{redis}")


@app.get("/users/{{id}}")
@cached_response()
async def show(id: int):
    user = await User.cache.get_or_404(id=id)
    return {{"name": user.username, "computed by": os.getpid()}}


@app.post("/users/{{id}}")
async def rename(id: int, to: str):
    await User.update_or_create(id=id, defaults={{"username": to}})


@app.get("/worker")
async def worker():
    return os.getpid()
"""


class Workers(HttpServer):
    """Two workers of the program."""

    name = "workers"
    probe = "/worker"

    def __init__(self, database: str, redis: str) -> None:
        super().__init__()
        self._source = PROGRAM.format(database=database, redis=redis)

    def _prepare(self) -> None:
        (self.folder / "served.py").write_text(self._source, "utf-8")

    def _command(self) -> list[str | Path]:
        given = [f"PYTHONPATH={ROOT}:{self.folder}", "PYTHONDONTWRITEBYTECODE=1"]
        served = ["-m", "uvicorn", "served:app", "--workers", "2", "--port", str(self.port), "--log-level", "error"]
        return ["/usr/bin/env", *given, sys.executable, *served]


@pytest.mark.tables("tests.support.models.models")
def test_workers_share_responses_and_see_each_others_writes(db_url: DatabaseUrl, backend_url: str) -> None:
    with Workers(str(db_url), backend_url) as server:

        def ask(method: str, path: str, **headers: str) -> httpx.Response:
            """Makes a request by a new connection, which any of the workers may take."""
            return httpx.request(method, server.url + path, headers=headers, trust_env=False, verify=False, timeout=30)

        workers: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(workers) < 2:  # one of them may start later, or be given no connection for a while
            assert time.monotonic() < deadline, workers
            workers.add(ask("GET", "/worker").json())
        assert ask("GET", "/users/1").status_code == 404
        for name in ("ada", "grace", "katherine"):
            assert ask("POST", f"/users/1?to={name}").status_code == 200
            found = [ask("GET", "/users/1") for _ in range(12)]
            assert {response.json()["name"] for response in found} == {name}
            assert len({response.json()["computed by"] for response in found}) == 1
            [tag] = {response.headers["etag"] for response in found}
            again = [ask("GET", "/users/1", **{"If-None-Match": tag}) for _ in range(12)]
            assert [response.status_code for response in again] == [304] * 12
