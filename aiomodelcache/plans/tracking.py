"""Tracked plans: a tracker learns which entries answered a lookup, by their tokens.

A token is new with every fill, and a writer's intent replaces it before COMMIT. So the answer of a lookup is unchanged
for as long as all entries that answered hold the same tokens. Rows that were loaded and could not be stored have none.
For them stands the version of their table, if it was read before the statement.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final, cast

from aiomodelcache.encoding.layout import ABSENT, PREFIX_SIZE, STALE, VALUE, VERSION
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.versions import TableVersions
from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Computed,
    ComputeValue,
    FastLookup,
    LeaseResult,
    Load,
    Plan,
    PlanRequest,
    Read,
    StaleAnswer,
    StoreFills,
    T,
)
from aiomodelcache.plans.steps import intercepted
from aiomodelcache.scopes.tracking import CHANGED, Tracker

_TOKENS: Final = (VALUE, ABSENT, VERSION)
_TOKEN_STATES: Final = b"".join(_TOKENS)
_MISS: Final = NoValue.MISS
_MAX_VALUES: Final = 64
"""Maximum number of values of former reads that are kept. Beyond it, only their tokens are."""
_prefix: Final[Callable[[bytes | None], bytes]] = cast("Any", itemgetter(slice(PREFIX_SIZE)))


def tracked(plan: Plan[T], tracker: Tracker, versions: TableVersions) -> Plan[T]:
    """Runs a plan and adds what answered it to a tracker, also if it raises.

    A plan that is given up never counts as finished, so the tracker's result is not stored.
    """
    record = _Record(tracker, versions)
    tracker.unfinished += 1
    try:
        answer = yield from intercepted(plan, record.answer)
    except Exception:
        record.finish()
        raise
    record.finish()
    return answer


class TrackedLookup:
    """A lookup without a plan. The tracker learns what answered it, or its plan does so if the first read does not.

    Until the caller has the answer, the caller counts it as unfinished.
    """

    __slots__ = ("_hits", "_lookup", "collect_keys")

    def __init__(self, lookup: FastLookup, tracker: Tracker, versions: TableVersions) -> None:
        hits: Any = tracker.hits
        if hits is None or hits.versions is not versions:
            hits = TrackedHits(tracker, versions)
        self._hits: TrackedHits = hits
        self._lookup = lookup
        self.collect_keys = lookup.collect_keys

    @property
    def lookup_event(self) -> Lookup | None:
        return self._lookup.lookup_event

    def try_hit(self, context: Any, entries: Mapping[bytes, bytes | None], /) -> Any:
        hits = self._hits
        if hits.entries is not entries:
            hits.turn_to(entries)
        try:
            result = self._lookup.try_hit(context, entries)
        except Exception:  # it is an answer, too
            self.collect_keys(context, hits.keys)
            raise
        if result is _MISS:
            self.collect_keys(context, hits.missed)
        else:
            self.collect_keys(context, hits.keys)  # again: the prediction may have changed since they were read
        return result

    def start_plan(self, context: Any, /) -> Plan[Any]:
        hits = self._hits
        return tracked(self._lookup.start_plan(context), hits.tracker, hits.versions)


class TrackedHits:
    """The entries that answered lookups without a plan, which began when the tracker knew the same table versions.

    The tracker learns it of all of them at once, which costs less for each lookup.
    """

    __slots__ = ("_known", "_read", "_tokens", "_values", "entries", "keys", "missed", "tracker", "versions")

    def __init__(self, tracker: Tracker, versions: TableVersions) -> None:
        self._known = len(tracker.versions)  # none is ever removed, so that the first ones are those known now
        self._read: list[bytes] = []
        self._tokens: list[bytes] = []
        """The tokens of the keys in ``_read``, of former reads."""
        self._values: list[bytes | None] = []
        """The values of the last keys in ``_read``, whose tokens are taken together, which costs less."""
        self.entries: Mapping[bytes, bytes | None] = {}
        """The values of the latest read."""
        self.keys: dict[bytes, None] = {}
        """The keys that answered, of the latest read."""
        self.missed: dict[bytes, None] = {}
        """The keys that did not. Their tables count as used all the same."""
        self.tracker = tracker
        self.versions = versions
        tracker.note(self)

    def turn_to(self, entries: Mapping[bytes, bytes | None]) -> None:
        """Goes on with another read. Keeps only the tokens of the former ones, and a few values."""
        if self.keys:
            self._read += self.keys
            self._values += map(self.entries.get, self.keys)
            if len(self._values) > _MAX_VALUES:
                self._take_tokens()
            self.keys = {}
        self.entries = entries

    def _take_tokens(self) -> None:
        """Keeps the tokens of the values instead of the values."""
        values, self._values = self._values, []
        try:
            self._tokens += list(map(_prefix, values))
        except TypeError:  # nothing was read for a key
            known = len(self._tokens)
            found = [(key, value[:PREFIX_SIZE]) for key, value in zip(self._read[known:], values, strict=True) if value]
            self._read[known:] = [key for key, _ in found]
            self._tokens += [token for _, token in found]

    def record_hits(self) -> None:
        """Adds what answered to the tracker. Idempotent."""
        self.turn_to(self.entries)
        self._take_tokens()
        read, tokens, tracker = self._read, self._tokens, self.tracker
        joined = b"".join(tokens)
        if len(joined) != PREFIX_SIZE * len(tokens) or joined[::PREFIX_SIZE].strip(_TOKEN_STATES):
            pairs = [(key, token) for key, token in zip(read, tokens, strict=True) if token[:1] in _TOKENS]
            read, tokens = [key for key, _ in pairs], [token for _, token in pairs]
        found = dict(zip(read, tokens, strict=True))
        if len(found) < len(read) and list(map(found.__getitem__, read)) != tokens:
            tracker.refuse(CHANGED)
        if tracker.recorded:
            tracker.add_all(found)
        else:
            tracker.recorded = found

    def use_tables(self) -> None:
        """Notes the tables whose entries were read. Idempotent."""
        self.turn_to(self.entries)
        tables, known = self.versions.tables_by_epoch({*self._read, *self.missed}), self.tracker.versions
        self.tracker.use(tables.values(), frozenset(islice(known, self._known)))


class _Record:
    """The entries and versions that one plan has read so far."""

    def __init__(self, tracker: Tracker, versions: TableVersions) -> None:
        self._tracker = tracker
        self._versions = versions
        self._tokens: dict[bytes, bytes] = {}
        """The token that each key had when the plan read or stored it last."""
        self._epochs: dict[bytes, bytes] = {}
        """The epochs that were read with a lease."""
        self._loaded: dict[bytes, Sequence[bytes | None]] = {}
        """Keys of what was loaded and not stored, with the versions of the tables that it was loaded from."""
        self._refusal: str | None = None
        """The reason for which the plan's answer can be no part of a result, unless the plan begins anew."""

    def answer(self, request: PlanRequest) -> Plan[object]:
        """Has a request answered, and notes what the answer was read from."""
        if isinstance(request, Read):
            return self._read(request)
        if isinstance(request, AcquireLeases):
            return self._acquire(request)
        if isinstance(request, Load):
            return self._load(request)
        if isinstance(request, ComputeValue):
            return self._compute(request)
        if isinstance(request, StaleAnswer):
            self._tracker.refuse("a last good value answered")
        return self._store(request) if isinstance(request, StoreFills) else _forward(request)

    def _read(self, request: Read) -> Plan[object]:
        self._use(request.keys, self._tracker.versions)
        values: list[bytes | None] = yield request
        for key, value in zip(request.keys, values, strict=True):
            self._see(key, value)
        return values

    def _use(self, keys: Iterable[bytes], known: Collection[bytes]) -> None:
        """Notes that entries of the models whose epochs are among ``keys`` were read."""
        self._tracker.use(self._versions.tables_by_epoch(set(keys)).values(), known)

    def _see(self, key: bytes, value: bytes | None) -> None:
        state = value[:1] if value is not None else None
        if value is not None and state in _TOKENS:
            token = value[:PREFIX_SIZE]
            if self._tokens.setdefault(key, token) != token:
                self._refusal = CHANGED
        elif state == STALE:
            self._refusal = "a stale copy answered"

    def _begin_anew(self, tokens: dict[bytes, bytes]) -> None:
        """Forgets all that was read, except for these tokens, because it does not matter to the answer any more."""
        self._tokens, self._refusal = tokens, None

    def _acquire(self, request: AcquireLeases) -> Plan[object]:
        if request.anew:
            self._begin_anew({})
        for key, replaced in request.keys:
            if replaced and self._tokens.get(key) == replaced:
                del self._tokens[key]  # the plan has found it unusable
        known = self._tracker.versions
        used = dict.fromkeys(self._versions.tables_by_epoch(dict.fromkeys(request.versions).keys()).values())
        tables = [key for key in used if key not in known]
        result: LeaseResult = yield request._replace(versions=[*request.versions, *tables])
        number = len(request.versions)
        self._learn(tables, result.versions[number:])
        for key, value in zip(request.versions, result.versions[:number], strict=True):
            if not self._versions.is_stamp(key) and key not in self._versions.tables:
                self._see(key, value)
                self._epochs.update({key: self._tokens[key]} if key in self._tokens else {})
        return result._replace(versions=result.versions[:number])

    def _learn(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        self._tracker.learn((key, value) for key, value in zip(keys, values, strict=True) if is_version(value))

    def _load(self, request: Load) -> Plan[object]:
        entry_set = request.entry_set
        tables = self._versions.tables_of(entry_set)
        unknown = [key for key in tables if key is not None and key not in self._tracker.versions]
        if unknown:
            result: LeaseResult = yield AcquireLeases([], unknown)
            self._learn(unknown, result.versions)
        if request.replica:
            self._tracker.unrecorded("a replica answered")
        if request.only_pks and not entry_set.exact:  # a row that leaves the list leaves the entry's token as it is
            for key in tables:
                self._tracker.add_table(key)
        try:
            answers = yield request
        except Exception:
            self._tracker.refuse("a statement failed")
            raise
        for key, answer in answers.items():
            self._loaded[key] = tables
            for row in () if request.only_pks else answer.rows:
                pk = row.values.get(entry_set.schema.pk)
                self._loaded[key if pk is None else entry_set.rows.key(pk)] = tables
                if not row.fillable:
                    self._tracker.unrecorded("a row was loaded in part")
        return answers

    def _compute(self, request: ComputeValue) -> Plan[object]:
        known = frozenset(self._tracker.versions)
        try:
            computed: Computed = yield request
        except Exception:
            self._tracker.refuse("a computation that it awaited failed")
            raise
        self._begin_anew(dict(self._epochs))
        self._loaded = {request.key: (None,)}
        inner = computed.tracker
        if inner is not None:
            self._use(inner.dependencies, known)
            self._tracker.add_all(inner.dependencies)
            if inner.refusal is not None:
                self._tracker.refuse(inner.refusal)
        return computed

    def _store(self, request: StoreFills) -> Plan[object]:
        answer: list[bool | bytes | None] = yield request
        stored = [entry[1:3] for entry, accepted in zip(request.fills, answer, strict=False) if accepted]
        late = zip(request.late, answer[len(request.fills) :], strict=True)
        stored += [(each.key, each.value) for each, held in late if held is None]
        for key, entry in stored:
            if entry:
                self._loaded.pop(key, None)
                self._see(key, entry)
        return answer

    def finish(self) -> None:
        """Adds what the plan has read to the tracker, when the plan has ended."""
        self._tracker.unfinished -= 1
        if self._refusal is not None:
            self._tracker.refuse(self._refusal)
        for key, tables in self._loaded.items():
            self._tokens.pop(key, None)
            for table in tables:
                self._tracker.add_table(table)
        self._tracker.add_all(self._tokens)


def _forward(request: PlanRequest) -> Plan[object]:
    return (yield request)
