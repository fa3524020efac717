"""Owns the background tasks of one open cache. Knows neither caches nor plans."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

import anyio

T = TypeVar("T")

GRACE: Final = 10.0
"""Maximum seconds that cancelled tasks may take to end. Beyond it, closing goes on without them."""


class BackgroundTasks:
    """Owns background tasks: none is forgotten, and closing waits for all of them.

    Tasks run in a copy of ``context``, not of whoever happened to ask first: a caller's open
    transaction or request scope must not leak into work that is done for many callers.

    An AnyIO task group cannot own these tasks: the task that enters it must also leave it, and a cache may be
    opened by one task and closed by another (fixtures, startup and shutdown handlers).
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.failed: Callable[[Exception], None] | None = None
        """Told of a task that raised, which none should: somebody may be waiting for what it was to do."""
        self.ended = False
        """Whether what is still under way was cancelled, and nothing is to be begun any more."""
        self._running: set[asyncio.Task[None]] = set()
        self._promised = 0
        self._fulfilled: asyncio.Future[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` in the background. It must not raise: there is nobody to raise to but ``failed``."""
        # Not by the loop's task factory: an eager one would run the work before its caller has finished queueing it.
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), context=self.context.copy())
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """Like ``start``, but returns what to wait for; the work goes on if whoever waits is cancelled.

        To wait for the task and to shield that would take two more turns of the event loop.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_: object) -> None:  # a task that is cancelled before it begins tells nobody
            work.close()
            _tell(done)

        self.start(_telling(work, done)).add_done_callback(end)
        return done

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.failed is not None:
            self.failed(error)

    def schedule(self, work: Callable[[], None]) -> None:
        """Calls ``work`` in the next turn of the loop. Closing waits until ``done`` is called for it."""
        self._promised += 1
        self.call_soon(work)

    def call_soon(self, work: Callable[[], None]) -> None:
        """Calls ``work`` in the next turn of the loop."""
        asyncio.get_running_loop().call_soon(self.run, work, context=self.context.copy())

    def done(self) -> None:
        """Says that what was promised is done, whatever came of it."""
        self._promised -= 1
        if not self._promised and self._fulfilled is not None and not self._fulfilled.done():
            self._fulfilled.set_result(None)

    def run(self, work: Callable[[], None]) -> None:
        """Calls ``work``, which must not raise, either."""
        try:
            work()
        except Exception as error:
            self._fail(error)

    async def finish(self, timeout: float) -> None:
        """Waits for all tasks, and for those that they start; cancels what is left after ``timeout`` seconds.

        If the caller is cancelled, cancels them at once. Either way waits until they have ended, for ``GRACE`` at most.
        """
        try:
            with anyio.move_on_after(timeout):
                await asyncio.sleep(0)  # what was asked for in this tick is handed over first
                while self._running or self._promised:
                    if self._running:
                        await asyncio.wait(self._running)
                    else:
                        self._fulfilled = asyncio.get_running_loop().create_future()
                        await self._fulfilled
        finally:
            self.ended = True
            late = list(self._running)
            for task in late:
                task.cancel()
            if late:
                with anyio.move_on_after(GRACE, shield=True):
                    await asyncio.wait(late)


async def _telling(work: Coroutine[Any, Any, None], done: "asyncio.Future[None]") -> None:
    try:
        await work
    finally:
        _tell(done)


def _tell(done: "asyncio.Future[None]") -> None:
    if not done.done():  # whoever waited may have been cancelled
        done.set_result(None)
