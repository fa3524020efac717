"""Observes the statements of a connection: a tracked computation is told of each before it is sent.

The methods of client instances are wrapped, once. No class of Tortoise is changed. Outside of a tracked computation a
statement is only counted.
"""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Final
from weakref import WeakKeyDictionary

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.orm.sql_tables import UNKNOWN
from aiomodelcache.scopes.tracking import WRITES, Tracker, current_tracker

_METHODS: Final = ("execute_query", "execute_query_dict", "execute_insert", "execute_many", "execute_script")
REPLACED: Final = frozenset({*_METHODS, "acquire_connection", "_in_transaction"})
"""The methods that are replaced on an observed connection."""

_observed: Final["WeakKeyDictionary[BaseDBAsyncClient, StatementCount]"] = WeakKeyDictionary()
_in_statement: Final[ContextVar[bool]] = ContextVar("aiomodelcache_in_statement", default=False)
"""True while a tracked statement is sent, for which Tortoise takes a connection."""


class StatementCount:
    """The number of statements sent on a connection since it is observed."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


def observe_connection(client: BaseDBAsyncClient) -> StatementCount:
    """Observes a connection in autocommit mode. Idempotent."""
    count = _observed.get(client)
    if count is None:
        count = _observed[client] = StatementCount()
        for name in _METHODS:
            setattr(client, name, _wrap(client, getattr(client, name), count))
        _replace(client, "acquire_connection", _wrap_acquire(client, count))
        _replace(client, "_in_transaction", _wrap_transaction(getattr(client, "_in_transaction"), count))  # noqa: B009
    return count


def _replace(client: Any, name: str, method: Callable[..., Any]) -> None:
    setattr(client, name, method)


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
        tracker.unfinished += 1  # for good, if the statement fails or is cancelled
        send = partial(send_observed, query, *args, **kwargs)
        if tracker.send_admitted is None or _in_statement.get():
            await tracker.before_statement(tracker, client, query)
            answer = await send()
        else:
            answer = await tracker.send_admitted(tracker, client, query, send)
        tracker.unfinished -= 1
        return answer

    async def send_observed(query: str, *args: Any, **kwargs: Any) -> Any:
        token = _in_statement.set(True)
        try:
            return await original(query, *args, **kwargs)
        finally:
            _in_statement.reset(token)

    return execute


def _wrap_acquire(client: BaseDBAsyncClient, count: StatementCount) -> Callable[[], Any]:
    """Returns a method that gives out the driver's connection, whose statements cannot be observed."""
    original: Callable[[], Any] = getattr(client, "acquire_connection")  # noqa: B009

    @wraps(original)
    def acquire_connection() -> Any:
        count.number += 1
        tracker = current_tracker()
        if tracker is not None and not _in_statement.get():
            tracker.untracked |= {f"{client.connection_name}.{UNKNOWN}"}
        return original()

    return acquire_connection


def _wrap_transaction(original: Callable[[], Any], count: StatementCount) -> Callable[[], Any]:
    @wraps(original)
    def in_transaction() -> Any:
        count.number += 1
        tracker = current_tracker()
        if tracker is not None:
            tracker.unrecorded(WRITES)
        manager = original()
        client: Any = getattr(manager, "client", None) or manager.connection
        for name in ("execute_query", "execute_query_dict"):
            setattr(client, name, _wrap_refusing(getattr(client, name), count))
        _replace(client, "_in_transaction", _wrap_transaction(client._in_transaction, count))
        return manager

    return in_transaction


def _wrap_refusing(original: Callable[..., Any], count: StatementCount) -> Callable[..., Any]:
    """Returns a method of a transaction, which a tracked computation may have from elsewhere."""

    @wraps(original)
    def execute(*args: Any, **kwargs: Any) -> Any:
        count.number += 1
        tracker = current_tracker()
        if tracker is not None:
            tracker.unrecorded("it reads in a transaction")
        return original(*args, **kwargs)

    return execute
