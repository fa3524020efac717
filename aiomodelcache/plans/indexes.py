"""Lookups of rows by the values of an index: from index entries and their rows, or from the database.

One statement fills the index and its rows: the rows under *late* leases. An index entry is a hint that is checked
against its rows, so a stale entry is a miss and gets repaired. ``plans.rows`` finds rows by primary key.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, cast

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import CREATED, LEASE, VALUE
from aiomodelcache.entries.base import NoValue, is_version, warn_unencodable
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.late_leases import (
    acquire_late_leases,
    can_store_at_once,
    payloads_of,
    store_at_once,
    versions_to_read,
)
from aiomodelcache.plans.refresh import refresh_request
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Answer,
    Attempt,
    LeaseResult,
    Load,
    Plan,
    PlannedFill,
    Read,
    Spawn,
)
from aiomodelcache.plans.rows import (
    EpochsByKey,
    Misses,
    judge_rows,
    load_rows,
    refresh_due_rows,
    row_values,
    rows_by_pk,
)
from aiomodelcache.plans.steps import (
    is_being_filled,
    load_or_release,
    read_by_key,
    replaceable_prefix,
    store_fills,
    wait_for_leases,
)

Wanted = Mapping[bytes, Values]
"""The values of a lookup, by the cache keys, which tell them apart as the database does."""

_ALWAYS: Final = b"\xff" * 8
_created: Callable[[Any], bytes] = itemgetter(CREATED)


def rows_at(index: IndexEntries, values: Values, key: bytes, predictions: Predictions) -> Plan[list[Any]]:
    """Does the same as ``rows_by_index`` for one lookup, with its hit path written out. ``key`` is its cache key."""
    rows = index.rows
    epoch_key, prediction = rows.epoch_key, predictions.predict(key)
    epochs: Iterable[bytes | None]
    found: dict[bytes, Any]
    entry: Any
    if epoch_key is None:
        found = yield from read_by_key([index.epoch_of(key), key, *prediction.to_read])
        epoch, entry, *read = map(found.__getitem__, [index.epoch_of(key), key, *prediction.keys])
        epochs = rows.partitions.epochs_among(found, prediction.keys)
    else:
        epoch, entry, *read = yield Read([epoch_key, key, *prediction.keys])
        found, epochs = {}, repeat(epoch)
    pks = index.read(entry, epoch)
    if isinstance(pks, list) and rows.same_pks(pks, prediction.pks):
        answer: list[Any] = list(map(rows.read, read, epochs))
        if all(map(index.answers, answer, prediction.pks, repeat(values))):
            index.counters.hits += 1
            rows.counters.hits += len(answer)
            if entry[CREATED] <= index.lifetimes.due:
                yield index_refresh(index, values, key, entry, predictions)
            if min(map(_created, read), default=_ALWAYS) <= rows.lifetimes.due:
                predicted = dict(zip(prediction.keys, prediction.pks, strict=True))
                yield from refresh_due_rows(rows, predicted, dict(zip(prediction.keys, read, strict=True)))
            return answer
    result: dict[bytes, list[Any]] = {}
    found = found or {index.epoch_of(key): epoch, key: entry, **dict(zip(prediction.keys, read, strict=True))}
    misses = yield from _judge_index(index, {key: values}, found, predictions, result)
    if misses:
        yield from _resolve_index_misses(index, {key: values}, misses, predictions, result)
    return result[key]


def index_hit(
    index: IndexEntries,
    values: Values,
    key: bytes,
    epoch: bytes | None,
    prediction: Prediction,
    entries: Mapping[bytes, bytes | None],
) -> list[RowValues] | None:
    """Returns the rows with these values if the index entry and the predicted rows are a hit, else None.

    Counts nothing. ``key`` and ``epoch`` are those of the index entry. ``entries`` holds what was read, by key.
    """
    if not index.hit(entries[key], epoch, prediction):
        return None
    answer = index.rows.hits(entries, prediction.keys, epoch, prediction.pks)
    if answer is None:
        return None
    if not index.compares_by_value:
        return answer if index.confirms(prediction.pks, answer, values) else None
    try:
        for attribute, value in zip(index.attributes, values, strict=True):
            for row in answer:
                if row[attribute] != value:
                    return None
    except Exception:  # a decimal that signals, a user's own class
        return None
    return answer


def rows_by_index(index: IndexEntries, wanted: Wanted, predictions: Predictions) -> Plan[dict[bytes, list[Any]]]:
    """Finds rows by the values of an index. Returns the rows by the keys of ``wanted``, in the index's order."""
    result: dict[bytes, list[Any]] = {}
    misses = yield from _read_index(index, wanted, predictions, result)
    if misses:
        yield from _resolve_index_misses(index, wanted, misses, predictions, result)
    return result


def _resolve_index_misses(
    index: IndexEntries, wanted: Wanted, misses: Misses, predictions: Predictions, result: dict[bytes, list[Any]]
) -> Plan[None]:
    """Adds the missed rows to ``result``: from the database, or from the reader that is filling them."""
    pending = yield from load_index(index, wanted, misses, predictions, result)
    if pending:
        yield from wait_for_leases(pending, pending.values())
        misses = yield from _read_index(index, {key: wanted[key] for key in pending}, predictions, result)
        if misses:
            yield from load_index(index, wanted, misses, predictions, result, fill=False)


def _read_index(
    index: IndexEntries, wanted: Wanted, predictions: Predictions, result: dict[bytes, list[Any]]
) -> Plan[Misses]:
    """Reads index entries and the rows that they lead to. Adds hits to ``result`` and returns the misses.

    Index entries and predicted rows are read in one round trip. Only rows that were not predicted cost a second one.
    """
    predicted = [key for known in map(predictions.predict, wanted) for key in known.to_read]
    found = yield from read_by_key([*index.partitions.epochs_of(wanted), *wanted, *predicted])
    return (yield from _judge_index(index, wanted, found, predictions, result))


def _judge_index(
    index: IndexEntries,
    wanted: Wanted,
    found: dict[bytes, bytes | None],
    predictions: Predictions,
    result: dict[bytes, list[Any]],
) -> Plan[Misses]:
    """Turns index entries into answers. Reads the rows that are not among what was ``found`` with the entries."""
    entries, epochs = list(map(found.__getitem__, wanted)), index.partitions.epochs_among(found, wanted)
    listed: dict[bytes, list[Any]] = {}
    misses: Misses = {}
    for key, entry, epoch in zip(wanted, entries, epochs, strict=False):
        pks = index.read(entry, epoch)
        if pks is NoValue.MISS:
            misses[key] = entry
        elif pks is NoValue.ABSENT:
            index.counters.hits += 1
            result[key] = []
            predictions.discard(key)
        else:
            listed[key] = pks
            predictions.learn(key, pks, index.rows)
    if listed:
        yield from follow_to_rows(index, wanted, listed, found, result, misses)
    for key, entry in zip(wanted, entries, strict=True):
        if key not in misses and entry is not None and index.lifetimes.is_due(entry):
            yield index_refresh(index, wanted[key], key, entry, predictions)
    index.counters.misses += len(misses)
    return misses


def follow_to_rows(
    index: IndexEntries,
    wanted: Wanted,
    listed: dict[bytes, list[Any]],
    found: dict[bytes, bytes | None],
    result: dict[bytes, list[Any]],
    misses: Misses,
) -> Plan[None]:
    """Resolves index entries to their rows. A row that is gone or no longer matches makes the entry a miss.

    ``found``: what was read, by key. Rows that are not among it are read now, and added.
    """
    rows = index.rows
    needed = {rows.key(pk): pk for pks in listed.values() for pk in pks}
    unread = [key for key in needed if key not in found]
    if unread:
        found.update((yield from read_by_key([*rows.partitions.epochs_of(unread), *unread])))
    row_of, row_misses = yield from judge_rows(rows, needed, found)
    if row_misses:
        with suppress(Exception):  # the statement fails for values that no row can have: then the entry is a miss
            pending = yield from load_rows(rows, needed, row_misses, row_of)
            if pending:
                row_of.update((yield from rows_by_pk(rows, {key: needed[key] for key in pending})))
    for key, pks in listed.items():
        answer = [row_of.get(rows.key(pk)) for pk in pks]
        if None not in answer and index.confirms(pks, list(map(row_values, answer)), wanted[key]):
            index.counters.hits += 1
            result[key] = answer
        else:
            index.counters.repaired += 1
            misses[key] = found[key]


def load_index(
    index: IndexEntries,
    wanted: Wanted,
    misses: Misses,
    predictions: Predictions,
    result: dict[bytes, list[Any]],
    *,
    fill: bool = True,
    only_pks: bool = False,
) -> Plan[Misses]:
    """Loads the rows of missed index entries, and stores entries and rows from one statement.

    Adds the rows to ``result``. Returns the keys that other readers are filling, with the bytes that they hold.
    ``only_pks``: loads and adds the primary keys of the rows instead, and stores no rows.
    """
    rows = index.rows
    leasable = [key for key in misses if fill and index.cacheable(wanted[key])]
    granted: dict[bytes, Values] = {}
    pending: Misses = {}
    acquired = None
    versions: EpochsByKey = {}
    if leasable:
        wanted_versions = versions_to_read(index, leasable, predictions)
        leases = [(key, replaceable_prefix(misses[key]) if misses[key] else b"") for key in leasable]
        acquired = yield AcquireLeases(leases, wanted_versions, timed=not only_pks)
        versions = dict(zip(wanted_versions, acquired.versions, strict=True))
        own = LEASE + acquired.attempt.token
        for key, value in zip(leasable, acquired.values, strict=True):
            if value == own:
                granted[key] = wanted[key]
            elif is_being_filled(value):
                pending[key] = value
    missing = {key: wanted[key] for key in misses if key not in pending}
    if not missing:
        return pending
    answers = yield from load_or_release(Load(index, missing, only_pks=only_pks), acquired, granted)
    for key in missing:
        result[key] = [loaded.take() for loaded in answers[key].rows]
    if fill:
        index.counters.unfillable += len(misses) - len(leasable)
    if granted and acquired is not None:
        found = [answers[key] for key in granted]
        if can_store_at_once(acquired, found):
            pointers = _pointers(index, granted, answers, acquired.attempt, versions, predictions)
            yield from store_at_once(index, pointers, payloads_of(rows, found, versions), acquired, versions)
        else:
            fills = yield from _index_fills(index, granted, answers, acquired, versions, predictions)
            yield from store_fills(index, fills)
    return pending


def _index_fills(
    index: IndexEntries,
    granted: Wanted,
    answers: dict[bytes, Answer],
    acquired: LeaseResult,
    versions: EpochsByKey,
    predictions: Predictions,
) -> Plan[list[PlannedFill]]:
    """Returns the fills of an index, and of its rows under *late* leases, which are taken after the statement.

    The rows' keys were not known before the statement ran. The stamp of a row's partition shows that no writer came in
    between: writers change it before they withdraw their intents.
    """
    rows = index.rows
    fills, found = list[PlannedFill](), [answers[key] for key in granted]
    reads_late = acquired.reads_late and rows.partitions.stamps_show_writes
    payloads = payloads_of(rows, found, versions, reads_late=reads_late)
    late = yield from acquire_late_leases(rows, payloads, min(answer.deadline for answer in found), versions)
    for key, (own, epoch) in late.items():
        entry = rows.entry(own.token, epoch, payloads[key]) if epoch else b""
        fills.append((own, key, entry, rows.lifetimes.ttl_ms(VALUE)))
    return [*fills, *_pointers(index, granted, answers, acquired.attempt, versions, predictions)]


def _pointers(
    index: IndexEntries,
    granted: Wanted,
    answers: dict[bytes, Answer],
    attempt: Attempt,
    versions: EpochsByKey,
    predictions: Predictions,
) -> list[PlannedFill]:
    """Returns the fills of an index."""
    rows, pk = index.rows, index.schema.pk
    fills: list[PlannedFill] = []
    for key in granted:
        found = [loaded.values for loaded in answers[key].rows]
        entry = _index_entry(index, answers[key], found, attempt.token, versions[index.epoch_of(key)])
        state = entry[:1]
        if state == VALUE:
            predictions.learn(key, [values[pk] for values in found], rows)
        fills.append((attempt, key, entry, index.lifetimes.ttl_ms(state)))
    return fills


def _index_entry(index: IndexEntries, answer: Answer, found: Any, token: bytes, epoch: bytes | None) -> bytes:
    if epoch is None or not is_version(epoch):
        return b""
    unkept = index.unique and not answer.rows and not index.caches_absence
    if unkept or not answer.exact or (index.unique and len(answer.rows) > 1):
        index.counters.unfillable += 1
        return b""
    try:
        return index.entry_of(token, epoch, found)
    except EncodeError as error:
        warn_unencodable(index.counters, index.schema.name, error)
        index.counters.unfillable += 1
        return b""


def index_refresh(
    index: IndexEntries, values: Values, key: bytes, entry: bytes, predictions: Predictions, *, only_pks: bool = False
) -> Spawn:
    """Returns the request to load an index entry again, with its rows or without."""
    versions = versions_to_read(index, [key], predictions)
    reload = partial(_reload_index, Load(index, {key: values}, only_pks=only_pks), versions, predictions)
    return refresh_request(index, key, entry, versions, reload)


def _reload_index(
    load: Load, wanted_versions: list[bytes], predictions: Predictions, acquired: LeaseResult, attempt: Attempt
) -> Plan[list[PlannedFill]]:
    answers: dict[bytes, Answer] = yield load
    index = cast("IndexEntries", load.entry_set)
    versions, own = dict(zip(wanted_versions, acquired.versions, strict=True)), acquired._replace(attempt=attempt)
    return (yield from _index_fills(index, load.wanted, answers, own, versions, predictions))
