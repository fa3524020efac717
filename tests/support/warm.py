"""A process that has imported a program and forks itself for each command, which saves a second of imports.

A command has its own process, folder, environment and streams, as if it were started by a shell. Only that a fresh
interpreter can import it is not shown: the tests that start ``python -m aiomodelcache`` themselves do that.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

ROOT = Path(__file__).parents[2]
IMPORTED = {
    "aiomodelcache": ("aiomodelcache.cli.main", "tortoise.backends.sqlite"),
    "tests.support.forking": ("aiomodelcache", "tortoise.backends.sqlite"),
    # Without plugins, whose asserts pytest rewrites when it imports them itself.
    "pytest": ("pytest", "aiomodelcache.testing", "coverage", "tests.support.servers"),
}
"""Modules that are imported before the processes of a program begin."""
LIMIT = 120.0
"""Seconds that a process of ``run`` may take. A test fails beyond it."""
_LONGEST = 1 << 20
"""Bytes of a request, of which the environment is most."""


class WarmProcess:
    """The process, which runs one command of ``program`` at a time and ends with this one."""

    def __init__(self, program: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, program],
                stdin=theirs,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: list[int]) -> None:
        """Starts ``python -m program`` with these arguments, and with these files as its standard streams."""
        socket.send_fds(self._socket, [json.dumps([arguments, str(folder), dict(environment)]).encode()], streams)

    def wait(self, limit: float) -> int:
        """Returns the exit status of the command. One that takes longer than ``limit`` ends with a ``TimeoutError``."""
        self._socket.settimeout(limit)
        try:
            return int(self._socket.recv(100))
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            self.close()
            warm_process.cache_clear()
            raise

    def close(self) -> None:
        """Ends the process."""
        atexit.unregister(self.close)
        self._socket.close()
        self._process.wait()


@cache
def warm_process(program: str) -> WarmProcess:
    """Returns the warm process of this one for a program."""
    return WarmProcess(program)


def run(program: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Runs ``python -m program`` and returns its exit status, its output and its errors, which go into files."""
    process = warm_process(program)
    with Path(os.devnull).open("rb") as empty, TemporaryFile() as out, TemporaryFile() as err:
        streams = [stream.fileno() for stream in (empty, out, err)]
        process.start(arguments, folder, environment, streams)
        status = process.wait(LIMIT)
        out_text, err_text = (os.pread(stream, os.fstat(stream).st_size, 0).decode() for stream in streams[1:])
    return status, out_text, err_text


def run_pytest(*arguments: str | Path, **environment: str) -> str:
    """Returns what pytest prints with these arguments, the repository's configuration, and few plugins."""
    plugins = ["pytest_asyncio.plugin", "xdist.plugin", "tests.conftest", "no:cacheprovider"]
    always = ["-c", "pyproject.toml", *(word for name in plugins for word in ("-p", name))]
    given = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment
    _, out, err = run("pytest", [*always, *map(str, arguments)], ROOT, given)
    return out + err


def await_command(requests: socket.socket) -> bool:
    """Forks for each request. Returns True in the new process, which is to run the command, and False at the end."""
    while True:
        request, streams, _, _ = socket.recv_fds(requests, _LONGEST, 3)
        if not request:
            return False
        pid = os.fork()
        if not pid:
            break
        for stream in streams:
            os.close(stream)
        requests.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    requests.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    arguments, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0], sys.argv[1:] = folder, arguments
    return True


if __name__ == "__main__":
    program = sys.argv[1]
    for module in IMPORTED[program]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    if await_command(socket.socket(fileno=os.dup(0))):
        runpy.run_module(program, run_name="__main__", alter_sys=True)
