"""Whether a cache is used: by its settings, and in blocks that do without it.

Knows neither caches nor lookups. The block is noted in a context variable, so tasks that are started inside
do without the cache too, and tasks beside it do not notice.
"""

from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self


class BypassFlag:
    """One cache's switch."""

    __slots__ = ("_enabled",)

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    @property
    def off(self) -> bool:
        """Whether the caller's reads are to go straight to the database."""
        return not self._enabled or self in _off.get()


_off: Final[ContextVar[tuple[BypassFlag, ...]]] = ContextVar("aiomodelcache_off", default=())
"""The switches that the blocks around turn off, the innermost last."""


class BypassBlock:
    """The block of ``ModelCache.disabled``. It holds no state, so that it may be nested and shared by tasks."""

    __slots__ = ("_bypass_flag",)

    def __init__(self, flag: BypassFlag) -> None:
        self._bypass_flag = flag

    def __enter__(self) -> Self:
        _off.set((*_off.get(), self._bypass_flag))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        around = list(_off.get())
        if self._bypass_flag in around:  # not so where a block ends in another task than it began
            around.remove(self._bypass_flag)
            _off.set(tuple(around))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
