"""The request scope: an identity map that lives as long as a ``local_cache()`` block.

Knows keys and instances, not where they come from. The scope is held by a context variable, so tasks that
a request spawns share it, and it is one mutable object, so a write in any of them is seen by all. Tasks
that outlive the block hold a scope that is over, which is as good as none.
"""

from collections.abc import Iterable
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Self


class Scope:
    """What one request has looked up so far."""

    __slots__ = ("_answers", "_led_to", "_rows", "generation", "over", "parent")

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.parent = parent
        self.over = False
        self.generation = 0
        self._answers: dict[bytes, list[Any]] = {}
        self._rows: dict[bytes, Any] = {}
        self._led_to: dict[bytes, set[bytes]] = {}

    def recall(self, key: bytes) -> list[Any] | None:
        """The instances that a lookup gave before; None if it was not made yet."""
        answer = self._answers.get(key)
        if answer is None and key in self._rows:
            return [self._rows[key]]
        return answer

    def keep(self, key: bytes, found: Iterable[tuple[bytes, Any]], generation: int) -> list[Any]:
        """Notes a lookup's answer, given as (row key, instance), and returns the scope's own instances.

        An answer that was on its way while something was written (``generation`` has moved on) is not
        kept: it may be older than the write.
        """
        if generation != self.generation:
            return [instance for _, instance in found]
        answer: list[Any] = []
        for row_key, instance in found:
            answer.append(self._rows.setdefault(row_key, instance))
            self._led_to.setdefault(row_key, set()).add(key)
        self._answers[key] = answer
        return answer

    def own(self, row_key: bytes, instance: Any, generation: int) -> Any:
        """The scope's own instance of a row that was found inside a computed result."""
        return instance if generation != self.generation else self._rows.setdefault(row_key, instance)

    def keep_result(self, key: bytes, value: Any, row_keys: Iterable[bytes], generation: int) -> None:
        """Notes a computed result and the rows inside it, like ``keep``."""
        if generation == self.generation:
            self._answers[key] = [value]
            for row_key in row_keys:
                self._led_to.setdefault(row_key, set()).add(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forgets the rows and lookups with these keys, and every lookup that led to such a row."""
        scope: Scope | None = self
        keys = list(keys)
        while scope is not None:
            scope.generation += 1
            for key in keys:
                scope._answers.pop(key, None)
                scope._rows.pop(key, None)
                for answer in scope._led_to.pop(key, ()):
                    scope._answers.pop(answer, None)
            scope = scope.parent

    def clear(self) -> None:
        """Forgets everything, here and in the scopes around."""
        scope: Scope | None = self
        while scope is not None:
            scope._forget()
            scope = scope.parent

    def end(self) -> None:
        """Forgets everything for good: what is still on its way will not be kept."""
        self.over = True
        self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self._answers.clear()
        self._rows.clear()
        self._led_to.clear()


_current: Final[ContextVar[Scope | None]] = ContextVar("aiomodelcache_scope", default=None)


def current_scope() -> Scope | None:
    """The innermost open scope of this task, or None."""
    scope = _current.get()
    while scope is not None and scope.over:
        scope = scope.parent
    return scope


def context_without_scope() -> Context:
    """A copy of the current context for work that is done for many callers."""
    context = copy_context()
    context.run(_current.set, None)
    return context


class local_cache:
    """A scope in which the same lookup returns the same object, with no I/O.

    Works as ``with local_cache():`` and ``async with local_cache():``, typically around one request.
    Tasks started inside share it; an inner scope starts empty. Writes made inside, in whatever task,
    drop what they touch; writes made elsewhere are not seen until the scope ends.

    >>> async with local_cache():
    ...     event = await Event.cache.get(slug="pycon")
    ...     assert await Event.cache.get(id=event.id) is event
    """

    __slots__ = ("_scopes",)

    def __init__(self) -> None:
        self._scopes: list[Scope] = []

    def __enter__(self) -> Self:
        self._scopes.append(Scope(current_scope()))
        _current.set(self._scopes[-1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current = _current.get()
        scope = current if current is not None and current in self._scopes else self._scopes[-1]
        self._scopes.remove(scope)
        scope.end()
        if scope is current:  # not so where a block ends in another task than it began
            _current.set(scope.parent)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
