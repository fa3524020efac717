"""``Patience``: random deadlines of a task's requests, as if its clients disconnected."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

FIRST: Final = 0.01
"""Expected duration of the first request, in seconds."""


class Cancelled(Exception):
    """Raised instead of a request's result if its deadline has cancelled the request."""


class Patience:
    """Cancels about half of the requests of one task, each at a random moment."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._usual = FIRST
        self._deadline: asyncio.Timeout | None = None

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Raises ``Cancelled`` if the block has been cancelled."""
        self._deadline = deadline = asyncio.timeout(self._chance.uniform(0, 2 * self._usual))
        try:
            async with deadline:
                yield
            self._usual *= 0.9
        except TimeoutError as error:
            if not deadline.expired():
                raise
            self._usual *= 1.1
            raise Cancelled from error
        finally:
            self._deadline = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not cancel inside the block, but possibly after it."""
        left = self.stop()
        yield
        if left is not None and self._deadline is not None:
            self._deadline.reschedule(left)

    def stop(self) -> float | None:
        """Does not cancel the rest of the request. Returns its deadline, unless there is none or it has passed."""
        deadline = self._deadline
        if deadline is None or deadline.expired():  # a client of a server has swallowed the cancellation
            return None
        when = deadline.when()
        deadline.reschedule(None)
        return when


class Endless(Patience):
    """Cancels nothing."""

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Does nothing."""
        yield
