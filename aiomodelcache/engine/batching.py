"""Batching: of items added in one tick, and of items added while an earlier batch is in progress.

Must not know caches or statements. Where one statement can answer many requests, requests sent one after the other
would only queue for the same connections, so they are combined.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from aiomodelcache.engine.tasks import BackgroundTasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MAX_BATCH_WAIT: Final = 0.05
"""Maximum seconds that items wait for the batch before them.

Beyond it, they are handed over at once, so that one slow batch does not delay the others.
"""


class Coalescer(Generic[K, T]):
    """The items of each ``key``, handed over one batch at a time.

    ``handle`` must not raise, like all work in ``tasks``.
    """

    __slots__ = ("_handle", "_tasks", "_waiting")

    def __init__(self, handle: Callable[[K, list[T]], Coroutine[Any, Any, None]], tasks: BackgroundTasks) -> None:
        self._handle = handle
        self._tasks = tasks
        self._waiting: dict[K, list[T]] = {}
        """The items added since the last batch was handed over, for each key with a batch in progress."""

    def add(self, key: K, items: Iterable[T]) -> None:
        """Hands over the items now, or with others when the batch in progress ends."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            self._tasks.start(self._run_batches(key, list(items)))
            return
        if not waiting:
            asyncio.get_running_loop().call_later(MAX_BATCH_WAIT, self._run_overdue, key, waiting)
        waiting += items

    async def _run_batches(self, key: K, items: list[T]) -> None:
        try:
            while items:
                await self._handle(key, items)
                items, self._waiting[key] = self._waiting[key], []
        finally:
            leftover = self._waiting.pop(key)
            if leftover and not self._tasks.ended:  # only the batch in progress was cancelled
                self.add(key, leftover)

    def _run_overdue(self, key: K, items: list[T]) -> None:
        if self._waiting.get(key) is items:
            self._waiting[key] = []
            self._tasks.start(self._handle(key, items))


class TickBatcher(Generic[T]):
    """The items that tasks add in one tick, handed over together."""

    __slots__ = ("_handle", "_items", "_tasks")

    def __init__(self, handle: Callable[[list[T]], Coroutine[Any, Any, None]], tasks: BackgroundTasks) -> None:
        self._handle = handle
        self._tasks = tasks
        self._items: list[T] = []

    def add(self, item: T) -> None:
        """Adds an item to the current tick's batch. The first item starts the task that hands the batch over."""
        if not self._items:
            self._tasks.start(self._handle_batch())
        self._items.append(item)

    async def _handle_batch(self) -> None:
        items, self._items = self._items, []
        await self._handle(items)
