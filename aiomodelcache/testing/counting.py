"""Counting what is really sent, to the database and to the cache store."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, cast
from unittest.mock import patch

from tortoise.backends.base.client import TransactionContextPooled
from tortoise.backends.sqlite.client import SqliteTransactionContext

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.protocol import (
    NOTHING_ALLOWED,
    Backend,
    Clear,
    Fill,
    Lease,
    Leased,
    ReadCallback,
    ReplacedEntry,
    SupportsStartRead,
    SupportsTracking,
)
from aiomodelcache.client import ModelCache
from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.testing.transactions import SavepointContext


class CountingBackend:
    """A ``Backend`` that counts each operation of the one it wraps as a round trip.

    ``open`` and ``close`` are handed on uncounted. Only who makes a backend needs it: ``assert_ops`` puts one into an
    open cache by itself.

    >>> backend = CountingBackend(MemoryBackend())
    >>> async with ModelCache(backend), assert_ops(backend, redis=["read", "lease", "fill"]):
    ...     await Event.cache.get(pk=1)
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.operations: list[str] = []
        """The names of the operations so far."""
        self.keys: set[bytes] = set()
        """Every key that an operation may have put something under."""
        self.blocks: int | None = None
        """How many blocks count by it, if ``count_ops`` has put it into an open cache; the last takes it out."""

    @property
    def track(self) -> Callable[[Near | None], None]:
        """That of the backend. Raises ``AttributeError`` if it has none."""
        return cast("SupportsTracking", self.backend).track

    @property
    def start_read(self) -> Callable[[Sequence[bytes], ReadCallback], bool]:
        """That of the backend, counted as ``read``.

        Raises ``AttributeError`` if it has none, or where a subclass wants to see what is read.
        """
        if type(self).read is not CountingBackend.read:
            raise AttributeError("start_read")
        start = cast("SupportsStartRead", self.backend).start_read

        def started(keys: Sequence[bytes], callback: ReadCallback) -> bool:
            self.operations.append("read")
            if not start(keys, callback):
                self.operations.pop()
                return False
            return True

        return started

    async def open(self) -> None:
        await self.backend.open()

    async def close(self) -> None:
        await self.backend.close()

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.operations.append("read")
        return await self.backend.read(keys)

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        self.operations.append("lease")
        self.keys.update([lease.key for lease in leases], versions)
        return await self.backend.lease(leases, token, ttl_ms, versions)

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        self.operations.append("fill")
        return await self.backend.fill(fills)

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        self.operations.append("mark")
        self.keys.update(keys)
        return await self.backend.mark(keys, token, ttl_ms, allow)

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        self.operations.append("clear")
        self.keys.update(stamps)
        return await self.backend.clear(clears, token, stamps)

    async def delete(self, keys: Sequence[bytes]) -> int:
        self.operations.append("delete")
        return await self.backend.delete(keys)


class Ops:
    """What has been sent since a block began. See ``assert_ops`` and ``count_ops``.

    >>> with count_ops() as ops:
    ...     await Event.cache.get(slug="pycon")
    >>> print(ops)
      sql=0
      transactions=0
      redis=1 ['read']
    """

    def __init__(self, backend: CountingBackend | None) -> None:
        self.statements: list[str] = []
        """SQL, in whatever task; without BEGIN, COMMIT and the like, and without connecting."""
        self.transactions = 0
        """Transactions begun; savepoints are not counted."""
        self._backend = backend
        self._start = len(backend.operations) if backend else 0
        self._end: int | None = None

    @property
    def operations(self) -> list[str]:
        """Round trips to the cache store, by the names of ``Backend``'s methods. Empty if no cache was open."""
        return self._backend.operations[self._start : self._end] if self._backend else []

    def end(self) -> None:
        """Ends the count, also where others go on with the same backend."""
        self._end = len(self._backend.operations) if self._backend else 0

    def __str__(self) -> str:
        return "\n".join(
            [
                f"  sql={len(self.statements)}",
                *(f"    {statement}" for statement in self.statements),
                f"  transactions={self.transactions}",
                f"  redis={len(self.operations)} {self.operations}",
            ]
        )


Counted = ModelCache | CountingBackend
"""Whose round trips are counted."""


@contextmanager
def count_ops(cache: Counted | None = None) -> Generator[Ops, None, None]:
    """Counts what the block sends. Whatever other tasks send meanwhile is counted, too.

    Counts may be nested, and those of several tasks may overlap in any way.

    ``cache`` is that whose round trips are counted: a ``ModelCache``, or the ``CountingBackend`` that it was made
    with; by default the default cache, if one is open when the block begins. Statements are those of all
    connections. Raises ``CacheNotOpen`` if the cache given is closed.

    >>> with count_ops() as ops:
    ...     await Event.cache.get(slug="pycon")
    >>> ops.operations, len(ops.statements)
    (['read'], 0)
    """
    with _counted(cache) as backend:
        ops = Ops(backend)
        with _listening(ops):
            yield ops


@asynccontextmanager
async def assert_ops(
    cache: Counted | None = None,
    *,
    sql: int | None = None,
    redis: int | Sequence[str] | None = None,
    transactions: int | None = None,
) -> AsyncGenerator[Ops, None]:
    """Asserts how much the block sends; what is None may be anything. Yields the count so far.

    ``sql`` is a number of statements, ``transactions`` one of transactions begun; ``redis``, whatever the store is,
    a number of round trips, or the operations in their order (``read``, ``lease``, ``fill``, ``mark``, ``clear``,
    ``delete``). For ``cache`` and what is counted see ``count_ops``.

    Raises ``AssertionError`` with all that was seen; an error from within the block goes first. Raises
    ``CacheNotOpen`` if ``redis`` is given and no cache is open.

    >>> async with assert_ops(redis=1, sql=0):
    ...     await Event.cache.get(slug="pycon")
    """
    if redis is not None and cache is None and default_cache_or_none() is None:
        raise CacheNotOpen(
            "assert_ops(redis=...) counts the round trips of the default cache, and none is open: open a ModelCache "
            "before the block, or pass the one to count as cache=."
        )
    with count_ops(cache) as ops:
        yield ops
    seen = ops.operations if isinstance(redis, Sequence) else len(ops.operations)
    if (
        (sql is not None and sql != len(ops.statements))
        or (transactions is not None and transactions != ops.transactions)
        or (redis is not None and seen != (list(redis) if isinstance(redis, Sequence) else redis))
    ):
        raise AssertionError(
            f"Expected sql={sql}, redis={redis}, transactions={transactions} (None: any), but saw\n{ops}"
        )


@contextmanager
def _counted(cache: Counted | None) -> Generator[CountingBackend | None, None, None]:
    """The backend that counts: the one given, the one in use, or one put before that for the block."""
    if isinstance(cache, CountingBackend):
        yield cache
        return
    opened = cache.open_cache if cache is not None else default_cache_or_none()
    if opened is None:
        yield None
        return
    guarded = opened.guarded
    counting = guarded.backend
    if not isinstance(counting, CountingBackend):
        counting = guarded.backend = CountingBackend(counting)
        counting.blocks = 0
    if counting.blocks is None:
        yield counting
        return
    counting.blocks += 1
    try:
        yield counting
    finally:
        counting.blocks -= 1
        if not counting.blocks:
            guarded.backend = counting.backend


_open: Final[list[Ops]] = []
"""The counts under way, in whatever task. The first one makes Tortoise heard, the last one undoes that."""
_heard: Final = ExitStack()


@contextmanager
def _listening(ops: Ops) -> Generator[None, None, None]:
    _open.append(ops)
    try:
        if len(_open) == 1:
            _heard.enter_context(_statements())
            _heard.enter_context(_transactions())
        if not _LOGGER.isEnabledFor(logging.DEBUG):
            raise RuntimeError("logging.disable() is in force, and SQL is counted by what Tortoise logs: undo it.")
        yield
    finally:
        ops.end()
        _open.remove(ops)
        if not _open:
            _heard.close()


_LOGGER: Final = logging.getLogger("tortoise.db_client")


class _Statements(logging.Filter):
    """Collects the statements that Tortoise's clients log as they send them.

    A filter, so that what the application would not have logged goes no further.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.DEBUG:
            sent: str | None = None
            if record.msg == "%s: %s" and isinstance(record.args, tuple):
                sent = str(record.args[0])
            elif not record.args:  # a script; connecting and closing log their parameters
                sent = record.msg
            if sent is not None:
                for ops in _open:
                    ops.statements.append(sent)
        return record.levelno >= self._level


@contextmanager
def _statements() -> Generator[None, None, None]:
    level, disabled = _LOGGER.level, _LOGGER.disabled
    collector = _Statements(logging.CRITICAL + 1 if disabled else _LOGGER.getEffectiveLevel())
    _LOGGER.filters.insert(0, collector)  # before the application's, which may let nothing pass
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.disabled = False  # a logging configuration may disable all loggers that it does not name
    try:
        yield
    finally:
        _LOGGER.disabled = disabled
        _LOGGER.setLevel(level)
        _LOGGER.removeFilter(collector)


@contextmanager
def _transactions() -> Generator[None, None, None]:
    def counting(enter: Any) -> Any:
        async def counted(context: Any) -> Any:
            for ops in _open:
                ops.transactions += 1
            return await enter(context)

        return counted

    with (
        patch.object(TransactionContextPooled, "__aenter__", counting(TransactionContextPooled.__aenter__)),
        patch.object(SqliteTransactionContext, "__aenter__", counting(SqliteTransactionContext.__aenter__)),
        patch.object(SavepointContext, "__aenter__", counting(SavepointContext.__aenter__)),
    ):
        yield
