"""The tasks of one Cluster's endpoint, which end with it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ClusterTasks:
    """Tasks that are cancelled when the endpoint closes. What waits for one is told by its done callback."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.closed = False
        """True if no task can be started any more."""

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs ``work``. After ``close``, the task is cancelled at once."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if self.closed:
            task.cancel()
        return task

    async def close(self) -> None:
        """Cancels all tasks, and waits for their ends."""
        self.closed = True
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)
