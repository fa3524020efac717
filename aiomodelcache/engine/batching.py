"""Lets work of one kind take turns: what comes while some is under way goes together, as soon as that is done.

Knows neither caches nor statements. Where a statement can ask for many things at once, those that come one after
the other would only queue for the same connections; together they are one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from aiomodelcache.engine.tasks import BackgroundTasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MAX_BATCH_WAIT: Final = 0.05
"""Seconds that what has come waits for its turn, at most: then it goes without one, or a slow one would delay all."""


class Coalescer(Generic[K, T]):
    """Hands over what was added for each ``key``, in one batch at a time.

    ``handle`` must not raise, as no task of ``tasks`` must.
    """

    __slots__ = ("_handle", "_tasks", "_waiting")

    def __init__(self, handle: Callable[[K, list[T]], Coroutine[Any, Any, None]], tasks: BackgroundTasks) -> None:
        self._handle = handle
        self._tasks = tasks
        self._waiting: dict[K, list[T]] = {}
        """What has come meanwhile, for each key of which a batch is under way."""

    def add(self, key: K, items: Iterable[T]) -> None:
        """Hands over the items now, or together with others that come before it is their turn."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            self._tasks.start(self._take_turns(key, list(items)))
            return
        if not waiting:
            asyncio.get_running_loop().call_later(MAX_BATCH_WAIT, self._run_out, key, waiting)
        waiting += items

    async def _take_turns(self, key: K, items: list[T]) -> None:
        try:
            while items:
                await self._handle(key, items)
                items, self._waiting[key] = self._waiting[key], []
        finally:
            left = self._waiting.pop(key)
            if left and not self._tasks.ended:  # it was cancelled, and not they
                self.add(key, left)

    def _run_out(self, key: K, items: list[T]) -> None:
        if self._waiting.get(key) is items:
            self._waiting[key] = []
            self._tasks.start(self._handle(key, items))


class TickBatcher(Generic[T]):
    """Hands over together what was added in one tick, in whatever task."""

    __slots__ = ("_handle", "_items", "_tasks")

    def __init__(self, handle: Callable[[list[T]], Coroutine[Any, Any, None]], tasks: BackgroundTasks) -> None:
        self._handle = handle
        self._tasks = tasks
        self._items: list[T] = []

    def add(self, item: T) -> None:
        """Adds to the current tick's batch. The first one in starts the task that hands it over."""
        if not self._items:
            self._tasks.start(self._hand_over())
        self._items.append(item)

    async def _hand_over(self) -> None:
        items, self._items = self._items, []
        await self._handle(items)
