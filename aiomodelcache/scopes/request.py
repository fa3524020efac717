"""The request scope: an identity map that lives as long as a ``local_cache()`` block.

Knows keys and instances, not their origin. A context variable holds the scope, so tasks that a request starts share
it. The scope is one mutable object, so a write in any of these tasks is seen by all of them. A task that outlives the
block has no scope any more.
"""

from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Self


class Scope:
    """The answers of one request's lookups so far. ``generation`` counts the writes that removed answers."""

    __slots__ = ("_answers", "_answers_by_row", "_derived", "_rows", "generation", "over", "parent")

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.parent = parent
        self.over = False
        self.generation = 0
        self._answers: dict[bytes, list[Any]] = {}
        self._rows: dict[bytes, Any] = {}
        self._answers_by_row: dict[bytes, set[bytes]] = {}
        """The keys of the answers that contain a row, by the row's key."""
        self._derived = set[bytes]()
        """The keys of results that may be derived from anything."""

    def find(self, key: bytes) -> list[Any] | None:
        """Returns the instances of an earlier lookup with this key; None if there was none."""
        answer = self._answers.get(key)
        if answer is None and key in self._rows:
            return [self._rows[key]]
        return answer

    def keep(self, key: bytes, rows: Iterable[tuple[bytes, Any]], generation: int) -> list[Any]:
        """Stores a lookup's answer, pairs of row key and instance, and returns the scope's own instances.

        ``generation`` is the scope's when the lookup began. If it has changed since, the answer may be older than a
        write, and is not stored.
        """
        if generation != self.generation:
            return [instance for _, instance in rows]
        answer: list[Any] = []
        for row_key, instance in rows:
            answer.append(self._rows.setdefault(row_key, instance))
            self._answers_by_row.setdefault(row_key, set()).add(key)
        self._answers[key] = answer
        return answer

    def own(self, row_key: bytes, instance: Any, generation: int) -> Any:
        """Returns the scope's own instance of a row inside a computed result."""
        return instance if generation != self.generation else self._rows.setdefault(row_key, instance)

    def keep_result(
        self, key: bytes, value: Any, row_keys: Iterable[bytes], generation: int, *, derived: bool = False
    ) -> None:
        """Stores a computed result and the keys of the rows inside it, unless ``generation`` has changed.

        ``derived``: any write removes the result.
        """
        if generation == self.generation:
            self._answers[key] = [value]
            if derived:
                self._derived.add(key)
            for row_key in row_keys:
                self._answers_by_row.setdefault(row_key, set()).add(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Removes the rows and answers with these keys, every answer that contains such a row, and derived results.

        The same are removed from the scopes around this one.
        """
        scope: Scope | None = self
        keys = list(keys)
        while scope is not None:
            scope.generation += 1
            while scope._derived:
                scope._answers.pop(scope._derived.pop(), None)
            for key in keys:
                scope._answers.pop(key, None)
                scope._rows.pop(key, None)
                for answer_key in scope._answers_by_row.pop(key, ()):
                    scope._answers.pop(answer_key, None)
            scope = scope.parent

    def discard(self, instance: Any) -> None:
        """Removes an instance, and every answer that contains it, here and in the scopes around this one."""
        scope: Scope | None = self
        while scope is not None:
            scope.drop([key for key, known in scope._rows.items() if known is instance])
            scope = scope.parent

    def clear(self) -> None:
        """Removes all answers, here and in the scopes around this one."""
        scope: Scope | None = self
        while scope is not None:
            scope._remove_all()
            scope = scope.parent

    def end(self) -> None:
        """Ends the scope: removes all answers, and stores none of the lookups in flight."""
        self.over = True
        self._remove_all()

    def _remove_all(self) -> None:
        self.generation += 1
        self._answers.clear()
        self._derived.clear()
        self._rows.clear()
        self._answers_by_row.clear()


_current: Final[ContextVar[Scope | None]] = ContextVar("aiomodelcache_scope", default=None)


latest_scope: Final[Callable[[], Scope | None]] = _current.get
"""Returns the innermost scope of this task, which may be over, or None."""


def current_scope() -> Scope | None:
    """Returns the innermost open scope of this task, or None."""
    scope = _current.get()
    while scope is not None and scope.over:
        scope = scope.parent
    return scope


def context_without_scope() -> Context:
    """Returns a copy of the current context without a scope, for work on behalf of many callers."""
    context = copy_context()
    context.run(_current.set, None)
    return context


class local_cache:
    """A scope in which a repeated lookup returns the same object, without I/O.

    Works as ``with local_cache():`` and ``async with local_cache():``, typically around one request. Tasks started
    inside share the scope. An inner scope starts empty. A write in any of these tasks removes the answers that it
    affects. Writes made elsewhere are not seen until the scope ends.

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
        if scope is current:  # not the case if the block ends in another task than it began in
            _current.set(scope.parent)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
