"""The bytes under a key, decoded."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from aiomodelcache.declare.values import BaseValueQuery
from aiomodelcache.encoding.layout import CLAIM, EPOCH, INTENT_SIZE, PREFIX_SIZE, TOKEN_SIZE, is_intent, is_lease
from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.base import ANY_EPOCH, NoValue, is_version
from aiomodelcache.entries.derived import DerivedValue
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.inspection.arguments import parse_arguments
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.explained import dependencies_of, key_bytes
from aiomodelcache.inspection.keyspace import KeyMap, Place
from aiomodelcache.inspection.store import Store
from aiomodelcache.inspection.targets import find_target, query_of
from aiomodelcache.observe.fleet import Fleet
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.explain import state_of
from aiomodelcache.query.lookups import LookupQuery

_ENTRY_STATES: Final = (b"V", b"N", b"S")


def key_of_target(cache: OpenCache, target: str, arguments: Sequence[str], *, as_list: bool) -> bytes:
    """Returns the key of a lookup, or ``target`` itself if that is a key. Raises ``CommandError``."""
    if ":" in target and not arguments:
        return key_bytes(target)
    query: Any = query_of(cache, find_target(cache, target), parse_arguments(arguments), as_list=as_list)
    if isinstance(query, LookupQuery):
        return query.locate(cache).key
    return cast("BaseValueQuery[Any]", query).locate(cache)[1]


async def inspected_entry(
    cache: OpenCache,
    store: Store,
    key_map: KeyMap,
    key: bytes,
    fleet: Callable[[], Awaitable[Fleet]],
    *,
    values: bool,
) -> dict[str, Any]:
    """Returns the entry under a key: its state, age and expiry, and what it holds. Raises ``CommandError``.

    Reads the store only, and changes nothing. ``fleet`` knows the processes whose leases and intents these are.
    ``values``: also shows values of columns and arguments.
    """
    place = key_map.place(key)
    if place is None:
        raise CommandError(
            "No declaration has this key. The keys of this application begin with "
            f"{key_map.beginning.decode()}: is the namespace right, and is the module of its declaration imported?"
        )
    read = cache.guarded.backend.read
    epoch: bytes | None = None
    if place.entry_set is None:
        [entry] = await read([key])
    else:
        entry, epoch = await read([key, place.epoch_of(key)])
    [left] = await store.expires_in([key])
    data: dict[str, Any] = {
        "key": key_map.shown(key, values=values),
        "cache": place.label,
        "kind": place.kind,
        "state": "missing",
        "owner": None,
        "token": entry[1:PREFIX_SIZE].hex() if entry and not is_intent(entry) else None,
        "age": None,
        "expires_in": left,
        "size": len(entry) if entry else None,
        "epoch": None,
        "content": None,
        "intents": [],
        "dependencies": None,
    }
    if place.entry_set is not None:
        state = state_of(place.entry_set, key, entry, epoch)
        data["state"], data["age"] = state.state, state.age
    elif entry is not None:
        data["state"] = _state(entry)
    if is_intent(entry):
        data["intents"] = _intents(cast("bytes", entry), await store.clock(), cache.config.intent_ttl, await fleet())
    elif is_lease(entry):
        data["owner"] = _owner(cast("bytes", entry)[1:PREFIX_SIZE], await fleet())
        data["age"] = None if left is None else max(0.0, cache.config.fill_ttl - left)
    elif entry and place.entry_set is not None and entry[:1] in _ENTRY_STATES:
        data["epoch"] = _epoch(entry[EPOCH], epoch)
        content: Any = place.entry_set.read(entry, epoch)
        data["content"] = _content(place, content, values=values)
        if isinstance(content, DerivedValue):
            data["dependencies"] = await dependencies_of(cache, content, key_map, values=values)
    return data


def _state(entry: bytes) -> str:
    """Returns the state of what holds no answer."""
    if is_version(entry):
        return "version"
    if is_lease(entry):
        return "leased"
    return "written" if is_intent(entry) else "claimed" if entry == CLAIM else "damaged"


def _epoch(own: bytes, current: bytes | None) -> str:
    """Returns how the epoch of an entry compares with the model's."""
    if own == ANY_EPOCH:
        return "any"
    if is_intent(current):
        return f"{own.hex()} (the model is being written)"
    same = current is not None and own == current[1:]
    return f"{own.hex()} ({'current' if same else 'of before a clear'})"


def _intents(entry: bytes, now: float, ttl: float, fleet: Fleet) -> list[dict[str, Any]]:
    """Returns the intents of writers under a key. The age supposes that the writers have this ``intent_ttl``."""
    found: list[dict[str, Any]] = []
    for at in range(1, len(entry), INTENT_SIZE):
        expires = int(entry[at + TOKEN_SIZE : at + INTENT_SIZE]) / 1000
        left = expires - now
        token = entry[at : at + TOKEN_SIZE]
        times = {"age": max(0.0, ttl - left), "expires_in": max(0.0, left), "live": left > 0}
        found.append({"token": token.hex(), "owner": _owner(token, fleet)} | times)
    return found


def _owner(token: bytes, fleet: Fleet) -> str | None:
    """Returns the name of the process that made a token, or None if that has ended or does not publish itself."""
    made = (worker.name for worker in fleet.workers if worker.tokens and token.hex().startswith(worker.tokens))
    return next(made, None)


def _content(place: Place, content: Any, *, values: bool) -> Any:
    """Returns the content of an entry: the columns of a row, or the length of a list, without values by default."""
    if content is NoValue.MISS:
        return None
    if content is NoValue.ABSENT:
        return "no such row"
    if isinstance(content, DerivedValue):
        content = content.value
    if isinstance(place.entry_set, ResultEntries):
        return _value(content, values=values)
    if isinstance(content, dict):
        row = cast("dict[str, Any]", content)
        return {name: _value(value, values=values) for name, value in row.items() if not name.startswith("_")}
    pks = cast("list[Any]", content)
    return {"rows": len(pks)} | ({"primary keys": [repr(pk) for pk in pks]} if values else {})


def _value(value: Any, *, values: bool) -> str:
    if values:
        return repr(value)
    is_container = type(value) in (list, tuple, dict, set, frozenset)
    return described(value) + (f" of {len(value)}" if is_container else "")
