"""An application for tests of the command line: a folder with its configuration, a database, and a private Redis."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from click.testing import CliRunner
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache
from aiomodelcache.cli.main import commands
from tests.support.servers import RedisServer
from tests.support.warm import LIMIT, ROOT, run, warm_process

MODULE = "tests.support.models.shop_models"
PROGRAM = "aiomodelcache"


class Ran(NamedTuple):
    """The end of a command."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The JSON that the command printed."""
        assert self.err == "", self.err
        return json.loads(self.out)


@dataclass
class Application:
    """An application that a command is run for."""

    folder: Path
    redis: RedisServer
    database: str
    namespace: str = "shop"
    keys: dict[str, str] = field(default_factory=dict[str, str])
    """Further keys of ``[tool.aiomodelcache]``, as TOML."""
    modules: tuple[str, ...] = (MODULE,)
    """The modules of the application's models."""

    def configure(self) -> None:
        """Writes the files of the application."""
        config = {
            "connections": {"default": self.database},
            "apps": {"app": {"models": [*self.modules], "default_connection": "default"}},
        }
        (self.folder / f"{self.settings_module}.py").write_text(f"TORTOISE_ORM = {config!r}\n")
        keys = {
            "tortoise": f'"{self.settings_module}.TORTOISE_ORM"',
            "url": f'"{self.redis.url}"',
            "namespace": f'"{self.namespace}"',
            "imports": f'["{MODULE}"]',
        } | self.keys
        lines = [f"{name} = {value}" for name, value in keys.items() if value]
        (self.folder / "pyproject.toml").write_text("\n".join(["[tool.aiomodelcache]", *lines, ""]))

    @property
    def settings_module(self) -> str:
        """The module with Tortoise's configuration: another name for each test, because Python imports it once."""
        return f"settings_{self.folder.name}"

    def run(self, *arguments: str, status: int | None = 0) -> Ran:
        """Runs a command in this process, and asserts its exit status unless that is None."""
        EXECUTOR_CACHE.clear()
        with inside(self.folder):
            result = CliRunner().invoke(commands, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert status is None or result.exit_code == status, result.output
        return Ran(result.exit_code, result.stdout, result.stderr)

    def start(self, *arguments: str) -> list[str]:
        """Returns the command line of a process that runs a command."""
        return [sys.executable, "-m", PROGRAM, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of processes, without what the shell of the tests says about colours."""
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}

    def process(self, *arguments: str, status: int = 0, **environment: str) -> Ran:
        """Runs a command as a process whose output goes into files."""
        ended, *written = run(PROGRAM, arguments, self.folder, self.environment | environment)
        assert ended == status, written
        return Ran(ended, *written)

    def terminal(self, *arguments: str, status: int = 0) -> str:
        """Runs a command as a process on a terminal. Returns what the terminal received."""
        own, theirs = pty.openpty()
        warm_process(PROGRAM).start(arguments, self.folder, self.environment, [theirs] * 3)
        os.close(theirs)
        received = b""
        with suppress(OSError):  # the end of a terminal whose process has ended
            while chunk := os.read(own, 65536):
                received += chunk
        os.close(own)
        assert warm_process(PROGRAM).wait(LIMIT) == status, received
        return received.decode()

    def do(self, work: Callable[[ModelCache], Awaitable[Any]], **settings: Any) -> Any:
        """Runs a coroutine function of an open cache in the application, as another process of it would."""

        async def main() -> Any:
            EXECUTOR_CACHE.clear()
            async with TortoiseContext() as context:
                config = {
                    "connections": {"default": self.database},
                    "apps": {"app": {"models": [*self.modules], "default_connection": "default"}},
                }
                await context.init(config=config)
                async with ModelCache(self.redis.patient_url, namespace=self.namespace, **settings) as cache:
                    with anyio.fail_after(LIMIT):
                        return await work(cache)

        return asyncio.run(main())


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Runs a block in a folder, and forgets its modules' path afterwards."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
