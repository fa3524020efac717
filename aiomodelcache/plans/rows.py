"""How rows are found by primary key: in their entries, or in the database under a lease.

Also how an entry that was an answer is filled again. Where a primary key came from is not known here.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import CREATED, LEASE
from aiomodelcache.entries.base import Absent, Miss, NoValue, count_mismatched, is_version, warn_unencodable
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.refresh import renewed
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Answer,
    Attempt,
    Filling,
    LeaseResult,
    Load,
    Loaded,
    Plan,
    Read,
    Spawn,
)
from aiomodelcache.plans.steps import filling, load_or_give_back, replaceable, store, wait

Misses = dict[Any, bytes | None]
"""What was asked for but not found, with the unusable bytes that stood under its key."""


def row_by_pk(rows: RowEntries, pk: Any, key: bytes) -> Plan[list[Any]]:
    """Finds one row by primary key; ``key`` is its cache key. Returns it, or nothing, as a list.

    The same as ``rows_by_pk``, with its hit path written out.
    """
    epoch, entry = yield Read([rows.epoch_key, key])
    row = rows.read(entry, epoch)
    if isinstance(row, dict) and row[rows.schema.pk] == pk:
        rows.counters.hits += 1
        if entry[CREATED] <= rows.lifetimes.due:
            yield _renewed_row(rows, pk, entry)
        return [row]
    found: dict[Any, Any] = {}
    misses: Misses = {}
    sort_row(rows, pk, entry, row, found, misses)
    if misses:
        yield from _settle_rows(rows, misses, found)
    else:
        yield from renew_rows(rows, {pk: entry})
    return [] if found[pk] is None else [found[pk]]


def rows_by_pk(rows: RowEntries, pks: Sequence[Any]) -> Plan[dict[Any, Any]]:
    """Finds rows by primary key. Returns what exists, by primary key, in the order asked."""
    found, misses = yield from _read_rows(rows, pks)
    if misses:
        yield from _settle_rows(rows, misses, found)
    return {pk: found[pk] for pk in pks if found[pk] is not None}


def _settle_rows(rows: RowEntries, misses: Misses, found: dict[Any, Any]) -> Plan[None]:
    """Adds to ``found`` what was missed: from the database, or from whoever is filling it meanwhile."""
    busy = yield from load_rows(rows, misses, found)
    if busy:
        yield from wait(map(rows.key, busy), busy.values())
        late, misses = yield from _read_rows(rows, busy)
        found.update(late)
        if misses:
            yield from load_rows(rows, misses, found, fill=False)


def _read_rows(rows: RowEntries, pks: Iterable[Any]) -> Plan[tuple[dict[Any, RowValues | None], Misses]]:
    """Reads rows from the cache: what is found (None: known to be absent), and what is not."""
    pks = list(pks)
    epoch, *entries = yield Read([rows.epoch_key, *map(rows.key, pks)])
    found: dict[Any, RowValues | None] = {}
    misses: Misses = {}
    for pk, entry in zip(pks, entries, strict=True):
        sort_row(rows, pk, entry, rows.read(entry, epoch), found, misses)
    yield from renew_rows(rows, {pk: entry for pk, entry in zip(pks, entries, strict=True) if pk in found})
    return found, misses


def sort_row(
    rows: RowEntries,
    pk: Any,
    entry: bytes | None,
    row: RowValues | Absent | Miss,
    found: dict[Any, RowValues | None],
    misses: Misses,
) -> None:
    """Adds what was read for ``pk`` to what is found or to what is missed."""
    if row is NoValue.ABSENT:
        rows.counters.hits += 1
        found[pk] = None
    elif row is not NoValue.MISS and row[rows.schema.pk] == pk:
        rows.counters.hits += 1
        found[pk] = row
    else:
        if row is not NoValue.MISS:
            count_mismatched(rows.counters, rows.schema.name, "it is another row than its key says")
        rows.counters.misses += 1
        misses[pk] = entry


def load_rows(rows: RowEntries, misses: Misses, found: dict[Any, Any], *, fill: bool = True) -> Plan[Misses]:
    """Loads rows from the database under a lease and stores them.

    Adds to ``found`` and returns the primary keys that somebody else is filling, with what stands
    there; nothing was asked of the database about these.
    """
    mine: dict[Any, bytes] = {}
    busy: Misses = {}
    taken = None
    if fill:
        keys = {pk: rows.key(pk) for pk in misses}
        taken = yield AcquireLeases([(keys[pk], replaceable(entry)) for pk, entry in misses.items()], [rows.epoch_key])
        own = LEASE + taken.attempt.token
        for pk, value in zip(misses, taken.values, strict=True):
            if value == own:
                mine[pk] = keys[pk]
            elif filling(value):
                busy[pk] = value
    wanted = [(pk,) for pk in misses if pk not in busy]
    if not wanted:
        return busy
    answers: dict[Values, Answer] = {}
    for load in _split(rows, wanted, mine, taken):
        answers.update((yield from load_or_give_back(load, taken, mine.values())))
    for values, answer in answers.items():
        found[values[0]] = answer.rows[0].take() if answer.rows else None
    if mine and taken is not None:
        epoch = taken.versions[0]
        fills: list[Filling] = []
        for pk, key in mine.items():
            entry = _row_entry(rows, answers[(pk,)], taken.attempt.token, epoch)
            fills.append((taken.attempt, key, entry, rows.lifetimes.of(entry[:1])))
        yield from store(rows, fills)
    return busy


def _split(rows: RowEntries, wanted: list[Values], mine: dict[Any, bytes], taken: LeaseResult | None) -> list[Load]:
    """Which of the rows a replica may be asked for: those of which the store has just said that nobody is writing
    them, or has within ``replica_lag``, neither one by one (a lease was granted) nor all at once (the epoch)."""
    if not rows.replicated or not mine or taken is None or not is_version(taken.versions[0]):
        return [Load(rows, wanted)]
    leased = [values for values in wanted if values[0] in mine]
    others = [values for values in wanted if values[0] not in mine]
    return [Load(rows, leased, replica=True), *([Load(rows, others)] if others else [])]


def _row_entry(rows: RowEntries, answer: Answer, token: bytes, epoch: bytes | None) -> bytes:
    """The bytes to store for a row that was asked for by primary key; nothing if it must not be."""
    if epoch is None or not is_version(epoch):
        return b""
    if not answer.rows:
        return rows.entry(token, epoch, None) if rows.caches_absence else b""
    payload = row_payload(rows, answer.rows[0]) if answer.exact else None
    if payload is None:
        rows.counters.unfillable += 1
        return b""
    return rows.entry(token, epoch, payload)


def row_payload(rows: RowEntries, loaded: Loaded) -> bytes | None:
    """The bytes of a loaded row; None, counted and logged once, if it cannot be stored."""
    if not loaded.fillable:
        return None
    try:
        return loaded.payload()
    except EncodeError as error:
        warn_unencodable(rows.counters, rows.schema.name, error)
        return None


def _renewed_row(rows: RowEntries, pk: Any, entry: bytes) -> Spawn:
    key = rows.key(pk)
    return renewed(rows, key, entry, [rows.epoch_key], partial(_row_again, rows, pk, key))


def _row_again(rows: RowEntries, pk: Any, key: bytes, taken: LeaseResult, attempt: Attempt) -> Plan[list[Filling]]:
    answers: dict[Values, Answer] = yield Load(rows, [(pk,)])
    entry = _row_entry(rows, answers[(pk,)], attempt.token, taken.versions[0])
    return [(attempt, key, entry, rows.lifetimes.of(entry[:1]))]


def renew_rows(rows: RowEntries, read: Mapping[Any, bytes | None]) -> Plan[None]:
    """Has those of the rows, which were all answers, filled again that are due."""
    for pk, entry in read.items():
        if entry is not None and rows.lifetimes.is_due(entry):
            yield _renewed_row(rows, pk, entry)


def values_of(row: Any) -> RowValues:
    """The column values of a row, whether it was read from the cache or from the database."""
    return cast("RowValues", row if isinstance(row, dict) else vars(row))
