"""``Process``: a process of a soak, as seen by the process that starts it."""

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio

from soak.predicted import Life
from soak.worker import Order

ROOT: Final = Path(__file__).parent.parent
REPLY_TIMEOUT: Final = 120.0
"""Maximum seconds to wait for a message of a process, or for its end. Beyond it, ``TimeoutError`` is raised."""


class Process:
    """One process that carries out an order."""

    def __init__(self, order: Order, module: str) -> None:
        self.order = order
        self.module = module
        self.life = Life(time.monotonic_ns(), on_write_error=order.settings.get("on_write_error", "retry"))
        self.tally: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, order: Order, module: str = "soak.worker") -> "Process":
        """Starts a process of a module and waits until it works."""
        self = cls(order, module)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            json.dumps(asdict(order)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            await self.wait_for("ready")
        except BaseException:
            await self.kill()
            raise
        return self

    def tell(self, command: str) -> None:
        """Sends a command to the process, if it still runs."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.write(f"{command}\n".encode())

    async def wait_for(self, message: str, timeout: float = REPLY_TIMEOUT) -> str:
        """Waits until the process prints ``message``. Returns the rest of the line.

        Raises ``TimeoutError`` or, if the process ends before, ``EOFError``.
        """
        assert self._process.stdout is not None
        with anyio.fail_after(timeout):
            while line := (await self._process.stdout.readline()).decode().strip():
                received, _, rest = line.partition(" ")
                if received == message:
                    return rest
        raise EOFError(f"process {self.order.number} ended with {await self._process.wait()} and without {message!r}")

    def freeze(self) -> None:
        """Stops the process until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the process go on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kills the process, also in a scope that is cancelled."""
        self._signal(signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await self._process.wait()
        self.life.ended, self.life.killed = time.monotonic_ns(), True

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def finish(self) -> None:
        """Asks the process to end, and waits for its end. Raises ``TimeoutError`` or ``EOFError``."""
        try:
            self.tell("quit")
            self.tally = json.loads(await self.wait_for("tally"))
            with anyio.fail_after(REPLY_TIMEOUT):
                await self._process.wait()
            self.life.ended = time.monotonic_ns()
        except BaseException:
            await self.kill()
            raise
