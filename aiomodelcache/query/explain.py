"""``Event.cache.explain``: where a lookup would be answered from, and why. Reads the store, and writes nothing."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from aiomodelcache.encoding.layout import (
    ABSENT,
    FINGERPRINT,
    GUARD,
    STALE,
    VALUE,
    DamagedEntry,
    created_ms,
    is_intent,
    is_lease,
    unpack,
)
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import BackendError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.lookups import LocatedKey, LookupQuery
from aiomodelcache.scopes.request import current_scope

State = Literal["hit", "negative", "missing", "leased", "written", "cleared", "other version", "damaged", "stale"]
Reason = State | Literal["moved", "uncacheable", "scope", "transaction", "disabled", "unreachable", "undelivered"]

_ANSWERS: Final = ("hit", "negative", "stale")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryState:
    """The state of the entry under one key.

    >>> (await Event.cache.explain(slug="pycon")).entry
    EntryState(key='amc:i:default:event:slug:spycon', state='hit', age=..., expires_in=...)

    =================  ====================================================================================
    ``state``          meaning
    =================  ====================================================================================
    ``hit``            a value that may be answered
    ``negative``       a known absence: there is no such row
    ``missing``        nothing: never looked up, expired, evicted, or invalidated by a write
    ``leased``         a reader's lease: the reader asks the database and will fill the key
    ``written``        a writer's intent: the entry, or the whole model, is being written
    ``cleared``        from before the model was cleared, or before its epoch was lost
    ``other version``  from another version of the program, its schema or the static ``version``
    ``damaged``        bytes that cannot be read
    ``stale``          a copy of an invalidated entry, which may still be answered for a while (``allowtime``)
    =================  ====================================================================================
    """

    key: str
    state: State
    age: float | None = None
    """Seconds since the entry was built, by the clock of the process that built it."""
    expires_in: float | None = None
    """Seconds until the entry expires. An estimate, because ``ttl_jitter`` spreads lifetimes."""
    near: bool = False
    """True if this process keeps a near copy, which may answer without a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The place that would answer a lookup now, and the reason.

    >>> explanation = await Event.cache.explain(slug="pycon")
    >>> explanation.source, explanation.reason
    ('cache', 'hit')

    ``source`` is "scope" (``local_cache``), "cache" or "database". ``reason`` is the state of the entry that decides
    (see ``EntryState``), or one of these:

    ===============  ======================================================================================
    ``reason``       meaning
    ===============  ======================================================================================
    ``moved``        the index leads to a row that is gone or no longer has the values asked for
    ``uncacheable``  the database holds other values to be equal to these (collation)
    ``scope``        an earlier lookup in this ``local_cache()`` holds the answer
    ``transaction``  the caller has a transaction open
    ``disabled``     ``enabled=False``, or inside ``cache.disabled()``
    ``unreachable``  the store does not answer, and reads bypass it for ``breaker_cooldown``
    ``undelivered``  this process has invalidations that could not be delivered yet
    ===============  ======================================================================================
    """

    query: str
    source: Literal["scope", "cache", "database"]
    reason: Reason
    key: str
    entry: EntryState | None = None
    """The entry under the key: a row if looked up by primary key, else an index. None if the store was not asked."""
    rows: tuple[EntryState, ...] = ()
    """The rows that the index leads to, in its order. Rows inside a computed result are not examined."""


async def explain(cache: OpenCache, query: LookupQuery[Any]) -> Explanation:
    """Returns where a query would be answered from, and why. See ``ModelCacheManager.explain``."""
    located = query.locate(cache)
    key = key_text(located.key)
    unavailable = cache.guarded.unavailable_reason
    reason: Reason | None = None
    entry: EntryState | None = None
    if query.transaction(cache) is not None:
        reason = "transaction"
    elif cache.bypass.off:
        reason = "disabled"
    elif (scope := current_scope()) is not None and scope.recall(located.key) is not None:
        return Explanation(query=repr(query), source="scope", reason="scope", key=key)
    elif unavailable is not None:
        reason = unavailable
    rows: tuple[EntryState, ...] = ()
    if reason is None:
        try:
            entry, rows, reason = await _read_states(cache, located)
        except BackendError:
            reason = "unreachable"
    source: Literal["cache", "database"] = "cache" if reason in _ANSWERS else "database"
    near = cache.guarded.near.holds
    if entry is not None:
        states = [replace(state, near=near(state.key.encode("utf-8", "surrogatepass"))) for state in (entry, *rows)]
        entry, rows = states[0], tuple(states[1:])
    return Explanation(query=repr(query), source=source, reason=reason, key=key, entry=entry, rows=rows)


async def _read_states(cache: OpenCache, located: LocatedKey) -> tuple[EntryState, tuple[EntryState, ...], Reason]:
    entry_set: Any = located.entry_set
    values, key, rows = located.values, located.key, entry_set.rows
    epoch, *entries = await cache.guarded.call(cache.guarded.backend.read([rows.epoch_key, key]))
    entry = state_of(entry_set, key, entries[0], epoch)
    if isinstance(entry_set, RowEntries):
        row = entry_set.read(entries[0], epoch) if entry.state in ("hit", "stale") else None
        moved = isinstance(row, dict) and not entry_set.is_row(row, values[0])
        return entry, (), "moved" if moved else entry.state
    cacheable = entry_set.cacheable if isinstance(entry_set, ResultEntries) else entry_set.cacheable(values)
    if entry.state == "missing" and not cacheable:
        return entry, (), "uncacheable"
    if isinstance(entry_set, ResultEntries):
        return entry, (), entry.state
    pks: list[Any] | NoValue = entry_set.read(entries[0], epoch) if entry.state in ("hit", "stale") else []
    if not isinstance(pks, list) or not pks:
        return entry, (), entry.state
    keys = [rows.key(pk) for pk in pks]
    epoch, *entries = await cache.guarded.call(cache.guarded.backend.read([rows.epoch_key, *keys]))
    states = tuple(state_of(rows, key, entry, epoch) for key, entry in zip(keys, entries, strict=True))
    return entry, states, _deciding_state(entry_set, located, pks, entries, epoch, states)


def _deciding_state(
    index: IndexEntries,
    located: LocatedKey,
    pks: list[Any],
    entries: Iterable[bytes | None],
    epoch: bytes | None,
    states: Sequence[EntryState],
) -> Reason:
    """Returns the state of the first row that is no answer. If all are answers, returns "stale" or "hit"."""
    for pk, entry, state in zip(pks, entries, states, strict=True):
        if state.state not in _ANSWERS:
            return state.state
        if not index.answers(index.rows.read(entry, epoch), pk, located.values):
            return "moved"
    return "stale" if any(state.state == "stale" for state in states) else "hit"


def state_of(entry_set: EntrySet | ResultEntries, key: bytes, entry: bytes | None, epoch: bytes | None) -> EntryState:
    """Returns the state of the bytes under a key."""
    name = key_text(key)
    if entry is None:
        return EntryState(key=name, state="written" if is_intent(epoch) else "missing")
    state = _state(entry_set, entry, epoch)
    if entry[:1] not in (VALUE, ABSENT) or state == "damaged":
        return EntryState(key=name, state=state)
    age = max(0.0, time.time() - created_ms(entry) / 1000)
    return EntryState(key=name, state=state, age=age, expires_in=max(0.0, entry_set.lifetimes.seconds(entry[:1]) - age))


def _state(entry_set: EntrySet | ResultEntries, entry: bytes, epoch: bytes | None) -> State:
    if is_intent(entry):
        return "written"
    if is_lease(entry):
        return "leased"
    try:
        unpack(entry)
    except DamagedEntry:
        return "damaged"
    if entry[FINGERPRINT] != entry_set.fingerprint:
        return "other version"
    found: Any = entry_set.read(entry, epoch)
    if found is not NoValue.MISS:
        return "stale" if entry[:1] == STALE else "negative" if found is NoValue.ABSENT else "hit"
    if entry[:1] == STALE:
        return "missing"
    if is_intent(epoch):
        return "written"
    current = epoch is not None and is_version(epoch) and entry[GUARD].endswith(epoch[1:])
    return "damaged" if current or entry[:1] not in (VALUE, ABSENT) else "cleared"


def key_text(key: bytes) -> str:
    """Returns a key as ``redis-cli`` shows it."""
    return key.decode("utf-8", "surrogatepass")
