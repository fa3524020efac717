"""The lookups that operators type in, and the models that they clear."""

import shlex
from typing import Any

import msgspec

from aiomodelcache.client import ModelCache
from aiomodelcache.contrib.dashboard.http import Refused
from aiomodelcache.exceptions import BackendError, CacheError
from aiomodelcache.inspection.arguments import parse_arguments
from aiomodelcache.inspection.clearing import clear_targets, clearable
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.explained import explained_query
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.own_store import store_of
from aiomodelcache.inspection.stored import inspected_entry, key_of_target
from aiomodelcache.inspection.targets import all_targets, find_target, query_of
from aiomodelcache.observe.stats import logger


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A lookup as an operator types it: ``Event`` and ``slug=pycon``, or a key as the store has it."""

    target: str
    arguments: str = ""
    as_list: bool = False


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """The declaration to clear, by its name, and once more as the operator has confirmed it."""

    target: str
    confirmed: str


def names_of(cache: ModelCache) -> dict[str, list[str]]:
    """Returns the names of all declarations, and of those that can be cleared."""
    view = cache.open_cache
    found = {"targets": all_targets(view), "clearable": clearable(view)}
    return {kind: sorted({target.name for target in targets}, key=str.lower) for kind, targets in found.items()}


async def explain_lookup(cache: ModelCache, body: bytes, *, values: bool) -> dict[str, Any]:
    """Returns where a lookup would be answered from. Raises ``Refused``."""
    asked = _decoded(body, Asked)
    try:
        view = cache.open_cache.usable()
        arguments = parse_arguments(_split(asked.arguments))
        query = query_of(view, find_target(view, asked.target.strip()), arguments, as_list=asked.as_list)
        return await explained_query(view, query, KeyMap(view), values=values)
    except Exception as error:
        raise _refusal(error) from error


async def inspect_lookup(cache: ModelCache, body: bytes, *, values: bool) -> dict[str, Any]:
    """Returns the entry of a lookup, decoded. Raises ``Refused``."""
    asked = _decoded(body, Asked)
    try:
        view = cache.open_cache.usable()
        key = key_of_target(view, asked.target.strip(), _split(asked.arguments), as_list=asked.as_list)
        async with store_of(cache.backend) as store:
            if store is None:
                raise CommandError("This store cannot tell the lives of its keys, which inspect needs.")
            return await inspected_entry(view, store, KeyMap(view), key, cache.fleet, values=values)
    except Exception as error:
        raise _refusal(error) from error


async def clear_declaration(cache: ModelCache, body: bytes) -> dict[str, Any]:
    """Clears a model or a cached function, in all processes. Raises ``Refused``."""
    named = _decoded(body, Named)
    if named.confirmed != named.target:
        raise Refused(400, "The name to clear is not confirmed.")
    try:
        view = cache.open_cache.writable()
        cleared = await clear_targets(view, [find_target(view, named.target)])
    except Exception as error:
        raise _refusal(error) from error
    logger.warning("aiomodelcache: the dashboard has cleared %s", ", ".join(cleared))
    return {"cleared": cleared}


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError):
        raise Refused(400, "The body of the request is not as expected.") from None


def _split(text: str) -> list[str]:
    """Splits a line as a shell does."""
    try:
        return shlex.split(text)
    except ValueError:
        raise CommandError("A quotation mark is not closed.") from None


def _refusal(error: Exception) -> Refused:
    """Returns the response to an error. The text of one from the user's code may hold values, and is left out."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, BackendError):
        return Refused(503, str(error))
    if isinstance(error, CommandError | CacheError):
        return Refused(422, str(error))
    return Refused(422, f"This lookup fails: {type(error).__name__}.")
