"""``Begun``: a coroutine that has run to its first wait, so that its request is under way while its task works on.

Must not know requests. A task for the coroutine would begin one turn of the event loop later, and end one later.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """A coroutine that has begun. It is to be awaited, once, by the task that began it, or to be closed.

    What it raises, even before its first wait, is raised where it is awaited.
    """

    __slots__ = ("_error", "_result", "_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work: Coroutine[Any, Any, T] | None = work
        self._error: BaseException | None = None
        self._waits_for: Any = None
        self._result: Any = None
        try:
            self._waits_for = work.send(None)
        except StopIteration as ended:
            self._work, self._result = None, ended.value
        except BaseException as error:
            self._work, self._error = None, error

    def __await__(self) -> Generator[Any, Any, T]:
        work, self._work = self._work, None
        while work is not None:
            try:
                waits_for = self._waits_for
                if isinstance(waits_for, asyncio.Future) and waits_for.done():
                    waits_for._asyncio_future_blocking = False  # saves a turn of the event loop
                    self._waits_for = work.send(None)
                    continue
                try:
                    sent = yield waits_for
                except BaseException as error:
                    self._waits_for = work.throw(error)
                else:
                    self._waits_for = work.send(sent)
            except StopIteration as ended:
                self._result = ended.value
                break
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def close(self) -> None:
        """Ends the coroutine where it waits, if it was not awaited. Requests that it has sent are not taken back."""
        if self._work is not None:
            self._work.close()
            self._work = None
