"""The background tasks of one open cache. Must not know caches or plans."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar

import anyio

from aiomodelcache.exceptions import CacheError, CacheNotOpen

T = TypeVar("T")

CLOSED_DURING_LOOKUP_MESSAGE: Final = "The cache was closed before this lookup was answered."

CANCEL_GRACE: Final = 10.0
"""Maximum seconds that cancelled tasks may take to end. Beyond it, closing goes on without them."""


class SupportsCopy(Protocol):
    """A context, or an object that returns a context for each task."""

    def copy(self) -> Context:
        """Returns a context for one task."""
        ...


class BackgroundTasks:
    """The owner of background tasks: no task is lost, and closing waits for all of them.

    Tasks run in a copy of ``context``, not in the context of the caller that happened to start them. A caller's open
    transaction or request scope must not leak into work that is done for many callers.

    An AnyIO task group cannot own these tasks, because the task that enters it must also leave it. A cache may be
    opened by one task and closed by another (fixtures, startup and shutdown handlers).
    """

    def __init__(self, context: SupportsCopy, leave: Callable[[Context], Context] = Context.copy) -> None:
        self.context = context
        self.leave = leave
        """Returns a copy of a caller's context for work of that caller, without its transactions and scopes."""
        self.on_failure: Callable[[Exception], None] | None = None
        """A callback for the exception of a task. No task should raise, because callers may be waiting for its result.
        """
        self.ended = False
        """True if the remaining tasks were cancelled and nothing may be started any more."""
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = 0
        self._all_done: asyncio.Future[None] | None = None

    def cancellation(self, work: str) -> CacheError:
        """Returns the error of a lookup whose work was cancelled, by the cache that closes or by other code."""
        return CacheNotOpen(CLOSED_DURING_LOOKUP_MESSAGE) if self.ended else CacheError(f"The {work} was cancelled.")

    @property
    def busy(self) -> bool:
        """True if a task is running or scheduled."""
        return bool(self._running or self._scheduled)

    def start(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Runs ``work`` in the background. ``work`` must not raise: only ``on_failure`` would see the exception.

        ``context``: another context for the task, for work that belongs to one caller after all.
        """
        # Not by the event loop's task factory: an eager one would run the work before its caller has queued all of it.
        context = self.context.copy() if context is None else context
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), context=context)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def start_shielded(self, work: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        """Runs ``work`` in the background and returns a future for its end.

        Cancelling a waiter does not cancel the work.

        Awaiting ``asyncio.shield`` of the task would take two more turns of the event loop.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_: object) -> None:  # a task that is cancelled before it begins notifies no waiter
            work.close()
            _notify(done)

        self.start(_run_and_notify(work, done)).add_done_callback(end)
        return done

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.on_failure is not None:
            self.on_failure(error)

    def schedule(self, work: Callable[[], None]) -> None:
        """Calls ``work`` in the next turn of the event loop. Closing waits until ``done`` is called for it."""
        self._scheduled += 1
        self.call_soon(work)

    def call_soon(self, work: Callable[[], None]) -> None:
        """Calls ``work`` in the next turn of the event loop."""
        asyncio.get_running_loop().call_soon(self.run, work, context=self.context.copy())

    def done(self) -> None:
        """Marks one scheduled piece of work as done, whether or not it succeeded."""
        self._scheduled -= 1
        if not self._scheduled and self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)

    def run(self, work: Callable[[], None]) -> None:
        """Calls ``work``, which must not raise. An exception goes to ``on_failure``."""
        try:
            work()
        except Exception as error:
            self._fail(error)

    async def finish(self, timeout: float) -> None:
        """Waits for all tasks and the tasks that they start. After ``timeout`` seconds, cancels the remaining ones.

        If the caller is cancelled, cancels them at once. In both cases waits at most ``CANCEL_GRACE`` seconds for them
        to end.
        """
        try:
            with anyio.move_on_after(timeout):
                await asyncio.sleep(0)  # the requests of this tick are handed over first
                while self.busy:
                    if self._running:
                        await asyncio.wait(self._running)
                    else:
                        self._all_done = asyncio.get_running_loop().create_future()
                        await self._all_done
        finally:
            self.ended = True
            remaining = list(self._running)
            for task in remaining:
                task.cancel()
            if remaining:
                with anyio.move_on_after(CANCEL_GRACE, shield=True):
                    await asyncio.wait(remaining)


async def _run_and_notify(work: Coroutine[Any, Any, None], done: "asyncio.Future[None]") -> None:
    try:
        await work
    finally:
        _notify(done)


def _notify(done: "asyncio.Future[None]") -> None:
    if not done.done():  # the waiter may have been cancelled
        done.set_result(None)
