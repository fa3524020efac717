"""The observers of one open cache: hands events on, and keeps their exceptions from the caller."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from time import perf_counter
from typing import Any, TypeVar

from aiomodelcache.observe.events import Note, Observer, Operation
from aiomodelcache.observe.stats import Stats, logger

T = TypeVar("T")


class Observers:
    """Several observers as one."""

    __slots__ = ("_begin", "_end", "_note", "_stats", "_warned")

    def __init__(self, observers: Iterable[Observer], stats: Stats) -> None:
        self._stats = stats
        self._warned: set[str] = set()
        observers = list(observers)
        self._begin = _overridden(observers, "begin")
        self._end = _overridden(observers, "end")
        self._note = _overridden(observers, "note")

    def begin(self, operation: Operation) -> None:
        """Tells the observers that an operation begins."""
        for call in self._begin:
            self._call(call, operation)

    def end(self, operation: Operation, error: BaseException | None = None) -> None:
        """Tells the observers that an operation has ended. Sets its duration, unless that is known."""
        operation.error = error
        if operation.duration is None:
            operation.duration = perf_counter() - operation.started
        for call in self._end:
            self._call(call, operation)

    async def around(self, operation: Operation, work: Awaitable[T]) -> T:
        """Awaits the work of an operation."""
        self.begin(operation)
        try:
            result = await work
        except BaseException as error:
            self.end(operation, error)
            raise
        self.end(operation)
        return result

    def note(self, note: Note, context: Context | None = None) -> None:
        """Tells the observers what has happened, in a context if one is given."""
        for call in self._note:
            if context is None:
                self._call(call, note)
            else:
                context.copy().run(self._call, call, note)

    def _call(self, call: Callable[[Any], None], event: Operation | Note) -> None:
        try:
            call(event)
        except Exception as error:
            self._stats.observer_errors += 1
            name = getattr(call, "__qualname__", repr(type(call)))
            if name not in self._warned:
                self._warned.add(name)
                logger.warning(
                    "aiomodelcache: an observer failed: %s: %s at %s", name, type(error).__name__, _at(error)
                )


def _overridden(observers: Sequence[Observer], name: str) -> list[Callable[[Any], None]]:
    """Returns the methods of this name, without those that do nothing."""
    inherited = getattr(Observer, name)
    return [getattr(each, name) for each in observers if getattr(type(each), name, None) is not inherited]


def _at(error: Exception) -> str:
    """Returns the file and the line that raised an exception, without its text, which may hold values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
