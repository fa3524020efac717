"""Lookups of rows by primary key: from their entries, or from the database under a lease.

Also refreshes entries that are still used as answers. Must not know where a primary key came from.
"""

from collections.abc import Collection, Mapping
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
from aiomodelcache.plans.steps import (
    is_being_filled,
    load_or_release,
    read_by_key,
    replaceable_prefix,
    store_fills,
    wait_for_leases,
)

Misses = dict[bytes, bytes | None]
"""Keys that the cache did not answer, with the unusable bytes that they hold."""
Pks = Mapping[bytes, Any]
"""The primary keys of rows, by the cache keys, which tell them apart as the database does."""
EpochsByKey = Mapping[bytes, bytes | None]
"""Values of epochs and stamps, by their keys."""


def row_by_pk(rows: RowEntries, pk: Any, key: bytes) -> Plan[list[Any]]:
    """Finds one row by primary key, and returns it in a list, which is empty if there is no such row.

    ``key`` is the row's cache key. The same as ``rows_by_pk``, with its hit path written out.
    """
    epoch, entry = yield Read([rows.epoch_key or rows.epoch_of(key), key])
    row = rows.read(entry, epoch)
    if isinstance(row, dict) and rows.is_row(row, pk):
        rows.counters.hits += 1
        if entry[CREATED] <= rows.lifetimes.due:
            yield _row_refresh(rows, pk, key, entry)
        return [row]
    pks, result = {key: pk}, dict[bytes, Any]()
    misses: Misses = {}
    classify_row(rows, pk, key, entry, row, result, misses)
    if misses:
        yield from _resolve_row_misses(rows, pks, misses, result)
    else:
        yield from refresh_due_rows(rows, pks, {key: entry})
    return [] if result[key] is None else [result[key]]


def rows_by_pk(rows: RowEntries, pks: Pks) -> Plan[dict[bytes, Any]]:
    """Finds rows by primary key. Returns the existing rows by cache key, in the order of ``pks``."""
    result, misses = yield from _read_rows(rows, pks)
    if misses:
        yield from _resolve_row_misses(rows, pks, misses, result)
    return {key: result[key] for key in pks if result[key] is not None}


def _resolve_row_misses(rows: RowEntries, pks: Pks, misses: Misses, result: dict[bytes, Any]) -> Plan[None]:
    """Adds the missed rows to ``result``: from the database, or from the reader that is filling them."""
    pending = yield from load_rows(rows, pks, misses, result)
    if pending:
        yield from wait_for_leases(pending, pending.values())
        late, misses = yield from _read_rows(rows, {key: pks[key] for key in pending})
        result.update(late)
        if misses:
            yield from load_rows(rows, pks, misses, result, fill=False)


def _read_rows(rows: RowEntries, pks: Pks) -> Plan[tuple[dict[bytes, RowValues | None], Misses]]:
    """Reads rows from the cache. Returns the hits (None: known to be absent) and the misses."""
    if rows.epoch_key is None:
        found = yield from read_by_key([*rows.partitions.epochs_of(pks), *pks])
        return (yield from judge_rows(rows, pks, found))
    epoch, *entries = yield Read([rows.epoch_key, *pks])
    result: dict[bytes, RowValues | None] = {}
    misses: Misses = {}
    for (key, pk), entry in zip(pks.items(), entries, strict=True):
        classify_row(rows, pk, key, entry, rows.read(entry, epoch), result, misses)
    read = {key: entry for key, entry in zip(pks, entries, strict=True) if key in result}
    yield from refresh_due_rows(rows, pks, read)
    return result, misses


def judge_rows(rows: RowEntries, pks: Pks, found: dict[bytes, bytes | None]) -> Plan[tuple[dict[bytes, Any], Misses]]:
    """Returns the hits among rows that were read (None: known to be absent), and the misses."""
    result: dict[bytes, Any] = {}
    misses: Misses = {}
    entries, epochs = map(found.__getitem__, pks), rows.partitions.epochs_among(found, pks)
    for (key, pk), entry, epoch in zip(pks.items(), entries, epochs, strict=False):
        classify_row(rows, pk, key, entry, rows.read(entry, epoch), result, misses)
    yield from refresh_due_rows(rows, pks, {key: found[key] for key in result})
    return result, misses


def classify_row(
    rows: RowEntries,
    pk: Any,
    key: bytes,
    entry: bytes | None,
    row: RowValues | Absent | Miss,
    result: dict[bytes, RowValues | None],
    misses: Misses,
) -> None:
    """Adds the entry that was read for ``pk`` to the hits in ``result`` or to the misses."""
    if row is NoValue.ABSENT:
        rows.counters.hits += 1
        result[key] = None
    elif row is not NoValue.MISS and rows.is_row(row, pk):
        rows.counters.hits += 1
        result[key] = row
    else:
        if row is not NoValue.MISS:
            count_mismatched(rows.counters, rows.schema.name, "it is another row than its key says")
        rows.counters.misses += 1
        misses[key] = entry


def load_rows(
    rows: RowEntries, pks: Pks, misses: Misses, result: dict[bytes, Any], *, fill: bool = True
) -> Plan[Misses]:
    """Loads missed rows from the database under leases and stores them.

    Adds the rows to ``result``. Returns the keys that other readers are filling, with the values that they hold. These
    rows are not loaded.
    """
    granted: dict[bytes, None] = {}
    pending: Misses = {}
    acquired = None
    epochs: EpochsByKey = {}
    if fill:
        wanted_epochs = list(rows.partitions.epochs_of(misses))
        acquired = yield AcquireLeases(
            [(key, replaceable_prefix(entry)) for key, entry in misses.items()], wanted_epochs
        )
        epochs = dict(zip(wanted_epochs, acquired.versions, strict=True))
        own = LEASE + acquired.attempt.token
        for key, value in zip(misses, acquired.values, strict=True):
            if value == own:
                granted[key] = None
            elif is_being_filled(value):
                pending[key] = value
    wanted: dict[bytes, Values] = {key: (pks[key],) for key in misses if key not in pending}
    if not wanted:
        return pending
    answers: dict[bytes, Answer] = {}
    for load in _split_for_replica(rows, wanted, granted, epochs):
        answers.update((yield from load_or_release(load, acquired, granted)))
    for key, answer in answers.items():
        result[key] = answer.rows[0].take() if answer.rows else None
    if granted and acquired is not None:
        fills: list[PlannedFill] = []
        for key in granted:
            entry = _row_entry(rows, answers[key], acquired.attempt.token, epochs[rows.epoch_of(key)])
            fills.append((acquired.attempt, key, entry, rows.lifetimes.ttl_ms(entry[:1])))
        yield from store_fills(rows, fills)
    return pending


def _split_for_replica(
    rows: RowEntries, wanted: dict[bytes, Values], granted: Collection[bytes], epochs: EpochsByKey
) -> list[Load]:
    """Splits the rows to load into those that a replica may answer and those that only the primary may.

    A replica may answer if the store has just shown that no writer has written the row within ``replica_lag``. A
    granted lease shows that for the single row, and a valid epoch for all rows of its partition.
    """
    if not rows.replicated:
        return [Load(rows, wanted)]
    unwritten = {key for key in granted if is_version(epochs[rows.epoch_of(key)])}
    leased = {key: values for key, values in wanted.items() if key in unwritten}
    others = {key: values for key, values in wanted.items() if key not in unwritten}
    return [*([Load(rows, leased, replica=True)] if leased else []), *([Load(rows, others)] if others else [])]


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


def _row_refresh(rows: RowEntries, pk: Any, key: bytes, entry: bytes) -> Spawn:
    return refresh_request(rows, key, entry, [rows.epoch_of(key)], partial(_reload_row, rows, pk, key))


def _reload_row(
    rows: RowEntries, pk: Any, key: bytes, acquired: LeaseResult, attempt: Attempt
) -> Plan[list[PlannedFill]]:
    answers: dict[bytes, Answer] = yield Load(rows, {key: (pk,)})
    entry = _row_entry(rows, answers[key], attempt.token, acquired.versions[0])
    return [(attempt, key, entry, rows.lifetimes.ttl_ms(entry[:1]))]


def refresh_due_rows(rows: RowEntries, pks: Pks, read: Mapping[bytes, bytes | None]) -> Plan[None]:
    """Starts a refresh of every row entry in ``read`` that is due. All of these entries were used as answers."""
    for key, entry in read.items():
        if entry is not None and rows.lifetimes.is_due(entry):
            yield _row_refresh(rows, pks[key], key, entry)


def row_values(row: Any) -> RowValues:
    """Returns the column values of a row, which was read from the cache or loaded from the database."""
    return cast("RowValues", row if isinstance(row, dict) else vars(row))
