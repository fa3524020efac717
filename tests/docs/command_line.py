"""Runs the commands of the page about the command line for the application ``shop``, as processes on a terminal.

``python -m tests.docs.command_line`` writes their output into the page.
"""

import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.support.servers import RedisServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "command-line.md"
BLOCK = re.compile(r"^```text\n\$ aiomodelcache (?P<arguments>[^\n]*)\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WIDTH = 80
"""Number of columns of the terminal."""
SETTINGS = """
[tool.aiomodelcache]
tortoise = "shop.settings.TORTOISE_ORM"
url = "{url}"
namespace = "shop"
imports = ["shop.views"]
"""


class Shop:
    """The application in a folder of its own, with a server of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._url = url
        paths = os.pathsep.join([str(folder), str(ROOT)])
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        database = f"sqlite://{folder / 'shop.sqlite3'}"
        self._environment = kept | {
            "PYTHONPATH": paths,
            "SHOP_DATABASE": database,
            "COLUMNS": str(WIDTH),
            "TERM": "xterm",
        }
        self._services = ExitStack()
        shutil.copytree(Path(__file__).parent / "shop", folder / "shop")
        (folder / "pyproject.toml").write_text(SETTINGS.format(url=url))

    def work(self, what: str) -> None:
        """Lets the application do something."""
        subprocess.run(
            self._program("tests.docs.shop_work", what, self._url), cwd=self.folder, env=self._environment, check=True
        )

    def serve(self) -> None:
        """Starts two processes that read for ever, until ``stop``."""
        for _ in range(2):
            process = subprocess.Popen(
                self._program("tests.docs.shop_work", "serve", self._url),
                cwd=self.folder, env=self._environment, stdout=subprocess.PIPE,
            )  # fmt: skip
            self._services.callback(process.wait)
            self._services.callback(process.kill)
            assert process.stdout is not None
            self._services.callback(process.stdout.close)
            assert process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        """Ends the processes."""
        self._services.close()

    def output(self, arguments: str) -> str:
        """Runs a command on a terminal. Returns what a person reads there."""
        own, theirs = pty.openpty()
        program = self._program("aiomodelcache", *arguments.split())
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        process = subprocess.Popen(program, cwd=self.folder, env=self._environment, **streams)  # type: ignore[call-overload]
        os.close(theirs)
        received = b""
        with suppress(OSError):  # the end of a terminal whose process has ended
            while chunk := os.read(own, 65_536):
                received += chunk
        os.close(own)
        process.wait()
        text = COLOURS.sub("", received.decode()).replace("\r\n", "\n").replace(socket.gethostname(), "web")
        lines = [wrapped for line in text.split("\n") for wrapped in _wrapped(line.rpartition("\r")[2].rstrip())]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"

    @staticmethod
    def _program(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]


def _wrapped(line: str) -> list[str]:
    """Returns the lines that a narrow terminal makes of a long one."""
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False)


@contextmanager
def shop(folder: Path, server: RedisServer) -> Generator[Shop]:
    """Runs the application with rows and entries."""
    made = Shop(folder, server.url)
    made.work("fill")
    try:
        yield made
    finally:
        made.stop()


def outputs(page: str, made: Shop) -> Iterator[tuple[re.Match[str], str]]:
    """Yields each block of the page with a command, and the command's output now."""
    for block in BLOCK.finditer(page):
        arguments = block["arguments"]
        command = arguments.partition(" ")[0]
        if command == "stats":
            made.serve()
        elif command == "advise":
            made.stop()
            made.work("trace")
        elif command == "doctor":
            made.serve()
        elif command == "verify":
            made.stop()
            made.work("behind")
        elif command == "audit":
            made.work("orders")
        run = arguments + (" --once" if command == "top" else "")
        yield block, made.output(run)


def main() -> None:
    """Writes the outputs into the page."""
    page = PAGE.read_text("utf-8")
    server = RedisServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder, shop(Path(folder), server) as made:
            found = list(outputs(page, made))
    finally:
        server.stop()
    for block, output in reversed(found):
        start, end = block.span("output")
        page = page[:start] + output + page[end:]
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
