"""Counters of the SQL statements, transactions and round trips that a block of code sends."""

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from tortoise.backends.base.client import TransactionContextPooled
from tortoise.backends.sqlite.client import SqliteTransactionContext

from aiomodelcache.client import ModelCache
from aiomodelcache.engine.publishing import in_background
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.orm.transactions import SafeTransaction
from aiomodelcache.testing.counting_backend import CountingBackend
from aiomodelcache.testing.transactions import SavepointContext


class Ops:
    """Counts of the operations sent since a block began. See ``assert_ops`` and ``count_ops``.

    >>> with count_ops() as ops:
    ...     await Event.cache.get(slug="pycon")
    >>> print(ops)
      sql=0
      transactions=0
      redis=1 ['read']
    """

    def __init__(self, backend: CountingBackend | None) -> None:
        self.statements: list[str] = []
        """SQL statements of all tasks, without those of a relay. Excludes connecting, BEGIN, COMMIT and the like."""
        self.transactions = 0
        """Number of transactions begun. Savepoints are not counted."""
        self._backend = backend
        self._start = len(backend.operations) if backend else 0
        self._end: int | None = None

    @property
    def operations(self) -> list[str]:
        """Round trips to the cache store, by the names of ``Backend``'s methods. Empty if no cache was open."""
        return self._backend.operations[self._start : self._end] if self._backend else []

    def end(self) -> None:
        """Ends the count. Other counts of the same backend continue."""
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
"""An object whose round trips can be counted."""


@contextmanager
def count_ops(cache: Counted | None = None) -> Generator[Ops, None, None]:
    """Counts the operations that the block sends, and those of other tasks meanwhile, without a relay's.

    Counts may be nested, and counts of several tasks may overlap in any way.

    ``cache`` selects the round trips to count: those of a ``ModelCache``, or of the ``CountingBackend`` that it was
    created with. By default it is the default cache, if one is open when the block begins. Statements of all
    connections are counted. Raises ``CacheNotOpen`` if ``cache`` is closed.

    >>> with count_ops() as ops:
    ...     await Event.cache.get(slug="pycon")
    >>> ops.operations, len(ops.statements)
    (['read'], 0)
    """
    with _counted(cache) as backend:
        ops = Ops(backend)
        with _recording(ops):
            yield ops


@contextmanager
def _counted(cache: Counted | None) -> Generator[CountingBackend | None, None, None]:
    """Yields the counting backend: ``cache`` itself, the cache's, or one wrapped around the cache's for the block."""
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


_active: Final[list[Ops]] = []
"""Counts under way in all tasks. The first one installs the hooks into Tortoise, the last one removes them."""
_hooks: Final = ExitStack()


@contextmanager
def _recording(ops: Ops) -> Generator[None, None, None]:
    _active.append(ops)
    try:
        if len(_active) == 1:
            _hooks.enter_context(_statements())
            _hooks.enter_context(_transactions())
        if not _LOGGER.isEnabledFor(logging.DEBUG):
            raise RuntimeError("logging.disable() is in force, and SQL is counted by what Tortoise logs: undo it.")
        yield
    finally:
        ops.end()
        _active.remove(ops)
        if not _active:
            _hooks.close()


_LOGGER: Final = logging.getLogger("tortoise.db_client")


class _Statements(logging.Filter):
    """Collects the statements that Tortoise's clients log as they send them.

    It is a filter, so that it can drop the records that the application's own level would not log.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.DEBUG and not in_background.get():
            sent: list[str] = []
            if record.msg == "%s: %s" and isinstance(record.args, tuple):
                sent = [str(record.args[0])]
            elif not record.args:  # a script; connecting and closing log their parameters
                sent = [record.msg]
            for ops in _active:
                ops.statements += sent
        return record.levelno >= self._level


@contextmanager
def _statements() -> Generator[None, None, None]:
    level, disabled = _LOGGER.level, _LOGGER.disabled
    collector = _Statements(logging.CRITICAL + 1 if disabled else _LOGGER.getEffectiveLevel())
    _LOGGER.filters.insert(0, collector)  # before the application's filters, which may drop every record
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
            for ops in [] if in_background.get() else _active:
                ops.transactions += 1
            return await enter(context)

        return counted

    with (
        patch.object(TransactionContextPooled, "__aenter__", counting(TransactionContextPooled.__aenter__)),
        patch.object(SqliteTransactionContext, "__aenter__", counting(SqliteTransactionContext.__aenter__)),
        patch.object(SavepointContext, "__aenter__", counting(SavepointContext.__aenter__)),
        patch.object(SafeTransaction, "__aenter__", counting(SafeTransaction.__aenter__)),
    ):
        yield
