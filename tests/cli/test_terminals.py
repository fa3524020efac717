"""Every command against a live service: in a terminal multiplexer, and piped."""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aiomodelcache.cli.main import commands
from tests.cli.test_top import serving
from tests.support.application import LIMIT, Application
from tests.support.effort import share

pytestmark = pytest.mark.slow(because="it runs each command as a process, twice")

COMMANDS = {
    "check": (),
    "stats": (),
    "keys": ("Listing",),
    "inspect": ("Listing", "slug=secret-1"),
    "explain": ("titles", "1"),
    "refresh": ("Listing", "slug=secret-1"),
    "invalidate": ("Listing", "slug=secret-2"),
    "clear": ("Mark",),
    "warm": ("Listing",),
    "advise": ("--published",),
    "doctor": (),
    "verify": (),
    "audit": ("Seller", "tests.support.models.shop_models:seller_copy"),
    "top": ("--once",),
}
"""The arguments of each command."""


class Tmux:
    """A terminal multiplexer with a server of its own, and one terminal with a shell in the application's folder."""

    def __init__(self, folder: Path, application: Application) -> None:
        self._command = ["tmux", "-S", str(folder / "tmux")]
        self._number = 0
        environment = [f"-e{name}={application.environment[name]}" for name in ("PYTHONPATH", "PATH")]
        self._do("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "300", "-c", str(application.folder),
                 *environment, "env", "PS1=", "sh")  # fmt: skip

    def _do(self, *arguments: str) -> str:
        return subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=True).stdout

    def type(self, program: list[str]) -> None:
        """Types a command, whose end and exit status the shell will tell, and clears the screen before it."""
        self._number += 1
        line = f"clear; {shlex.join(program)}; echo end {self._number} status $?"
        self._do("send-keys", line, "Enter")

    def screen(self) -> str:
        """Returns what the terminal shows, with its colours."""
        return self._do("capture-pane", "-p", "-e")

    def press(self, key: str) -> None:
        """Presses a key."""
        self._do("send-keys", key)

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition on the terminal, which tells nothing by itself."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, self.screen()
            time.sleep(0.05)

    def result(self) -> tuple[int, str]:
        """Waits for the end of the command. Returns its exit status and its output."""
        end = re.compile(rf"^end {self._number} status (\d+)", re.MULTILINE)
        self.until(lambda: end.search(self.screen()))
        screen = self.screen()
        match = end.search(screen)
        assert match is not None
        return int(match[1]), screen[: match.start()]

    def close(self) -> None:
        """Ends the server and what runs in it."""
        subprocess.run([*self._command, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def service(filled: Application) -> Iterator[Application]:
    """The application with a process that serves."""
    with serving(filled):
        yield filled


@pytest.fixture
def tmux(service: Application, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("this machine has no tmux")
    made = Tmux(tmp_path_factory.mktemp("t"), service)
    yield made
    made.close()


@pytest.mark.exhaustive(because="every command, on a terminal and piped")
def test_every_command_has_colours_on_a_terminal_and_none_in_a_pipe(service: Application, tmux: Tmux) -> None:
    assert {*COMMANDS} == {*commands.commands} - {"relay", "triggers", "publication"}, (
        "these need relayed models: tests/cli"
    )
    tmux.until(lambda: not service.run("advise", "--published", status=None).status)  # its process has published
    for name, given in share(COMMANDS.items(), one_in=6):
        arguments = (name, *given)
        with ThreadPoolExecutor(max_workers=1) as thread:
            pipe = thread.submit(service.process, *arguments)
            tmux.type(service.start(*arguments))
            status, screen = tmux.result()
            piped = pipe.result().out
        assert status == 0, screen
        assert re.search(r"\x1b\[[0-9;]*m", screen), screen
        assert piped, name
        assert "\x1b" not in piped
        assert "secret" not in screen + piped
        if name != "top":  # which has a test of its own for that
            assert isinstance(service.run(*arguments, "--json").data, dict), name


def test_top_is_redrawn_in_its_place_until_ctrl_c(service: Application, tmux: Tmux) -> None:
    tmux.type(service.start("top", "--interval", "0.2"))
    tmux.until(lambda: "hottest" in tmux.screen())
    first = tmux.screen()
    tmux.until(lambda: tmux.screen() != first)
    assert tmux.screen().count("slowest") == 1
    tmux.press("C-c")
    assert tmux.result()[0] == 130
