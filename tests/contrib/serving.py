"""Runs the application of a page of docs/frameworks with the framework's own server, in several workers."""

import asyncio
import os
import sys
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Framework:
    """A framework, the command that serves its page, and a part of its own response to an exception of 404."""

    name: str
    command: Sequence[str]
    not_found: str
    needs: Sequence[str] = ()
    """Modules that the command needs, beside the framework's."""

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
        self._urls = {REDIS: repr(redis), DATABASE: repr(database)}

    def ask(self) -> None:
        if "Traceback" in self.log():  # its supervisor would start workers again and again
            raise ServerFailed(f"{self._framework.name} does not start:\n{self.log()}")
        super().ask()

    def _prepare(self) -> None:
        page = PAGES / f"{self._framework.name}.md"
        found = [*program(DECLARE), *(block for block in blocks(page) if block.language == "python")]
        for block in found:
            if block.module is not None:
                source = block.code
                for old, new in self._urls.items():
                    source = source.replace(old, new)
                (self.folder / f"{block.module}.py").write_text(source, "utf-8")
        for source, target in (("probe", "probe"), (self._framework.name, "served")):
            (self.folder / f"{target}.py").write_text((SERVICES / f"{source}.py").read_text("utf-8"), "utf-8")

    def _command(self) -> list[str | Path]:
        command = [part.format(port=self.port) for part in self._framework.command]
        given = [f"PYTHONPATH={ROOT}:{self.folder}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"]
        return ["/usr/bin/env", *given, sys.executable, *command]

    def stop(self) -> str:
        """Has the server end its workers, and returns its log."""
        assert self._process is not None
        os.kill(self.pid, self._end_signal)  # not the workers, some of which would end without closing anything
        self._process.wait(timeout=30)
        return (self.folder / "log").read_text(errors="replace")

    def ask_workers(self, path: str) -> dict[int, dict[str, Any]]:
        """Returns the answers of both workers, by their process. Each request has a connection of its own."""

        def ask(_: object) -> dict[str, Any]:
            answer: dict[str, Any] = httpx.get(self.url + path, trust_env=False, timeout=30).json()
            return answer

        answers: dict[int, dict[str, Any]] = {}
        with ThreadPoolExecutor(max_workers=8) as threads:
            for _ in range(50):
                answers |= {answer["pid"]: answer for answer in threads.map(ask, range(8))}
                if len(answers) > 1:
                    return answers
        raise AssertionError(f"All of 400 requests were answered by one worker, {answers}")


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
