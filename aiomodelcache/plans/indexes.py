"""How rows are found by the values of an index: in its entries and the rows that these lead to, or in the database.

One statement fills the index and its rows: the rows under *late* leases. An entry is a hint that is checked against
its rows, so what is stale is a miss and heals. How a row is found by primary key is in ``plans.rows``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import CREATED, LEASE, STALE, VALUE
from aiomodelcache.entries.base import NoValue, is_version, warn_unencodable
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.plans.refresh import renewed
from aiomodelcache.plans.requests import AcquireLeases, Answer, Attempt, Filling, LeaseResult, Load, Plan, Read, Spawn
from aiomodelcache.plans.rows import (
    Misses,
    load_rows,
    renew_rows,
    row_by_pk,
    row_payload,
    rows_by_pk,
    sort_row,
    values_of,
)
from aiomodelcache.plans.steps import filling, load_or_give_back, replaceable, store, wait

Keys = Mapping[Values, bytes]
"""The cache keys of what is looked up."""

_ALWAYS: Final = b"\xff" * 8
_created: Callable[[Any], bytes] = itemgetter(CREATED)


def look_up(entry_set: RowEntries | IndexEntries, values: Values, predictions: Predictions) -> Plan[list[Any]]:
    """Finds the rows with these values of a key."""
    if isinstance(entry_set, RowEntries):
        return row_by_pk(entry_set, values[0], entry_set.key(values[0]))
    return rows_at(entry_set, values, entry_set.key(values), predictions)


def rows_at(index: IndexEntries, values: Values, key: bytes, predictions: Predictions) -> Plan[list[Any]]:
    """Finds the rows with these values; ``key`` is their cache key. Returns them in the index's order.

    The same as ``rows_by_index``, with its hit path written out.
    """
    rows = index.rows
    prediction = predictions.predict(key)
    epoch, entry, *read = yield Read([rows.epoch_key, key, *prediction.keys])
    if index.read(entry, epoch) == prediction.pks:
        answer: list[Any] = [rows.read(row, epoch) for row in read]
        if all(map(index.answers, answer, prediction.pks, repeat(values))):
            index.counters.hits += 1
            rows.counters.hits += len(answer)
            if entry[CREATED] <= index.lifetimes.due:
                yield _renewed_index(index, values, key, entry, predictions)
            if min(map(_created, read), default=_ALWAYS) <= rows.lifetimes.due:
                yield from renew_rows(rows, dict(zip(prediction.pks, read, strict=True)))
            return answer
    found: dict[Values, list[Any]] = {}
    read_by_pk = dict(zip(prediction.pks, read, strict=True))
    misses = yield from _judge_index(index, {values: key}, [entry], read_by_pk, epoch, predictions, found)
    if misses:
        yield from _settle_index(index, {values: key}, misses, predictions, found)
    return found[values]


def index_hit(
    index: IndexEntries, values: Values, key: bytes, prediction: Prediction, found: Mapping[bytes, bytes | None]
) -> list[RowValues] | None:
    """The rows with these values, if the index entry and the rows that were guessed say so. Counts nothing.

    ``key`` is that of the index entry, and ``found`` what was read, by key.
    """
    rows = index.rows
    epoch = found[rows.epoch_key]
    if not index.hit(found[key], epoch, prediction):
        return None
    hit, asked = rows.hit, list(zip(index.attributes, values, strict=True))
    answer: list[RowValues] = []
    for pk, row_key in zip(prediction.pks, prediction.keys, strict=True):
        row = hit(found.get(row_key), epoch, pk)
        if row is None:
            return None
        for attribute, value in asked:
            if row[attribute] != value:
                return None
        answer.append(row)
    return answer


def rows_by_index(
    index: IndexEntries, wanted: Sequence[Values], predictions: Predictions
) -> Plan[dict[Values, list[Any]]]:
    """Finds rows by the values of an index. Returns the rows for each of ``wanted``, in the index's order."""
    found: dict[Values, list[Any]] = {}
    keys = {values: index.key(values) for values in wanted}
    misses = yield from _read_index(index, keys, predictions, found)
    if misses:
        yield from _settle_index(index, keys, misses, predictions, found)
    return found


def _settle_index(
    index: IndexEntries,
    keys: Keys,
    misses: dict[Values, bytes | None],
    predictions: Predictions,
    found: dict[Values, list[Any]],
) -> Plan[None]:
    """Adds to ``found`` what was missed: from the database, or from whoever is filling it meanwhile."""
    busy = yield from _load_index(index, keys, misses, predictions, found)
    if busy:
        left = {values: keys[values] for values in busy}
        yield from wait(left.values(), busy.values())
        misses = yield from _read_index(index, left, predictions, found)
        if misses:
            yield from _load_index(index, keys, misses, predictions, found, fill=False)


def _read_index(
    index: IndexEntries, keys: Keys, predictions: Predictions, found: dict[Values, list[Any]]
) -> Plan[dict[Values, bytes | None]]:
    """Reads an index and the rows that it leads to. Adds to ``found``; returns what the cache cannot answer.

    Index and guessed rows travel together; only rows that were not guessed cost a second round.
    """
    led = map(predictions.predict, keys.values())
    predicted = {pk: key for prediction in led for pk, key in zip(prediction.pks, prediction.keys, strict=True)}
    epoch, *entries = yield Read([index.rows.epoch_key, *keys.values(), *predicted.values()])
    read = dict(zip(predicted, entries[len(keys) :], strict=True))
    return (yield from _judge_index(index, keys, entries, read, epoch, predictions, found))


def _judge_index(
    index: IndexEntries,
    keys: Keys,
    read_entries: Sequence[bytes | None],
    read: dict[Any, bytes | None],
    epoch: bytes | None,
    predictions: Predictions,
    found: dict[Values, list[Any]],
) -> Plan[dict[Values, bytes | None]]:
    """Makes answers of index entries, following them to rows that were not read with them."""
    entries = dict(zip(keys, read_entries, strict=False))
    pointed: dict[Values, list[Any]] = {}
    misses: dict[Values, bytes | None] = {}
    for values, entry in entries.items():
        pks = index.read(entry, epoch)
        if pks is NoValue.MISS:
            misses[values] = entry
        elif pks is NoValue.ABSENT:
            index.counters.hits += 1
            found[values] = []
            predictions.forget(keys[values])
        else:
            pointed[values] = pks
            predictions.learn(keys[values], pks, index.rows)
    if pointed:
        yield from _follow(index, pointed, read, epoch, entries, found, misses)
    for values, entry in entries.items():
        if values not in misses and entry is not None and index.lifetimes.is_due(entry):
            yield _renewed_index(index, values, keys[values], entry, predictions)
    index.counters.misses += len(misses)
    return misses


def _follow(
    index: IndexEntries,
    pointed: dict[Values, list[Any]],
    read: dict[Any, bytes | None],
    epoch: bytes | None,
    entries: dict[Values, bytes | None],
    found: dict[Values, list[Any]],
    misses: dict[Values, bytes | None],
) -> Plan[None]:
    """Goes from index entries to their rows. A row that is gone or no longer matches makes a miss."""
    rows = index.rows
    needed = dict.fromkeys([pk for pks in pointed.values() for pk in pks])
    unseen = [pk for pk in needed if pk not in read]
    if unseen:
        epoch, *more = yield Read([rows.epoch_key, *map(rows.key, unseen)])
        read.update(zip(unseen, more, strict=True))
    row_of: dict[Any, Any] = {}
    lost: Misses = {}
    for pk in needed:
        sort_row(rows, pk, read[pk], rows.read(read[pk], epoch), row_of, lost)
    yield from renew_rows(rows, {pk: read[pk] for pk in row_of})
    if lost:
        busy = yield from load_rows(rows, lost, row_of)
        if busy:
            row_of.update((yield from rows_by_pk(rows, list(busy))))
    for values, pks in pointed.items():
        answer = [row_of.get(pk) for pk in pks]
        if None not in answer and index.confirms(pks, list(map(values_of, answer)), values):
            index.counters.hits += 1
            found[values] = answer
        else:
            index.counters.repaired += 1
            misses[values] = entries[values]


def _load_index(
    index: IndexEntries,
    keys: Keys,
    misses: dict[Values, bytes | None],
    predictions: Predictions,
    found: dict[Values, list[Any]],
    *,
    fill: bool = True,
) -> Plan[dict[Values, bytes | None]]:
    """Loads what an index should lead to, and stores index and rows from the one statement.

    Adds to ``found`` and returns the values that somebody else is filling, with what stands there.
    """
    rows = index.rows
    leasable = {values: keys[values] for values in misses if fill and index.cacheable(values)}
    mine: dict[Values, bytes] = {}
    busy: dict[Values, bytes | None] = {}
    taken = None
    if leasable:
        taken = yield AcquireLeases(
            [(key, replaceable(misses[values])) for values, key in leasable.items()],
            [rows.epoch_key, rows.stamp_key],
        )
        own = LEASE + taken.attempt.token
        for (values, key), value in zip(leasable.items(), taken.values, strict=True):
            if value == own:
                mine[values] = key
            elif filling(value):
                busy[values] = value
    wanted = [values for values in misses if values not in busy]
    if not wanted:
        return busy
    answers = yield from load_or_give_back(Load(index, wanted), taken, mine.values())
    for values in wanted:
        found[values] = [loaded.take() for loaded in answers[values].rows]
    if fill:
        index.counters.unfillable += len(misses) - len(leasable)
    if mine and taken is not None:
        fills = yield from _index_fills(index, mine, answers, taken.attempt, taken.versions, predictions)
        yield from store(index, fills)
    return busy


def _index_fills(
    index: IndexEntries,
    mine: dict[Values, bytes],
    answers: dict[Values, Answer],
    attempt: Attempt,
    versions: Sequence[bytes | None],
    predictions: Predictions,
) -> Plan[list[Filling]]:
    """What to store of an index, and of the rows it leads to under leases taken only now: *late* leases.

    The rows' keys were not known before the statement ran. That no writer came in between is shown
    by the model's stamp, which writers change before they withdraw their intents.
    """
    rows = index.rows
    epoch, stamp = versions
    fills: list[Filling] = []
    if epoch is not None and is_version(epoch):
        payloads: dict[bytes, bytes] = {}
        for values in mine:
            for loaded in answers[values].rows:
                payload = row_payload(rows, loaded)
                if payload is not None:
                    payloads[rows.key(loaded.values[rows.schema.pk])] = payload
        late = yield from _take_late(rows, payloads, attempt.deadline, epoch, stamp)
        for key, (own, unchanged) in late.items():
            entry = rows.entry(own.token, epoch, payloads[key]) if unchanged else b""
            fills.append((own, key, entry, rows.lifetimes.of(VALUE)))
    for values, key in mine.items():
        entry = _index_entry(index, values, answers[values], attempt.token, epoch)
        if entry[:1] == VALUE:
            predictions.learn(key, [loaded.values[rows.schema.pk] for loaded in answers[values].rows], rows)
        fills.append((attempt, key, entry, index.lifetimes.of(entry[:1])))
    return fills


def _index_entry(index: IndexEntries, values: Values, answer: Answer, token: bytes, epoch: bytes | None) -> bytes:
    if epoch is None or not is_version(epoch):
        return b""
    unkept = index.unique and not answer.rows and not index.caches_absence
    if unkept or not answer.exact or (index.unique and len(answer.rows) > 1):
        index.counters.unfillable += 1
        return b""
    try:
        return index.entry_of(token, epoch, [loaded.values for loaded in answer.rows])
    except EncodeError as error:
        warn_unencodable(index.counters, index.schema.name, error)
        index.counters.unfillable += 1
        return b""


def _take_late(
    rows: RowEntries, payloads: dict[bytes, bytes], deadline: float, epoch: bytes, stamp: bytes | None
) -> Plan[dict[bytes, tuple[Attempt, bool]]]:
    """Leases row keys after their rows were read. Returns the leased ones: by whom, and whether to fill them."""
    late: dict[bytes, tuple[Attempt, bool]] = {}
    attempts = [(key, b"") for key in payloads]
    while attempts:
        taken: LeaseResult = yield AcquireLeases(attempts, [rows.stamp_key], deadline)
        unchanged = stamp is not None and is_version(stamp) and taken.versions[0] == stamp
        outdated: list[tuple[bytes, bytes]] = []
        for (key, replaced), value in zip(attempts, taken.values, strict=True):
            if value == LEASE + taken.attempt.token:
                late[key] = taken.attempt, unchanged
            elif not replaced and _outdated(rows, value, epoch):
                outdated.append((key, replaceable(value)))
        attempts = outdated
    return late


def _outdated(rows: RowEntries, entry: bytes | None, epoch: bytes) -> bool:
    """Whether an entry is in the way of a better one: stale, or of an earlier epoch or version."""
    if not entry or not replaceable(entry):
        return False
    return entry[:1] == STALE or rows.read(entry, epoch) is NoValue.MISS


def _renewed_index(index: IndexEntries, values: Values, key: bytes, entry: bytes, predictions: Predictions) -> Spawn:
    versions = [index.rows.epoch_key, index.rows.stamp_key]
    return renewed(index, key, entry, versions, partial(_index_again, index, values, key, predictions))


def _index_again(
    index: IndexEntries, values: Values, key: bytes, predictions: Predictions, taken: LeaseResult, attempt: Attempt
) -> Plan[list[Filling]]:
    answers: dict[Values, Answer] = yield Load(index, [values])
    return (yield from _index_fills(index, {values: key}, answers, attempt, taken.versions, predictions))
