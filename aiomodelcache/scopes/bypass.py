"""The bypass of a cache, by its settings or within a block.

Knows neither caches nor lookups. A context variable holds the open blocks, so that tasks started inside a block bypass
the cache too, and other tasks do not.
"""

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
