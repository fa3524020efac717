"""Lookups of rows by primary key: from their entries, or from the database under a lease.

Also refreshes entries that are still used as answers. Must not know where a primary key came from.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import CREATED, LEASE
from aiomodelcache.entries.base import Absent, Miss, NoValue, count_mismatched, is_version, warn_unencodable
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.refresh import refresh_request
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Answer,
    Attempt,
    LeaseResult,
    Load,
    Loaded,
    Plan,
    PlannedFill,
    Read,
    Spawn,
)
from aiomodelcache.plans.steps import is_being_filled, load_or_release, replaceable_prefix, store, wait_for_leases

Misses = dict[Any, bytes | None]
"""Lookups that the cache did not answer, with the unusable bytes that their keys hold."""


def row_by_pk(rows: RowEntries, pk: Any, key: bytes) -> Plan[list[Any]]:
    """Finds one row by primary key, and returns it in a list, which is empty if there is no such row.

    ``key`` is the row's cache key. The same as ``rows_by_pk``, with its hit path written out.
    """
    epoch, entry = yield Read([rows.epoch_key, key])
    row = rows.read(entry, epoch)
    if isinstance(row, dict) and rows.is_row(row, pk):
        rows.counters.hits += 1
        if entry[CREATED] <= rows.lifetimes.due:
            yield _row_refresh(rows, pk, entry)
        return [row]
    result: dict[Any, Any] = {}
    misses: Misses = {}
    classify_row(rows, pk, entry, row, result, misses)
    if misses:
        yield from _resolve_row_misses(rows, misses, result)
    else:
        yield from refresh_due_rows(rows, {pk: entry})
    return [] if result[pk] is None else [result[pk]]


def rows_by_pk(rows: RowEntries, pks: Sequence[Any]) -> Plan[dict[Any, Any]]:
    """Finds rows by primary key. Returns the existing rows by primary key, in the order of ``pks``."""
    result, misses = yield from _read_rows(rows, pks)
    if misses:
        yield from _resolve_row_misses(rows, misses, result)
    return {pk: result[pk] for pk in pks if result[pk] is not None}


def _resolve_row_misses(rows: RowEntries, misses: Misses, result: dict[Any, Any]) -> Plan[None]:
    """Adds the missed rows to ``result``: from the database, or from the reader that is filling them."""
    pending = yield from load_rows(rows, misses, result)
    if pending:
        yield from wait_for_leases(map(rows.key, pending), pending.values())
        late, misses = yield from _read_rows(rows, pending)
        result.update(late)
        if misses:
            yield from load_rows(rows, misses, result, fill=False)


def _read_rows(rows: RowEntries, pks: Iterable[Any]) -> Plan[tuple[dict[Any, RowValues | None], Misses]]:
    """Reads rows from the cache. Returns the hits (None: known to be absent) and the misses."""
    pks = list(pks)
    epoch, *entries = yield Read([rows.epoch_key, *map(rows.key, pks)])
    result: dict[Any, RowValues | None] = {}
    misses: Misses = {}
    for pk, entry in zip(pks, entries, strict=True):
        classify_row(rows, pk, entry, rows.read(entry, epoch), result, misses)
    yield from refresh_due_rows(rows, {pk: entry for pk, entry in zip(pks, entries, strict=True) if pk in result})
    return result, misses


def classify_row(
    rows: RowEntries,
    pk: Any,
    entry: bytes | None,
    row: RowValues | Absent | Miss,
    result: dict[Any, RowValues | None],
    misses: Misses,
) -> None:
    """Adds the entry that was read for ``pk`` to the hits in ``result`` or to the misses."""
    if row is NoValue.ABSENT:
        rows.counters.hits += 1
        result[pk] = None
    elif row is not NoValue.MISS and rows.is_row(row, pk):
        rows.counters.hits += 1
        result[pk] = row
    else:
        if row is not NoValue.MISS:
            count_mismatched(rows.counters, rows.schema.name, "it is another row than its key says")
        rows.counters.misses += 1
        misses[pk] = entry


def load_rows(rows: RowEntries, misses: Misses, result: dict[Any, Any], *, fill: bool = True) -> Plan[Misses]:
    """Loads rows from the database under leases and stores them.

    Adds the rows to ``result``. Returns the primary keys that other readers are filling, with the values that their
    keys hold. These rows are not loaded.
    """
    granted: dict[Any, bytes] = {}
    pending: Misses = {}
    acquired = None
    if fill:
        keys = {pk: rows.key(pk) for pk in misses}
        acquired = yield AcquireLeases(
            [(keys[pk], replaceable_prefix(entry)) for pk, entry in misses.items()], [rows.epoch_key]
        )
        own = LEASE + acquired.attempt.token
        for pk, value in zip(misses, acquired.values, strict=True):
            if value == own:
                granted[pk] = keys[pk]
            elif is_being_filled(value):
                pending[pk] = value
    wanted = [(pk,) for pk in misses if pk not in pending]
    if not wanted:
        return pending
    answers: dict[Values, Answer] = {}
    for load in _split_for_replica(rows, wanted, granted, acquired):
        answers.update((yield from load_or_release(load, acquired, granted.values())))
    for values, answer in answers.items():
        result[values[0]] = answer.rows[0].take() if answer.rows else None
    if granted and acquired is not None:
        epoch = acquired.versions[0]
        fills: list[PlannedFill] = []
        for pk, key in granted.items():
            entry = _row_entry(rows, answers[(pk,)], acquired.attempt.token, epoch)
            fills.append((acquired.attempt, key, entry, rows.lifetimes.of(entry[:1])))
        yield from store(rows, fills)
    return pending


def _split_for_replica(
    rows: RowEntries, wanted: list[Values], granted: dict[Any, bytes], acquired: LeaseResult | None
) -> list[Load]:
    """Splits the rows to load into those that a replica may answer and those that only the primary may.

    A replica may answer if the store has just shown that no writer has written the row within ``replica_lag``. A
    granted lease shows that for the single row, and a valid epoch for the model as a whole.
    """
    if not rows.replicated or not granted or acquired is None or not is_version(acquired.versions[0]):
        return [Load(rows, wanted)]
    leased = [values for values in wanted if values[0] in granted]
    others = [values for values in wanted if values[0] not in granted]
    return [Load(rows, leased, replica=True), *([Load(rows, others)] if others else [])]


def _row_entry(rows: RowEntries, answer: Answer, token: bytes, epoch: bytes | None) -> bytes:
    """Returns the bytes to store for a row that was loaded by primary key, or empty bytes if it must not be stored."""
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
    """Returns the bytes of a loaded row. If it cannot be stored, counts that, logs it once, and returns None."""
    if not loaded.fillable:
        return None
    try:
        return loaded.payload()
    except EncodeError as error:
        warn_unencodable(rows.counters, rows.schema.name, error)
        return None


def _row_refresh(rows: RowEntries, pk: Any, entry: bytes) -> Spawn:
    key = rows.key(pk)
    return refresh_request(rows, key, entry, [rows.epoch_key], partial(_reload_row, rows, pk, key))


def _reload_row(
    rows: RowEntries, pk: Any, key: bytes, acquired: LeaseResult, attempt: Attempt
) -> Plan[list[PlannedFill]]:
    answers: dict[Values, Answer] = yield Load(rows, [(pk,)])
    entry = _row_entry(rows, answers[(pk,)], attempt.token, acquired.versions[0])
    return [(attempt, key, entry, rows.lifetimes.of(entry[:1]))]


def refresh_due_rows(rows: RowEntries, read: Mapping[Any, bytes | None]) -> Plan[None]:
    """Starts a refresh of every row entry that is due. All of these entries were used as answers."""
    for pk, entry in read.items():
        if entry is not None and rows.lifetimes.is_due(entry):
            yield _row_refresh(rows, pk, entry)


def values_of(row: Any) -> RowValues:
    """Returns the column values of a row, which was read from the cache or loaded from the database."""
    return cast("RowValues", row if isinstance(row, dict) else vars(row))
