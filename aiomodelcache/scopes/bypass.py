"""The bypass of a cache, by its settings or within a block, and writes that need no open cache.

Knows neither caches nor lookups. A context variable holds the open blocks, so that tasks started inside a block bypass
the cache too, and other tasks do not.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self


class BypassFlag:
    """The state of one cache: in use or bypassed."""

    __slots__ = ("_enabled",)

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    @property
    def off(self) -> bool:
        """True if the caller's reads go straight to the database."""
        return not self._enabled or self in _bypassed.get()


_bypassed: Final[ContextVar[tuple[BypassFlag, ...]]] = ContextVar("aiomodelcache_off", default=())
"""The flags of the open blocks, the innermost last."""


def open_blocks() -> tuple[BypassFlag, ...]:
    """Returns the flags of the blocks around the caller, which tell callers apart that bypass a cache."""
    return _bypassed.get()


class BypassBlock:
    """The block of ``ModelCache.disabled``. It holds no state of its own, so tasks may share and nest it."""

    __slots__ = ("_bypass_flag",)

    def __init__(self, flag: BypassFlag) -> None:
        self._bypass_flag = flag

    def __enter__(self) -> Self:
        _bypassed.set((*_bypassed.get(), self._bypass_flag))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bypassed = list(_bypassed.get())
        if self._bypass_flag in bypassed:  # it is missing if the block ends in another task than it began in
            bypassed.remove(self._bypass_flag)
            _bypassed.set(tuple(bypassed))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


_expects_no_cache: Final[ContextVar[bool]] = ContextVar("aiomodelcache_unopened", default=False)


@contextmanager
def writes_without_cache() -> Generator[None]:
    """A block in which writes to cached models without an open cache are meant, so that they do not warn.

    For programs that fill a database before anything is cached, or that clear the cache afterwards. It applies to this
    task and to tasks started inside the block. It changes nothing while a cache is open.

    >>> with writes_without_cache():
    ...     await User.create(username="dana")
    """
    before = _expects_no_cache.get()
    _expects_no_cache.set(True)
    try:
        yield
    finally:
        _expects_no_cache.set(before)


def expects_no_cache() -> bool:
    """Returns True inside a ``writes_without_cache`` block."""
    return _expects_no_cache.get()
