"""Rows that a statement returned before their keys could be leased, because the keys were not known.

They are stored under *late* leases, or without a lease by a store that can compare the model's stamp at the same
moment. The stamp shows that no writer came in between.
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

    Which partitions the rows are in is not known yet. Those of rows that are predicted are likely.
    """
    partitions = index.partitions
    rows = [key for known in map(predictions.predict, keys) for key in known.keys] if partitions.divided else ()
    return list(dict.fromkeys([*partitions.epochs_of([*keys, *rows]), *partitions.stamps_of(rows)]))


def acquire_late_leases(
    rows: RowEntries, payloads: dict[bytes, bytes], deadline: float, versions: EpochsByKey
) -> Plan[dict[bytes, tuple[Attempt, bool]]]:
    """Leases row keys after their rows were read. Returns by key the attempt, and True if the row may be filled.

    ``versions``: those that were read before the rows were.
    """
    late: dict[bytes, tuple[Attempt, bool]] = {}
    attempts = [(key, b"") for key in payloads]
    stamp_of = rows.partitions.stamp_of
    while attempts:
        stamps = list(rows.partitions.stamps_of([key for key, _ in attempts]))
        acquired: LeaseResult = yield AcquireLeases(attempts, stamps, deadline)
        now = dict(zip(stamps, acquired.versions, strict=True))
        outdated: list[tuple[bytes, bytes]] = []
        for (key, replaced), value in zip(attempts, acquired.values, strict=True):
            if value == LEASE + acquired.attempt.token:
                stamp = versions[stamp_of(key)]
                late[key] = acquired.attempt, is_version(stamp) and now[stamp_of(key)] == stamp
            elif not replaced and is_outdated(rows, value, versions[rows.epoch_of(key)]):
                outdated.append((key, replaceable_prefix(value)))
        attempts = outdated
    return late


def payloads_of(rows: RowEntries, answers: Iterable[Answer], versions: EpochsByKey) -> dict[bytes, bytes]:
    """Returns the bytes of the loaded rows that can be stored, by the rows' keys.

    ``versions``: those that were read before. A row needs the epoch and the stamp of its partition.
    """
    pk, partitions = rows.schema.pk, rows.partitions
    usable = {key for key, version in versions.items() if is_version(version)}
    payloads: dict[bytes, bytes] = {}
    for answer in answers:
        for loaded in answer.rows:
            key = rows.key(loaded.values[pk])
            if partitions.epoch_of(key) in usable and partitions.stamp_of(key) in versions:
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
