"""The processes of a soak, as the one that starts them sees them."""

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
PATIENCE: Final = 120.0
"""Seconds until a process must have said what it is waited for."""


class Process:
    """One process that carries out an order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.life = Life(time.monotonic_ns(), on_write_error=order.settings.get("on_write_error", "retry"))
        self.tally: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, order: Order) -> "Process":
        """Starts it and waits until it is at work."""
        self = cls(order)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "soak.worker",
            json.dumps(asdict(order)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            await self.hears("ready")
        except BaseException:
            await self.kill()
            raise
        return self

    def tell(self, command: str) -> None:
        """Gives it a command, if it still lives."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.write(f"{command}\n".encode())

    async def hears(self, word: str, patience: float = PATIENCE) -> str:
        """Waits until it says ``word``; returns what follows. Raises ``TimeoutError`` or ``EOFError``."""
        assert self._process.stdout is not None
        with anyio.fail_after(patience):
            while line := (await self._process.stdout.readline()).decode().strip():
                said, _, rest = line.partition(" ")
                if said == word:
                    return rest
        raise EOFError(f"process {self.order.number} ended with {await self._process.wait()}, and never said {word!r}")

    async def kill(self) -> None:
        """Ends it at once, also in a scope that is cancelled."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await self._process.wait()
        self.life.ended, self.life.killed = time.monotonic_ns(), True

    async def finish(self) -> None:
        """Lets it end by itself, at its leisure. Raises ``TimeoutError`` or ``EOFError``."""
        try:
            self.tell("quit")
            self.tally = json.loads(await self.hears("tally"))
            with anyio.fail_after(PATIENCE):
                await self._process.wait()
            self.life.ended = time.monotonic_ns()
        except BaseException:
            await self.kill()
            raise
