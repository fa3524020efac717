"""The event loop of one open cache, as writers in other threads reach it. Must not know caches or intents."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from aiomodelcache.exceptions import BackendError

T = TypeVar("T")

ANSWER_LIMIT: Final = 2.0
"""Maximum seconds that a write waits for another thread's event loop. Beyond it, that loop's cache is unreachable."""


class OwnLoop:
    """The event loop that a cache was opened in. Only this loop uses the cache's connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @property
    def is_here(self) -> bool:
        """True if the caller runs in this loop."""
        return asyncio.get_running_loop() is self._loop

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Awaits ``work``, which runs in this loop, from another one. Cancelling the caller does not end the work.

        Returns and raises what ``work`` raises, and ``BackendError`` if this loop does not run, or answers too late.
        """
        if not self._loop.is_running():
            raise BackendError("The event loop that opened the cache is not running: close the cache in that loop.")
        coroutine = work()
        try:
            running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:  # closed in the meantime
            coroutine.close()
            raise BackendError(f"{error}: close the cache before its event loop.") from error
        future = asyncio.wrap_future(running)
        await asyncio.wait([future], timeout=ANSWER_LIMIT)
        if not future.done():
            raise BackendError(f"The event loop that opened the cache did not answer within {ANSWER_LIMIT:g} s.")
        return future.result()

    def call(self, work: Callable[[], object]) -> None:
        """Calls ``work`` in this loop, at once if the caller runs in it. Does nothing if the loop is closed."""
        if self.is_here:
            work()
        else:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(work)


def has_running_loop() -> bool:
    """Returns True in a thread whose event loop runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
