"""Bulk computations: the results of one class that lookups of one tick miss, computed by one call of its bulk method.

The first of these computations makes the call, one turn of the event loop after it began. Those that begin in the
meantime join it. None joins later: what it would get could be older than the writes before it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.declare.resilience import returning_errors
from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.raised import Raised
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.exceptions import CacheConfigurationError, CacheError
from aiomodelcache.plans.computing import also_computing
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.scopes.tracking import Tracked

VersionsRead = Iterable[tuple[bytes, bytes]]
Arguments = tuple[Any, ...]
ComputeAll = Callable[[list[Arguments], VersionsRead], Awaitable[Any]]
"""A function of the arguments, and of table versions that were read before, that returns the results of all."""


class BulkMethod(NamedTuple):
    """A function that computes the results for many arguments, and its name in errors."""

    name: str
    call: Callable[[list[Arguments]], Awaitable[Any]]


def bulk_method(cls: type, name: str) -> BulkMethod | None:
    """Returns the bulk method that a user's class defines, or None.

    The method receives the arguments of each result: the only one of them, or a tuple.
    """
    method: Any = getattr(cls, name, None)
    if getattr(method, "__module__", "aiomodelcache.").startswith("aiomodelcache."):
        return None

    def call(arguments: list[Arguments]) -> Awaitable[Any]:
        found: Awaitable[Any] = method(_as_passed(arguments))
        return found

    return BulkMethod(f"{cls.__name__}.{name}", call)


def check_bulk_method(where: str, method: Any, replaced: str, *, both: bool) -> None:
    """Checks a bulk method as it is in its class. ``both``: the class defines the method that it replaces, too.

    Raises ``CacheConfigurationError``.
    """
    if both:
        raise CacheConfigurationError(f"{where} replaces {replaced}, which has no effect: remove one of them.")
    if not (isinstance(method, classmethod) and iscoroutinefunction(cast("Any", method).__func__)):
        raise CacheConfigurationError(f"{where} is not a class method: define it by @classmethod and async def.")


async def compute_in_bulk(
    method: BulkMethod,
    result: ResultEntries,
    key: bytes,
    arguments: Arguments,
    client: BaseDBAsyncClient | None,
    versions: VersionsRead = (),
) -> Any:
    """Computes the result of these arguments by a bulk method, with others of this tick and of the same transaction."""

    async def compute_all(all_arguments: list[Arguments], known: VersionsRead) -> Any:
        call = partial(returning_errors, result.resilience.errors, method.call, all_arguments)
        if isinstance(result, DerivedEntries):
            return await result.track(result, call, client, known)
        return await call()

    found = await compute_together((result, client), key, arguments, versions, method.name, compute_all)
    value = found.value if isinstance(found, Tracked) else found
    if not isinstance(value, BaseException):
        return found
    if not isinstance(value, Exception) or type(value) not in result.resilience.errors:
        raise value
    raised = Raised(value)
    return found._replace(value=raised) if isinstance(found, Tracked) else raised


class _BulkCall:
    """The arguments of one call, by the keys of their results."""

    def __init__(self) -> None:
        self.arguments: dict[bytes, Arguments] = {}
        self.versions: dict[bytes, bytes] = {}
        self.answer: asyncio.Future[dict[bytes, Any]] = asyncio.get_running_loop().create_future()


_open: Final[WeakKeyDictionary[Any, dict[Any, _BulkCall]]] = WeakKeyDictionary()
"""The calls that can still be joined, by the entries of their class, and by bypass and transaction."""


async def compute_together(
    place: tuple[object, object],
    key: bytes,
    arguments: Arguments,
    versions: VersionsRead,
    name: str,
    compute_all: ComputeAll,
) -> Any:
    """Computes the result of these arguments, with those of other computations of this tick.

    ``place``: the entries of the class, and the transaction's connection or None.
    """
    entries, client = place
    calls, mode = _open.setdefault(entries, {}), (open_blocks(), client)
    call = calls.get(mode)
    leads = call is None
    if call is None:
        call = calls[mode] = _BulkCall()
    call.arguments[key] = arguments
    call.versions.update(versions)
    answer = asyncio.shield(call.answer)  # also for the leader, so that all go on, and fill, in one tick
    if leads:
        try:
            await _make(call, calls, mode, name, compute_all)
        except BaseException:
            answer.cancel()
            raise
    return (await answer)[key]


async def _make(call: _BulkCall, calls: dict[Any, _BulkCall], mode: Any, name: str, compute_all: ComputeAll) -> None:
    """Makes a call after one turn of the event loop, and hands out the results."""
    try:
        try:
            await asyncio.sleep(0)
        finally:
            del calls[mode]
        with also_computing(call.arguments):
            found = await compute_all(list(call.arguments.values()), call.versions.items())
        call.answer.set_result(
            dict(zip(call.arguments, _results(found, _as_passed(call.arguments.values()), name), strict=True))
        )
    except BaseException as error:
        call.answer.set_exception(error if isinstance(error, Exception) else CacheError(f"{name} was cancelled."))
        with suppress(Exception):
            call.answer.result()  # the first computation raises the error itself
        raise


def _results(found: Any, wanted: list[Any], name: str) -> list[Any]:
    """Returns the result for each argument, with the record of what all were computed from. Raises ``CacheError``."""
    tracker = found.tracker if isinstance(found, Tracked) else None
    value: Any = cast("Tracked", found).value if tracker is not None else found
    if isinstance(value, Raised):
        results: list[Any] = [value] * len(wanted)
    elif isinstance(value, Mapping):
        results = [cast("Any", value).get(argument) for argument in wanted]
    elif isinstance(value, list | tuple):
        results = list(cast("Any", value))
    else:
        raise CacheError(f"{name} returned {described(value)}: return a list of results, or a dict by argument.")
    if len(results) != len(wanted):
        raise CacheError(f"{name} returned {len(results)} results for {len(wanted)} arguments: return one for each.")
    return [Tracked(result, tracker) for result in results] if tracker is not None else results


def _as_passed(arguments: Iterable[Arguments]) -> list[Any]:
    return [each[0] if len(each) == 1 else each for each in arguments]
