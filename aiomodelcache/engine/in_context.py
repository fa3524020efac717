"""The contexts of background tasks, and work of a task in the context of the only caller that it is done for.

Must not know statements. Work in a caller's context sees its context variables, such as the current span.
"""

from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from aiomodelcache.engine.run import DoneCallback
from aiomodelcache.orm.connections import adopt_tortoise, bound_models, primaries, use_in_background

T = TypeVar("T")

OWN_VARIABLES: Final = "aiomodelcache_"
"""The beginning of the names of this package's context variables."""


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


class CallerContext:
    """The context of a view's background tasks: a copy of the latest caller's, without its transactions and scopes.

    Callers of one view may differ in nothing that a manager or a router depends on.
    """

    def __init__(self, latest: Context) -> None:
        self.latest = self._opened = latest
        self._primaries = primaries(bound_models())
        self._copied: Context | None = None
        self._background = latest

    def copy(self) -> Context:
        """Returns a context for one task."""
        if self._copied is not self.latest:
            self._copied, self._background = self.latest, self.leave(self.latest)
        return self._background.copy()

    def leave(self, context: Context) -> Context:
        """Returns a copy of a caller's context without the transactions and scopes of the caller."""
        left = context.copy()
        left.run(self._leave)
        return left

    def _leave(self) -> None:
        for variable in list(copy_context()):
            if variable.name.startswith(OWN_VARIABLES):
                variable.set(Context().run(variable.get))
        adopt_tortoise(self._opened)
        use_in_background(self._primaries)
