"""An event loop whose clock is virtual: it jumps to the next timer as soon as nothing else is left to do.

So a simulation of minutes takes seconds, and its result does not depend on how fast or how busy the machine is.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 1.0
"""Seconds of real time to wait at once for a thread that works for the simulation."""


class VirtualClock(selectors.DefaultSelector):
    """A selector that passes time instead of waiting, unless real work is in progress."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.working = 0
        """The number of calls in progress whose results arrive from threads."""

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.working or timeout is None:
            return super().select(PATIENCE)
        self.now += timeout
        return ready

    def counted(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Returns a function that does the same work, during which the clock stands still."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.working += 1
            try:
                return await work(*args, **kwargs)
            finally:
                self.working -= 1

        return call


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of a ``VirtualClock``."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now
