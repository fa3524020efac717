"""``aiomodelcache explain``: where a lookup would be answered from, and why."""

from collections.abc import Sequence
from typing import Any, cast

import click

from aiomodelcache.cli.arguments import parse_arguments
from aiomodelcache.cli.keyspace import KeyMap
from aiomodelcache.cli.output import duration
from aiomodelcache.cli.session import Session, command, opened
from aiomodelcache.cli.targets import find_target, query_of
from aiomodelcache.declare.values import BaseValueQuery
from aiomodelcache.encoding.layout import PREFIX_SIZE, is_intent
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.explain import EntryState, Explanation, explain
from aiomodelcache.query.lookups import LookupQuery

TARGET = click.argument("target")
ARGUMENTS = click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
AS_LIST = click.option("--list", "as_list", is_flag=True, help="Of a model: the list with these values, not the row.")
VALUES = click.option("--values", is_flag=True, help="Show values of columns and arguments.")


@command("explain", short_help="Say where a lookup would be answered from, and why.")
@TARGET
@ARGUMENTS
@AS_LIST
@VALUES
async def explain_command(session: Session, target: str, arguments: Sequence[str], as_list: bool, values: bool) -> None:
    """Says where a lookup would be answered from, and why.

    TARGET is a model, a relation (Event.tags), a cache class, a class of values, or a cached function. NAME=VALUE is
    converted by the model's field or the function's annotation; NAME:=JSON is taken as it is, like venue:=null. Sends
    no SQL, and changes nothing.
    """
    async with session.cache() as cache:
        view = opened(cache)
        query = query_of(view, find_target(view, target), parse_arguments(arguments), as_list=as_list)
        if isinstance(query, LookupQuery):
            explanation = await explain(view, query)
        else:
            explanation = await cast("BaseValueQuery[Any]", query).explain()
        key_map = KeyMap(view)
        data = _data(explanation, key_map, values=values)
        data["dependencies"] = await dependencies(view, query, key_map, values=values)
    _show(session, data)


def _data(explanation: Explanation, key_map: KeyMap, *, values: bool) -> dict[str, Any]:
    states = [] if explanation.entry is None else [explanation.entry, *explanation.rows]
    return {
        "query": explanation.query,
        "source": explanation.source,
        "reason": explanation.reason,
        "key": key_map.shown(key_bytes(explanation.key), values=values),
        "entries": [state_data(state, key_map, values=values) for state in states],
    }


def key_bytes(key: str) -> bytes:
    """Returns the key whose text this is."""
    return key.encode("utf-8", "surrogatepass")


def state_data(state: EntryState, key_map: KeyMap, *, values: bool) -> dict[str, Any]:
    """Returns the state of an entry as data."""
    key = key_bytes(state.key)
    place = key_map.place(key)
    return {
        "key": key_map.shown(key, values=values),
        "cache": place.label if place else None,
        "kind": place.kind if place else None,
        "state": state.state,
        "age": state.age,
        "expires_in": state.expires_in,
    }


async def dependencies(
    cache: OpenCache, query: CacheQuery[Any], key_map: KeyMap, *, values: bool
) -> list[dict[str, Any]] | None:
    """Returns what a derived entry depends on, and which of it has changed. None if the query has no such entry."""
    if not isinstance(query, BaseValueQuery):
        return None
    entry_set, key = query.locate(cache)
    if not isinstance(entry_set, DerivedEntries):
        return None
    read = cache.guarded.backend.read
    epoch, entry = await read([entry_set.epoch_key, key])
    return await dependencies_of(cache, entry_set.read(entry, epoch), key_map, values=values)


async def dependencies_of(cache: OpenCache, value: Any, key_map: KeyMap, *, values: bool) -> list[dict[str, Any]]:
    """Returns what a derived value depends on, and which of it has changed."""
    if not isinstance(value, DerivedValue) or not value.keys:
        return []
    found: list[dict[str, Any]] = []
    entries = await cache.guarded.backend.read(value.keys)
    for key, token, entry in zip(value.keys, value.tokens, entries, strict=True):
        place = key_map.place(key)
        found.append(
            {
                "key": key_map.shown(key, values=values),
                "cache": place.label if place else None,
                "kind": place.kind if place else None,
                "state": _change(token, entry),
            }
        )
    return found


def _change(token: bytes, entry: bytes | None) -> str:
    """Returns the state of a dependency whose entry began with ``token``."""
    if entry is None:
        return "missing"
    if is_intent(entry):
        return "written"
    return "unchanged" if entry[:PREFIX_SIZE] == token else "changed"


def _show(session: Session, data: dict[str, Any]) -> None:
    output = session.output

    def show() -> None:
        output.pairs((name, data[name]) for name in ("query", "source", "reason", "key"))
        if data["entries"]:
            output.line()
            rows = [
                [each["state"], each["cache"], duration(each["age"]), duration(each["expires_in"]), each["key"]]
                for each in data["entries"]
            ]
            output.table(("state", "cache", "age", "life left", "key"), rows)
        if data["dependencies"]:
            output.line()
            rows = [[each["state"], each["cache"], each["key"]] for each in data["dependencies"]]
            output.table(("dependency", "cache", "key"), rows)

    output.emit(data, show)
