"""Rows that a statement returned before their keys could be leased, because the keys were not known.

They are stored under *late* leases, or without a lease by a store that can compare the model's stamp at the same
moment. The stamp shows that no writer came in between: it is the same as before the statement, or older than that.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from aiomodelcache.backends.protocol import LateFill
from aiomodelcache.encoding.layout import LEASE, STALE, VALUE, new_token
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.plans.requests import AcquireLeases, Answer, Attempt, LeaseResult, Plan, PlannedFill, StoreFills
from aiomodelcache.plans.rows import EpochsByKey, row_payload
from aiomodelcache.plans.steps import replaceable_prefix

_MAX_WAIT: Final = 1.0
"""Maximum seconds between the leases and the statement after which rows are stored without leases of their own."""


def versions_to_read(index: IndexEntries, keys: Sequence[bytes], predictions: Predictions) -> list[bytes]:
    """Returns the versions to read before index entries are loaded: their epochs, and those of rows that may follow.

    Which partitions the rows are in is not known yet. Those of rows that are predicted are likely. The first time, all
    are read. Absent stamps are made then, and can show their age later.
    """
    partitions = index.partitions
    rows = [key for known in map(predictions.predict, keys) for key in known.keys] if partitions.divided else ()
    wanted = *partitions.epochs_of([*keys, *rows]), *partitions.stamps_of(rows), *partitions.take_unread()
    return list(dict.fromkeys(wanted))


def acquire_late_leases(
    rows: RowEntries, payloads: dict[bytes, bytes], deadline: float, versions: EpochsByKey
) -> Plan[dict[bytes, tuple[Attempt, bytes | None]]]:
    """Leases row keys after their rows were read. Returns by key the attempt, and the epoch if the row may be filled.

    ``versions``: those that were read before the rows were.
    """
    late: dict[bytes, tuple[Attempt, bytes | None]] = {}
    attempts = [(key, b"") for key in payloads]
    epoch_of, stamp_of = rows.epoch_of, rows.partitions.stamp_of
    while attempts:
        stamps = rows.partitions.stamps_of([key for key, _ in attempts])
        read = [stamp for stamp in stamps if stamp in versions]
        unread = {key: (epoch_of(key), stamp_of(key)) for key, _ in attempts if stamp_of(key) not in versions}
        acquired: LeaseResult = yield AcquireLeases(attempts, read, deadline, unread=unread)
        now = zip(read, acquired.versions, strict=True)
        unchanged = {stamp for stamp, version in now if is_version(version) and version == versions[stamp]}
        outdated: list[tuple[bytes, bytes]] = []
        for (key, replaced), value in zip(attempts, acquired.values, strict=True):
            epoch = (versions if stamp_of(key) in unchanged else acquired.epochs).get(epoch_of(key))
            if value == LEASE + acquired.attempt.token:
                late[key] = acquired.attempt, epoch
            elif epoch and not replaced and is_outdated(rows, value, epoch):
                outdated.append((key, replaceable_prefix(value)))
        attempts = outdated
    return late


def payloads_of(
    rows: RowEntries, answers: Iterable[Answer], versions: EpochsByKey, *, reads_late: bool = False
) -> dict[bytes, bytes]:
    """Returns the bytes of the loaded rows that can be stored, by the rows' keys.

    ``versions``: those that were read before. A row needs the epoch and the stamp of its partition, unless the store
    ``reads_late``.
    """
    pk, partitions = rows.schema.pk, rows.partitions
    usable = {key for key, version in versions.items() if is_version(version)}
    payloads: dict[bytes, bytes] = {}
    for answer in answers:
        for loaded in answer.rows:
            key = rows.key(loaded.values[pk])
            known = partitions.stamp_of(key) in versions
            if partitions.epoch_of(key) in usable if known else reads_late:
                payload = row_payload(rows, loaded)
                if payload is not None:
                    payloads[key] = payload
    return payloads


def can_store_at_once(acquired: LeaseResult, answers: Iterable[Answer]) -> bool:
    """Returns True if the rows of an index may be stored without leases: the store can, and has granted time enough.

    The store counts the time from the leases on, and late leases count it from the statement on.
    """
    waited = min(answer.deadline for answer in answers) - acquired.late_deadline
    return acquired.late_until_ms > 0 and waited < _MAX_WAIT and all(map(is_version, acquired.versions))


def store_at_once(
    index: IndexEntries,
    fills: list[PlannedFill],
    payloads: dict[bytes, bytes],
    acquired: LeaseResult,
    versions: EpochsByKey,
) -> Plan[None]:
    """Stores the fills of an index and, without leases, the rows that it leads to. Counts those that were stored."""
    rows, counters = index.rows, index.counters
    known = cast("Mapping[bytes, bytes]", versions)
    token, until_ms = new_token(), acquired.late_until_ms  # a token of its own, as if each row had a lease
    late: list[LateFill] = []
    for key, payload in payloads.items():
        stamp, entry = rows.partitions.stamp_of(key), rows.entry(token, known[rows.epoch_of(key)], payload)
        late.append(LateFill(key, b"", entry, rows.lifetimes.ttl_ms(VALUE), stamp, known[stamp], until_ms))
    answer: list[bool | bytes | None] = yield StoreFills(fills, late)
    stored = [accepted for fill, accepted in zip(fills, answer, strict=False) if fill[2]]
    held = cast("list[bytes | None]", answer[len(fills) :])
    pairs = zip(late, held, strict=True)
    outdated = [
        each._replace(replacing=replaceable_prefix(old))
        for each, old in pairs
        if old and is_outdated(rows, old, known[rows.epoch_of(each.key)])
    ]
    if outdated:
        held += yield StoreFills([], outdated)
    counters.fills += sum(map(bool, stored)) + held.count(None)
    counters.refused += stored.count(False)


def is_outdated(rows: RowEntries, entry: bytes | None, epoch: bytes | None) -> bool:
    """Returns True if an entry blocks a better one, because it is stale or of an earlier epoch or version."""
    if not entry or not replaceable_prefix(entry):
        return False
    return entry[:1] == STALE or rows.read(entry, epoch) is NoValue.MISS
