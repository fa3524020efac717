"""Runs the application of a page of docs/frameworks with the framework's own server, in several workers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from aiomodelcache import writes_without_cache
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.pages import DOCS, ROOT, Program, blocks, program
from tests.support.servers import ServerFailed
from tests.support.servers.http import HttpServer

PAGES = DOCS / "frameworks"
SERVICES = Path(__file__).parent / "services"
DECLARE = DOCS / "guide" / "declare.md"
REDIS = '"redis://localhost:6379/0"'
DATABASE = '"postgres://localhost/app"'
NAMESPACE = 'namespace="shop"'
JOBS = '"redis://localhost:6379/1"'


@dataclass(frozen=True)
class Framework:
    """A framework, the command that serves its page, and a part of its own response to an exception of 404."""

    name: str
    command: Sequence[str]
    not_found: str
    needs: Sequence[str] = ()
    """Modules that the command needs, beside the framework's."""
    by_terminal: bool = False
    """True if only Ctrl-C on its terminal, which all its processes get, ends the command."""

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [module for module in (self.name, *self.needs) if find_spec(module) is None]


class FrameworkServer(HttpServer):
    """Two workers that serve the application of a framework's page."""

    name = "framework"
    probe = "/probe"

    def __init__(self, framework: Framework, database: str, redis: str) -> None:
        super().__init__()
        self._framework = framework
        self._replaced = {REDIS: repr(redis), DATABASE: repr(database), NAMESPACE: f"{NAMESPACE}, server_timing=True"}

    def ask(self) -> None:
        if "Traceback" in self.log():  # its supervisor would start workers again and again
            raise ServerFailed(f"{self._framework.name} does not start:\n{self.log()}")
        super().ask()

    def _prepare(self) -> None:
        write_modules(self._framework.name, self.folder, self._replaced)
        for source, target in (("probe", "probe"), (self._framework.name, "served")):
            (self.folder / f"{target}.py").write_text((SERVICES / f"{source}.py").read_text("utf-8"), "utf-8")

    def _command(self) -> list[str | Path]:
        command = [part.format(port=self.port) for part in self._framework.command]
        given = [f"PYTHONPATH={ROOT}:{self.folder}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"]
        return ["/usr/bin/env", *given, sys.executable, *command]

    def stop(self) -> str:
        """Has the server end its workers, and returns its log."""
        assert self._process is not None
        if self._framework.by_terminal:
            os.killpg(self.pid, signal.SIGINT)
        else:
            os.kill(self.pid, self._end_signal)  # not the workers, some of which would end without closing anything
        self._process.wait(timeout=30)
        return (self.folder / "log").read_text(errors="replace")

    def ask_workers(self, path: str) -> dict[int, dict[str, Any]]:
        """Returns the answers of both workers, by their process. Each request has a connection of its own."""

        def ask(_: object) -> dict[str, Any]:
            answer: dict[str, Any] = httpx.get(self.url + path, trust_env=False, verify=False, timeout=30).json()
            return answer

        answers: dict[int, dict[str, Any]] = {}
        with ThreadPoolExecutor(max_workers=8) as threads:
            for _ in range(50):
                answers |= {answer["pid"]: answer for answer in threads.map(ask, range(8))}
                if len(answers) > 1:
                    return answers
        raise AssertionError(f"All of 400 requests were answered by one worker, {answers}")


def write_modules(page: str, folder: Path, replaced: Mapping[str, str]) -> None:
    """Writes the modules of a page and those of the guide into a folder, with other addresses of servers."""
    for block in [*program(DECLARE), *blocks(PAGES / f"{page}.md")]:
        if block.module is not None and block.language == "python":
            source = block.code
            for old, new in replaced.items():
                source = source.replace(old, new)
            (folder / f"{block.module}.py").write_text(source, "utf-8")


class WorkerProcess(HttpServer):
    """A worker that runs the program of a page by its library's own command. It is ready when its log says so."""

    name = "worker"
    probe = ""

    def __init__(self, page: str, command: Sequence[str], ready: str, database: str, redis: str) -> None:
        super().__init__()
        self._page = page
        self._line = command
        self._ready = ready
        jobs = repr(redis.partition("?")[0].removesuffix("/0") + "/1")
        self._replaced = {REDIS: repr(redis), DATABASE: repr(database), JOBS: jobs}

    def ask(self) -> None:
        if self._ready not in self.log():
            raise httpx.ConnectError(self.log())

    def log(self) -> str:
        """Returns what the worker has printed so far."""
        return (self.folder / "log").read_text(errors="replace") if (self.folder / "log").exists() else ""

    def _prepare(self) -> None:
        write_modules(self._page, self.folder, self._replaced)

    def _given(self) -> list[str]:
        return [f"PYTHONPATH={ROOT}:{self.folder}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"]

    def _command(self) -> list[str | Path]:
        return ["/usr/bin/env", "-C", self.folder, *self._given(), sys.executable, *self._line]

    def send(self, code: str) -> None:
        """Runs a program beside the worker, as a web application that sends it a job."""
        program = ["/usr/bin/env", "-C", str(self.folder), *self._given(), sys.executable, "-c", code]
        ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, f"{ran.stderr}\n{self.log()}"

    def stop(self) -> str:
        """Has the worker end. Returns its log."""
        assert self._process is not None
        os.kill(self.pid, self._end_signal)
        self._process.wait(timeout=30)
        return self.log()


def create_database(path: Path) -> str:
    """Creates an SQLite database with the rows of the guide, and returns its URL."""
    url = DatabaseUrl(f"sqlite://{path}", "sqlite")
    running = Program(DECLARE, {})
    loaded = [block.module for block in program(DECLARE) if block.module and running.load(block)]

    async def create() -> None:
        async with tortoise_on(url, "events"):
            with writes_without_cache():
                await sys.modules["rows"].create_rows()

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, create()).result()
    for module in loaded:
        sys.modules.pop(module, None)
    running.forget()
    return str(url)
