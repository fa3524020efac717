"""Bulk computations: the results of one class that lookups of one tick miss, computed by one call of ``get_results``.

The first of these computations makes the call, one turn of the event loop after it began. Those that begin in the
meantime join it. None joins later: what it would get could be older than the writes before it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheError
from aiomodelcache.plans.computing import also_computing
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.scopes.tracking import Tracked

Versions = Iterable[tuple[bytes, bytes]]
ComputeAll = Callable[[list[Any], Versions], Awaitable[Any]]
"""A function of the arguments, and of table versions that were read before, that returns the results of all."""


class _Call:
    """The arguments of one call, by the keys of their results."""

    def __init__(self) -> None:
        self.arguments: dict[bytes, Any] = {}
        self.versions: dict[bytes, bytes] = {}
        self.answer: asyncio.Future[dict[bytes, Any]] = asyncio.get_running_loop().create_future()


_open: Final[WeakKeyDictionary[Any, dict[Any, _Call]]] = WeakKeyDictionary()
"""The calls that can still be joined, by the entries of their class, and by bypass and transaction."""


async def compute_together(
    place: tuple[object, object], key: bytes, argument: Any, versions: Versions, name: str, compute_all: ComputeAll
) -> Any:
    """Computes the result of one argument, with those of other computations of this tick.

    ``place``: the entries of the class, and the transaction's connection or None. Raises the exception that the call
    returned for this argument, or that it raised.
    """
    entries, client = place
    calls, mode = _open.setdefault(entries, {}), (open_blocks(), client)
    call = calls.get(mode)
    leads = call is None
    if call is None:
        call = calls[mode] = _Call()
    call.arguments[key] = argument
    call.versions.update(versions)
    if leads:
        await _make(call, calls, mode, name, compute_all)
    result = (await asyncio.shield(call.answer))[key]
    value = result.value if isinstance(result, Tracked) else result
    if isinstance(value, BaseException):
        raise value
    return result


async def _make(call: _Call, calls: dict[Any, _Call], mode: Any, name: str, compute_all: ComputeAll) -> None:
    """Makes a call after one turn of the event loop, and hands out the results."""
    try:
        try:
            await asyncio.sleep(0)
        finally:
            del calls[mode]
        with also_computing(call.arguments):
            found = await compute_all(list(call.arguments.values()), call.versions.items())
        call.answer.set_result(dict(zip(call.arguments, _results(found, call.arguments.values(), name), strict=True)))
    except BaseException as error:
        call.answer.set_exception(error if isinstance(error, Exception) else CacheError(f"{name} was cancelled."))
        with suppress(Exception):
            call.answer.result()  # the first computation raises the error itself
        raise


def _results(found: Any, arguments: Iterable[Any], name: str) -> list[Any]:
    """Returns the result for each argument, with the record of what all were computed from. Raises ``CacheError``."""
    tracker = found.tracker if isinstance(found, Tracked) else None
    value: Any = cast("Tracked", found).value if tracker is not None else found
    wanted = list(arguments)
    if isinstance(value, Mapping):
        results: list[Any] = [cast("Any", value).get(argument) for argument in wanted]
    elif isinstance(value, list | tuple):
        results = list(cast("Any", value))
    else:
        raise CacheError(f"{name} returned {described(value)}: return a list of results, or a dict by argument.")
    if len(results) != len(wanted):
        raise CacheError(f"{name} returned {len(results)} results for {len(wanted)} arguments: return one for each.")
    return [Tracked(result, tracker) for result in results] if tracker is not None else results
