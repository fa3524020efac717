"""A second event loop, in a thread of its own, with Tortoise on the test's database."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.support.databases import DatabaseUrl, tortoise_on

T = TypeVar("T")


class SecondLoop:
    """Runs what the test gives it, one piece after the other, in one task of another thread's event loop."""

    def __init__(self, database: DatabaseUrl, *modules: str) -> None:
        self._database = database
        self._modules = modules
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),))

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._work: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], Future[Any]] | None] = asyncio.Queue()
        async with tortoise_on(self._database, *self._modules, create=False) as connection:
            await connection.execute_query("SELECT 1")
            self._ready.set_result(None)
            while item := await self._work.get():
                work, future = item
                try:
                    future.set_result(await work())
                except BaseException as error:
                    future.set_exception(error)

    async def start(self) -> None:
        self._thread.start()
        await asyncio.wrap_future(self._ready)

    async def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._work.put_nowait, None)
        await asyncio.to_thread(self._thread.join)

    def give(self, work: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        """Hands ``work`` to the loop, and returns a future of this loop for its result."""
        future: Future[T] = Future()
        self.loop.call_soon_threadsafe(self._work.put_nowait, (work, future))
        return asyncio.wrap_future(future)


@asynccontextmanager
async def second_loop(database: DatabaseUrl, *modules: str) -> AsyncIterator[SecondLoop]:
    """Runs a ``SecondLoop``. Its pieces of work must have ended before."""
    second = SecondLoop(database, *modules)
    await second.start()
    try:
        yield second
    finally:
        await second.stop()
