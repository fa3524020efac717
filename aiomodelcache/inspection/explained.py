"""The place that a lookup would be answered from, and the dependencies of a derived entry, without values in keys."""

from typing import Any, cast

from aiomodelcache.declare.values import BaseValueQuery
from aiomodelcache.encoding.layout import PREFIX_SIZE, is_intent
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.explain import EntryState, Explanation, explain
from aiomodelcache.query.lookups import LookupQuery


async def explained_query(cache: OpenCache, query: CacheQuery[Any], key_map: KeyMap, *, values: bool) -> dict[str, Any]:
    """Returns where a query would be answered from, and why. Sends no SQL, and changes nothing.

    ``values``: also shows the values in keys.
    """
    if isinstance(query, LookupQuery):
        explanation = await explain(cache, query)
    else:
        explanation = await cast("BaseValueQuery[Any]", query).explain()
    data = _data(explanation, key_map, values=values)
    return data | {"dependencies": await explained_dependencies(cache, query, key_map, values=values)}


def _data(explanation: Explanation, key_map: KeyMap, *, values: bool) -> dict[str, Any]:
    states = [] if explanation.entry is None else [explanation.entry, *explanation.rows]
    return {
        "query": explanation.query,
        "source": explanation.source,
        "reason": explanation.reason,
        "key": key_map.shown(key_bytes(explanation.key), values=values),
        "entries": [entry_state_data(state, key_map, values=values) for state in states],
    }


def key_bytes(key: str) -> bytes:
    """Returns the key whose text this is."""
    return key.encode("utf-8", "surrogatepass")


def entry_state_data(state: EntryState, key_map: KeyMap, *, values: bool) -> dict[str, Any]:
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


async def explained_dependencies(
    cache: OpenCache, query: CacheQuery[Any], key_map: KeyMap, *, values: bool
) -> list[dict[str, Any]] | None:
    """Returns what a derived entry depends on, and which of it has changed. None if the query has no such entry."""
    if not isinstance(query, BaseValueQuery):
        return None
    entry_set, key = query.locate(cache)
    if not isinstance(entry_set, DerivedEntries):
        return None
    read = cache.guarded.backend.read
    epoch, entry = await read([entry_set.epoch_of(key), key])
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
