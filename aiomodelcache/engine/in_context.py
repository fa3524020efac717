"""Work of a task in another context than its own: that of the only caller whose lookup a statement answers.

Must not know statements. What runs in a caller's context sees its context variables, such as the current span.
"""

from collections.abc import Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar, cast

from aiomodelcache.engine.run import DoneCallback

T = TypeVar("T")


class InContext(Generic[T]):
    """A coroutine each of whose steps runs in a context. The task that awaits it is the current one."""

    __slots__ = ("_context", "_work")

    def __init__(self, context: Context, work: Coroutine[Any, Any, T]) -> None:
        self._context = context
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        run, work = self._context.run, self._work
        try:
            waits_for = run(work.send, None)
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = run(work.throw, error)
                else:
                    waits_for = run(work.send, sent)
        except StopIteration as ended:
            result: T = ended.value
            return result


def caller_context(done: DoneCallback) -> Context | None:
    """Returns the context of the task that awaits a lookup's future, or None if no task does so yet.

    A task that awaits a future leaves its context there. So a lookup need not copy it, which would slow down hits.
    """
    future: Any = cast("Any", done).args[0] if isinstance(done, partial) and done.args else None
    callbacks = getattr(future, "_callbacks", None)
    return callbacks[0][1] if callbacks else None
