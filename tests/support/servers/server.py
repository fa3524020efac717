"""The life of a private server of any kind: from a free port to the certain end of its process."""

import abc
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.support.servers.programs import ServerMissing

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
"""Seconds until a starting server must answer.

Beyond it ``start`` raises ``ServerFailed``. An idle machine needs less than one.
"""

# Below the ports that Linux and macOS give to outgoing connections. Otherwise a client that retries a dead
# server's port may be given the same port as its own, and connect to itself.
_PORTS = range(15_000, 32_000)

# Waits for a line. End of file means that our process has ended, even by SIGKILL.
_WATCHDOG = """
trap "" HUP INT TERM
read -r line && exit 0
kill -s "$1" -- "-$2"
[ "$1" = KILL ] || { sleep 2; kill -s KILL -- "-$2"; }
rm -rf -- "$3"
"""


class ServerFailed(Exception):
    """The program exists but did not start. The message ends with its log."""


def free_port(ports: range = _PORTS) -> int:
    """Returns a TCP port of 127.0.0.1 on which no process listens at the moment."""
    for port in random.sample(ports, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerFailed(f"No free port among 100 tried in {ports}.")


class Server(abc.ABC):
    """One private server: a process group, a temporary folder, a TCP port and a Unix socket.

    The server and its data end with ``close``, at the latest with this process.

    >>> with RedisServer() as server:
    ...     server.url.startswith("redis://127.0.0.1:")
    True
    """

    name: ClassVar[str]
    _not_yet: ClassVar[tuple[type[Exception], ...]]
    """The exceptions that ``ask`` raises while the server is starting."""
    _end_signal: ClassVar[signal.Signals] = signal.SIGKILL  # the data need not be saved
    _ports: ClassVar[range] = _PORTS

    def __init__(self) -> None:
        self.port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @classmethod
    @abc.abstractmethod
    def program(cls) -> Path:
        """Returns the server's program. Raises ``ServerMissing``."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The URL of the server over TCP."""

    @abc.abstractmethod
    def ask(self) -> None:
        """Checks by a round trip over the Unix socket that this server answers."""

    @abc.abstractmethod
    def _command(self) -> list[str | Path]:
        """Returns the command that runs the server in the foreground, on ``port``."""

    def _prepare(self) -> None:  # noqa: B027 (Redis needs nothing)
        """Fills the new folder with the files that the server needs to start."""

    @classmethod
    def _account(cls) -> dict[str, Any]:
        """Returns the arguments for ``subprocess`` that set the user of the server."""
        return {}

    @property
    def folder(self) -> Path:
        """The server's own temporary folder."""
        if self._folder is None:
            raise RuntimeError(f"{type(self).__name__} is not started.")
        return self._folder

    @property
    def pid(self) -> int:
        """The process ID, which is also the ID of the process group."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not running.")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server and waits until it answers. Raises ``ServerMissing`` or ``ServerFailed``."""
        self.program()
        self._owner = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix=f"aiomodelcache-{self.name}-"))
        atexit.register(self.close)
        try:
            self._prepare()
            self._launch_on_free_port()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the server and removes its folder. Idempotent, and without effect in a forked child."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        self._end_process(self._end_signal)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _launch_on_free_port(self) -> None:
        for attempts_left in (2, 1, 0):
            self.port = free_port(self._ports)
            try:
                self._launch()
            except ServerFailed as error:
                # Another process may take the port before the server does.
                if "in use" not in str(error) or not attempts_left:
                    raise
            else:
                return

    def _launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = self._popen(self._command(), stdout=log, stderr=subprocess.STDOUT)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", self._end_signal.name[3:], str(self.pid), self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._await_answer(self._process)
        except BaseException:
            self._end_process(self._end_signal)
            raise

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        begin = time.monotonic()
        while True:
            if process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with {process.returncode} while starting:\n{self.log()}")
            try:
                return self.ask()
            except self._not_yet as error:
                waited = time.monotonic() - begin
                if waited > START_TIMEOUT:
                    raise ServerFailed(
                        f"{self.name} did not answer within {START_TIMEOUT} s ({error!r}):\n{self.log()}"
                    ) from error
                time.sleep(max(0.01, waited / 20))  # asking takes time from the server that is starting

    def _end_process(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:  # frozen, or ignores the signal
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.communicate(b"stand down\n")

    def _popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        # A minimal environment: PGPORT, MYSQL_HOME and the like refer to other servers.
        environment = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "TZ": "UTC"}
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=environment,
                start_new_session=True,  # Ctrl-C goes to pytest, which then ends the servers
                **self._account(),
                **options,
            )
        except PermissionError as error:
            raise ServerMissing(f"{command[0]} cannot be run by this user ({error})") from error

    def _run(self, *command: str | Path) -> None:
        with self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            output, _ = process.communicate(timeout=START_TIMEOUT)
        if process.returncode:
            raise ServerFailed(f"{command[0]} ended with {process.returncode}:\n{output.decode()[-2000:]}")

    def log(self) -> str:
        """Returns the end of the server's log."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]
