"""``Event.cache.explain``: where a lookup would be answered from, and why. Reads the store, and writes nothing."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Final, Literal, cast

from aiomodelcache.encoding.keys import key_text
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
    unpack_entry,
)
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.results import ResultEntries, references_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import BackendError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.paths import Branch, Hop, RelationPath
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.scopes.tracking import current_tracker

State = Literal["hit", "negative", "missing", "leased", "written", "cleared", "other version", "damaged", "stale"]
Reason = (
    State
    | Literal["moved", "changed", "uncacheable", "scope", "transaction", "disabled", "unreachable", "undelivered"]
    | Literal["relay lost"]
)

_ANSWERS: Final = ("hit", "negative", "stale")
_VALUES: Final = ("hit", "stale")


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
    """Seconds until the entry expires. An estimate, because ``ttl_jitter`` spreads lifetimes.

    None if a ``timeout`` of the value's own depends on instances in it, which are not examined.
    """
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
    ``changed``      a row or table that the value was computed from has changed, or is being written
    ``uncacheable``  the database holds other values to be equal to these (collation)
    ``scope``        an earlier lookup in this ``local_cache()`` holds the answer
    ``transaction``  the caller has a transaction open
    ``disabled``     ``enabled=False``, or inside ``cache.disabled()``
    ``unreachable``  the store, or the node of the keys, does not answer, and reads bypass it for ``breaker_cooldown``
    ``undelivered``  this process has invalidations that could not be delivered yet; on a Cluster, of these keys
    ``relay lost``   no relay lives, so writes by other programs to a model with ``relay = True`` are not seen
    ===============  ======================================================================================
    """

    query: str
    """The query, with the types of its values."""
    source: Literal["scope", "cache", "database"]
    reason: Reason
    key: str
    """The cache key, which holds the values looked up."""
    entry: EntryState | None = None
    """The entry under the key: a row if looked up by primary key, else an index, a list or a computed value.

    None if the store was not asked.
    """
    rows: tuple[EntryState, ...] = ()
    """The rows that the index leads to, in its order.

    If the lookup follows relations, the entries on its path, up to the first that is no answer. Rows inside a computed
    value are not examined.
    """


async def explain(cache: OpenCache, query: LookupQuery[Any]) -> Explanation:
    """Returns where a query would be answered from, and why. See ``ModelCacheManager.explain``."""
    _, entry_set, values, key = query.locate(cache)
    return await explain_key(cache, query, entry_set, values, key, query.relation_path(cache))


async def explain_key(
    cache: OpenCache,
    query: CacheQuery[Any],
    entry_set: EntrySet | ResultEntries,
    values: Values,
    key: bytes,
    path: RelationPath | None = None,
    *,
    counted: bool = True,
) -> Explanation:
    """Returns where the query of these values would be answered from, and why. ``key`` is the cache key of the values.

    ``path``: the relations that the query follows from the rows with these values. ``counted``: count the requests.
    """
    tracker = current_tracker()
    if tracker is not None:
        tracker.refuse("it explains a lookup")
    unavailable = cache.guarded.unavailable_reason
    reason: Reason | None = None
    entry: EntryState | None = None
    rows: tuple[EntryState, ...] = ()
    scope_key = key if path is None else path.key(key)
    if query.transaction(cache) is not None:
        reason = "transaction"
    elif cache.bypass.off or any(each.bypass for each in cache.bypass.restrictions(open_blocks(), query.subjects())):
        reason = "disabled"
    elif (scope := current_scope()) is not None and scope.find(scope_key) is not None:
        return Explanation(query=repr(query), source="scope", reason="scope", key=key_text(key))
    elif unavailable is not None:
        reason = unavailable
    if reason is None:
        examination = _Examination(cache, counted=counted)
        try:
            found = await examination.examine(entry_set, {key: values})
            if path is not None:
                await examination.follow(path, found[key])
        except BackendError:
            reason = "unreachable"
        else:
            entry, *others = examination.states()
            rows, reason = tuple(others), examination.reason
    source: Literal["cache", "database"] = "cache" if reason in _ANSWERS else "database"
    return Explanation(query=repr(query), source=source, reason=reason, key=key_text(key), entry=entry, rows=rows)


class _Examination:
    """The entries that a lookup reads, examined in the lookup's order until one is no answer."""

    def __init__(self, cache: OpenCache, *, counted: bool) -> None:
        self._guarded = cache.guarded
        self._relayed = cache.reader.relayed
        self._counted = counted
        self._states: list[EntryState] = []
        self._failure: Reason | None = None
        """The reason of the first entry that is no answer."""

    @property
    def reason(self) -> Reason:
        """The reason of the lookup's answer."""
        if self._failure is not None:
            return self._failure
        if any(state.state == "stale" for state in self._states):
            return "stale"
        return self._states[0].state

    def states(self) -> list[EntryState]:
        """Returns the states of all entries that were read."""
        near = self._guarded.near.holds
        return [replace(state, near=near(state.key.encode("utf-8", "surrogatepass"))) for state in self._states]

    async def examine(self, entry_set: Any, wanted: Mapping[bytes, Values]) -> dict[bytes, list[RowValues]]:
        """Examines the entries under these keys, and the rows that they lead to. Returns the rows found, by key."""
        epochs, entries = await self._read(entry_set, wanted)
        states = list(map(state_of, repeat(entry_set), wanted, entries, epochs))
        self._states += states
        if isinstance(entry_set, ResultEntries):
            self._note(_uncacheable_or(states[0].state, entry_set.cacheable))
            if isinstance(entry_set, DerivedEntries) and self._failure is None:
                await self._compare_dependencies(entry_set.read(entries[0], epochs[0]))
            return {}
        found: dict[bytes, list[RowValues]] = {}
        listed: dict[bytes, list[Any]] = {}
        for (key, values), entry, epoch, state in zip(wanted.items(), entries, epochs, states, strict=True):
            content: Any = entry_set.read(entry, epoch) if state.state in _VALUES else None
            if isinstance(entry_set, RowEntries):
                found[key] = [content] if type(content) is dict else []
                moved = [row for row in found[key] if not entry_set.is_row(row, values[0])]
                self._note("moved" if moved else state.state)
            else:
                self._note(_uncacheable_or(state.state, entry_set.cacheable(values)))
                found[key] = []
                if isinstance(content, list):
                    listed[key] = content
        if listed:
            found.update(await self._examine_rows(cast("IndexEntries", entry_set), wanted, listed))
        return found

    async def _compare_dependencies(self, value: Any) -> None:
        if isinstance(value, DerivedValue) and value.keys:
            read = await self._read_keys(value.keys)
            if not value.is_current(dict(zip(value.keys, read, strict=True))):
                self._note("changed")

    async def _examine_rows(
        self, index: IndexEntries, wanted: Mapping[bytes, Values], listed: Mapping[bytes, list[Any]]
    ) -> dict[bytes, list[RowValues]]:
        """Examines the rows that index entries list."""
        rows = index.rows
        pks: dict[bytes, Values] = {rows.key(pk): (pk,) for listed_pks in listed.values() for pk in listed_pks}
        by_key = await self.examine(rows, pks) if pks else {}
        found = {key: [row for pk in listed[key] for row in by_key[rows.key(pk)]] for key in listed}
        for key, pks_of_key in listed.items():
            if len(found[key]) < len(pks_of_key) or not index.confirms(pks_of_key, found[key], wanted[key]):
                self._note("moved")  # unless a row is missing
        return found

    async def follow(self, path: RelationPath, rows: list[RowValues]) -> None:
        """Examines the entries that a path reads after the rows at which it begins."""
        for hop in path.hops:
            rows = await self._follow_hop(hop, rows)
        await self._follow_branches(path.branches, rows)

    async def _follow_branches(self, branches: Iterable[Branch], rows: list[RowValues]) -> None:
        for hop, then in branches:
            await self._follow_branches(then, await self._follow_hop(hop, rows))

    async def _follow_hop(self, hop: Hop, rows: list[RowValues]) -> list[RowValues]:
        wanted: dict[bytes, Values] = {hop.key(row): (value,) for row in rows if (value := hop.value(row)) is not None}
        if not wanted or self._failure is not None:
            return []
        return [row for found in (await self.examine(hop.entry_set, wanted)).values() for row in found]

    async def _read(
        self, entry_set: EntrySet | ResultEntries, keys: Collection[bytes]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Returns the epoch of each entry, and the entries."""
        wanted = [*entry_set.partitions.epochs_of(keys), *keys]
        found = dict(zip(wanted, await self._read_keys(wanted), strict=True))
        return [found[entry_set.epoch_of(key)] for key in keys], [found[key] for key in keys]

    async def _read_keys(self, keys: Sequence[bytes]) -> list[bytes | None]:
        nodes, relayed = self._guarded.nodes, self._relayed
        if nodes is not None and (refusal := nodes.refusal(keys)) is not None:
            self._note(refusal)
        claims = None if relayed is None else relayed.claims
        reading = self._guarded.backend.read(keys)
        entries = await (self._guarded.call(reading, len(keys)) if self._counted else reading)
        if relayed is not None and claims is not None and not relayed.serves and relayed.is_lost(keys, claims):
            self._note("relay lost")
        return entries

    def _note(self, reason: Reason) -> None:
        if reason not in _ANSWERS and self._failure is None:
            self._failure = reason


def _uncacheable_or(state: State, cacheable: bool) -> Reason:
    return "uncacheable" if state == "missing" and not cacheable else state


def state_of(entry_set: EntrySet | ResultEntries, key: bytes, entry: bytes | None, epoch: bytes | None) -> EntryState:
    """Returns the state of the bytes under a key."""
    name = key_text(key)
    if entry is None:
        return EntryState(key=name, state="written" if is_intent(epoch) else "missing")
    state = _state(entry_set, entry, epoch)
    if entry[:1] not in (VALUE, ABSENT) or state == "damaged":
        return EntryState(key=name, state=state)
    age = max(0.0, time.time() - created_ms(entry) / 1000)
    lifetime = _lifetime(entry_set, entry, epoch)
    return EntryState(key=name, state=state, age=age, expires_in=None if lifetime is None else max(0.0, lifetime - age))


def _lifetime(entry_set: EntrySet | ResultEntries, entry: bytes, epoch: bytes | None) -> float | None:
    """Returns the lifetime of an entry in seconds. None if only its value with the instances in it would tell."""
    if not isinstance(entry_set, ResultEntries):
        return entry_set.lifetimes.seconds(entry[:1])
    found: Any = entry_set.read(entry, epoch)
    if isinstance(found, NoValue):
        return entry_set.lifetimes.seconds(entry[:1])
    value: Any = found.value if isinstance(found, DerivedValue) else found
    try:
        has_instances = entry_set.resilience.timeout_of is not None and any(True for _ in references_in(value))
        return None if has_instances else entry_set.lifetime_of(value)
    except Exception:  # of the user's function
        return None


def _state(entry_set: EntrySet | ResultEntries, entry: bytes, epoch: bytes | None) -> State:
    if is_intent(entry):
        return "written"
    if is_lease(entry):
        return "leased"
    try:
        unpack_entry(entry)
    except DamagedEntry:
        return "damaged"
    if entry[FINGERPRINT] != entry_set.fingerprint and not _is_error(entry_set, entry):
        shapes = entry_set.shapes if isinstance(entry_set, RowEntries) else None
        if shapes is None or epoch is None or shapes.answer(entry, epoch) is None:
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


def _is_error(entry_set: EntrySet | ResultEntries, entry: bytes) -> bool:
    """Returns True if an entry holds an exception as its result."""
    errors = entry_set.errors if isinstance(entry_set, ResultEntries) else None
    return errors is not None and entry[FINGERPRINT] == errors.fingerprint
