"""``make demo``: its claims hold, it fails if the cache breaks its promise, and it leaves no files behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(because="runs programs in processes of their own")

EXAMPLES = Path(__file__).parents[2] / "examples"

RUN = "import sys, quickstart; sys.exit(quickstart.main())"
WITHOUT_REDIS = "import private_redis; private_redis.find_redis = lambda: None"
ACCEPTING_ANY_FILL = """
import quickstart
from aiomodelcache.backends.protocol import Lease

class Careless(quickstart.{backend}):
    async def fill(self, fills):
        for fill in fills:
            await self.delete([fill.key])
            await self.lease([Lease(fill.key)], fill.expected[1:], 5_000)
        return await super().fill(fills)

quickstart.{backend} = Careless
"""
KILLED = """
import asyncio, os, pathlib, signal, sys, private_redis
async def main():
    async with private_redis.private_redis(pathlib.Path(sys.argv[1])) as url:
        print(url, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


INTERRUPTED = """
import builtins, os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
write = print
def write_and_interrupt(*args, **kwargs):
    write(*args, **kwargs)
    builtins.print = write
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGINT)
builtins.print = write_and_interrupt
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as ``make demo`` does, with ``folder`` for its temporary files and warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{EXAMPLES.parent}", "TMPDIR": str(folder)}


def steps(output: str) -> dict[str, tuple[int, int, str]]:
    """Returns the lines of the demo by label: round trips, SQL statements and result."""
    lines = re.findall(r"^(\S.*?)  +(\d+) +(\d+) +\d+\.\d   (.*)$", output, re.MULTILINE)
    return {label: (int(trips), int(sql), shown) for label, trips, sql, shown in lines}


def refuses(path: Path) -> bool:
    """Returns True if no process listens on the socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) != 0


@pytest.mark.usefixtures("redis_server")
def test_the_demo_shows_costs_and_the_race_that_only_the_plain_cache_loses(tmp_path: Path) -> None:
    demo = run(EXAMPLES / "quickstart.py", folder=tmp_path)
    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert re.match(r"SQLite with 2,178 events, 156 users and 44 venues; a private Redis\n", demo.stdout)
    assert demo.stdout.endswith("\nAll 13 claims hold.\n")
    shown = steps(demo.stdout)
    assert len(shown) == 13
    assert shown["get(slug=...), cold"][1] == 1
    assert shown["get(slug=...), warm"][:2] == (1, 0)
    assert shown["gather of 100, by Tortoise alone"][:2] == (0, 100)
    assert shown["gather of 100, by the cache, warm"][:2] == (1, 0)
    assert shown["a batch of four, warm"][:2] == (1, 0)
    assert shown["await event.organizer, warm"][:2] == (1, 0)
    assert shown["save() with a new title and slug"][:2] == (2, 1)
    assert shown["get(slug=...) by the new slug"][2] == "PyCon Lisbon 2026"
    assert shown["get(slug=...) by the old slug"][2] == "DoesNotExist"
    assert shown["a race of read and save, cached by hand"][2] == "Rust Sprint Oslo 2026  <- STALE"
    assert shown["the same race, aiomodelcache"][2] == "Rust Sprint Oslo, moved to June"
    assert list(tmp_path.iterdir()) == [], "the demo left files behind"


def test_without_a_redis_the_demo_uses_memory_and_says_so(tmp_path: Path) -> None:
    demo = run("-c", f"{WITHOUT_REDIS}\n{RUN}", folder=tmp_path)
    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert "memory://, as no Redis could be started" in demo.stdout
    assert len(steps(demo.stdout)) == 13


@pytest.mark.parametrize("backend", ["RedisBackend", "MemoryBackend"])
def test_the_demo_fails_if_fills_are_not_guarded_by_leases(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if backend == "RedisBackend":
        request.getfixturevalue("redis_server")
    without = WITHOUT_REDIS if backend == "MemoryBackend" else ""
    demo = run("-c", f"{without}\n{ACCEPTING_ANY_FILL.format(backend=backend)}\n{RUN}", folder=tmp_path)
    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert "claims hold" not in demo.stdout
    stale = "Rust Sprint Oslo, moved to May"
    assert f"FAILED  the same race, aiomodelcache: this is not what it should be: {stale}\n" in demo.stderr
    assert list(tmp_path.iterdir()) == [], "the demo left files behind"


def test_an_interrupted_demo_ends_and_leaves_nothing(tmp_path: Path) -> None:
    interrupted = run("-c", INTERRUPTED, EXAMPLES / "quickstart.py", folder=tmp_path)
    assert interrupted.stdout.startswith("SQLite with")
    assert interrupted.returncode == -signal.SIGINT
    assert list(tmp_path.iterdir()) == [], "the demo left files behind"


@pytest.mark.usefixtures("redis_server")
def test_the_redis_of_the_demo_ends_even_if_the_demo_is_killed(tmp_path: Path) -> None:
    killed = run("-c", KILLED, tmp_path, folder=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == f"unix://{tmp_path}/redis.sock\n"
    deadline = time.monotonic() + 60
    while not refuses(tmp_path / "redis.sock") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert refuses(tmp_path / "redis.sock")
