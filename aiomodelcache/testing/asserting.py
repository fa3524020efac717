"""``assert_ops``: asserts the number of operations that a block of code sends, with and without ``async``."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.testing.counting import Counted, Ops, count_ops


class assert_ops:
    """Asserts the number of operations that the block sends. Yields the count so far. None means any number.

    ``sql`` is the number of statements, and ``transactions`` the number of transactions begun. ``redis`` is for any
    store: a number of round trips, or the operations in their order (``read``, ``lease``, ``fill``, ``mark``,
    ``clear``, ``delete``). For ``cache``, and for the operations that are counted, see ``count_ops``.

    Works with and without ``async``. Raises ``AssertionError`` with all operations seen, unless the block itself
    raises. Raises ``CacheNotOpen`` if ``redis`` is set and no cache is open.

    >>> with assert_ops(redis=1, sql=0):
    ...     await Event.cache.get(slug="pycon")
    """

    def __init__(
        self,
        cache: Counted | None = None,
        *,
        sql: int | None = None,
        redis: int | Sequence[str] | None = None,
        transactions: int | None = None,
    ) -> None:
        self._cache = cache
        self._sql = sql
        self._redis = redis
        self._transactions = transactions
        self._entered: list[tuple[AbstractContextManager[Ops], Ops]] = []
        """The blocks that have not ended."""

    def __enter__(self) -> Ops:
        if self._redis is not None and self._cache is None and default_cache_or_none() is None:
            raise CacheNotOpen(
                "assert_ops(redis=...) counts the round trips of the default cache, and none is open: open a "
                "ModelCache before the block, or pass the one to count as cache=."
            )
        counting = count_ops(self._cache)
        ops = counting.__enter__()
        self._entered.append((counting, ops))
        return ops

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        counting, ops = self._entered.pop()
        counting.__exit__(kind, error, traceback)
        if error is None:
            self._check(ops)

    async def __aenter__(self) -> Ops:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _check(self, ops: Ops) -> None:
        sql, redis, transactions = self._sql, self._redis, self._transactions
        seen = ops.operations if isinstance(redis, Sequence) else len(ops.operations)
        if (
            (sql is not None and sql != len(ops.statements))
            or (transactions is not None and transactions != ops.transactions)
            or (redis is not None and seen != (list(redis) if isinstance(redis, Sequence) else redis))
        ):
            raise AssertionError(
                f"Expected sql={sql}, redis={redis}, transactions={transactions} (None: any), but saw\n{ops}"
            )
