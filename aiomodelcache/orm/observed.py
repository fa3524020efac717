"""Observes the statements of a connection: a tracked computation is told of each before it is sent.

The methods of the client instance are wrapped, once. No class of Tortoise is changed. Outside of a tracked computation
a statement is only counted.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final
from weakref import WeakKeyDictionary

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.scopes.tracking import Tracker, current_tracker

_METHODS: Final = ("execute_query", "execute_query_dict", "execute_insert", "execute_many", "execute_script")

_observed: Final["WeakKeyDictionary[BaseDBAsyncClient, StatementCount]"] = WeakKeyDictionary()


class StatementCount:
    """The number of statements sent on a connection since it is observed."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


def observe(client: BaseDBAsyncClient) -> StatementCount:
    """Observes a connection in autocommit mode. Idempotent."""
    count = _observed.get(client)
    if count is None:
        count = _observed[client] = StatementCount()
        for name in _METHODS:
            setattr(client, name, _wrap(client, getattr(client, name), count))
        setattr(client, "_in_transaction", _wrap_transaction(getattr(client, "_in_transaction"), count))  # noqa: B010, B009
    return count


def _wrap(
    client: BaseDBAsyncClient, original: Callable[..., Coroutine[Any, Any, Any]], count: StatementCount
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(original)
    def execute(query: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        count.number += 1
        tracker = current_tracker()
        if tracker is None:
            return original(query, *args, **kwargs)
        return execute_tracked(tracker, query, *args, **kwargs)

    async def execute_tracked(tracker: Tracker, query: str, *args: Any, **kwargs: Any) -> Any:
        await tracker.before_statement(tracker, client, query)
        return await original(query, *args, **kwargs)

    return execute


def _wrap_transaction(original: Callable[[], Any], count: StatementCount) -> Callable[[], Any]:
    @wraps(original)
    def in_transaction() -> Any:
        count.number += 1
        tracker = current_tracker()
        if tracker is not None:
            tracker.unrecorded("it opens a transaction")
        return original()

    return in_transaction
