"""The bypass of a cache, by its settings or within a block, lookups that store nothing, and writes without a cache.

Knows neither caches nor lookups. A context variable holds the open blocks, so that tasks started inside a block bypass
the cache too, and other tasks do not.
"""

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, NamedTuple, Self


class BypassFlag:
    """The state of one cache: in use or bypassed."""

    __slots__ = ("enabled",)

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    @property
    def off(self) -> bool:
        """True if the caller's reads go straight to the database."""
        return self.off_in(_bypassed.get())

    def off_in(self, blocks: "tuple[BypassFlag | Restriction, ...]") -> bool:
        """Returns True if reads in these blocks go straight to the database."""
        return not self.enabled or (bool(blocks) and self in blocks)

    def restrictions(
        self, blocks: "tuple[BypassFlag | Restriction, ...]", subjects: Collection[object]
    ) -> "list[Restriction]":
        """Returns those of these blocks that apply to lookups which are, or are of, one of the subjects."""
        own = [block for block in blocks if isinstance(block, Restriction) and block.flag is self]
        return [block for block in own if block.targets is None or not block.targets.isdisjoint(subjects)]


class Restriction(NamedTuple):
    """A block that applies to some lookups of one cache: they bypass it, or store nothing."""

    flag: BypassFlag
    targets: frozenset[object] | None
    """Models, classes and declarations. None stands for all lookups."""
    bypass: bool


_bypassed: Final[ContextVar[tuple[BypassFlag | Restriction, ...]]] = ContextVar("aiomodelcache_off", default=())
"""The flags and restrictions of the open blocks, the innermost last."""


open_blocks: Final[Callable[[], tuple[BypassFlag | Restriction, ...]]] = _bypassed.get
"""Returns the flags and restrictions of the blocks around the caller, which tell callers apart."""


class BypassBlock:
    """The block of ``ModelCache.disabled``. It holds no state of its own, so tasks may share and nest it."""

    __slots__ = ("_bypass_flag",)

    def __init__(self, flag: BypassFlag | Restriction) -> None:
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
