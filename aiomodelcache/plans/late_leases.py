"""Rows that a statement returned before their keys could be leased, because the keys were not known.

They are stored under *late* leases, or without a lease by a store that can compare the model's stamp at the same
moment. The stamp shows that no writer came in between.
"""

from collections.abc import Iterable
from typing import Final, cast

from aiomodelcache.backends.protocol import LateFill
from aiomodelcache.encoding.layout import LEASE, STALE, VALUE, new_token
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.plans.requests import AcquireLeases, Answer, Attempt, LeaseResult, Plan, PlannedFill, Store
from aiomodelcache.plans.rows import row_payload
from aiomodelcache.plans.steps import replaceable_prefix

_MAX_WAIT: Final = 1.0
"""Maximum seconds between the leases and the statement after which rows are stored without leases of their own."""


def acquire_late_leases(
    rows: RowEntries, payloads: dict[bytes, bytes], deadline: float, epoch: bytes, stamp: bytes | None
) -> Plan[dict[bytes, tuple[Attempt, bool]]]:
    """Leases row keys after their rows were read. Returns by key the attempt, and True if the row may be filled."""
    late: dict[bytes, tuple[Attempt, bool]] = {}
    attempts = [(key, b"") for key in payloads]
    while attempts:
        acquired: LeaseResult = yield AcquireLeases(attempts, [rows.stamp_key], deadline)
        unchanged = stamp is not None and is_version(stamp) and acquired.versions[0] == stamp
        outdated: list[tuple[bytes, bytes]] = []
        for (key, replaced), value in zip(attempts, acquired.values, strict=True):
            if value == LEASE + acquired.attempt.token:
                late[key] = acquired.attempt, unchanged
            elif not replaced and is_outdated(rows, value, epoch):
                outdated.append((key, replaceable_prefix(value)))
        attempts = outdated
    return late


def payloads_of(rows: RowEntries, answers: Iterable[Answer]) -> dict[bytes, bytes]:
    """Returns the bytes of the loaded rows that can be stored, by the rows' keys."""
    pk = rows.schema.pk
    return {
        rows.key(loaded.values[pk]): payload
        for answer in answers
        for loaded in answer.rows
        if (payload := row_payload(rows, loaded)) is not None
    }


def can_store_at_once(acquired: LeaseResult, answers: Iterable[Answer]) -> bool:
    """Returns True if the rows of an index may be stored without leases: the store can, and has granted time enough.

    The store counts the time from the leases on, and late leases count it from the statement on.
    """
    waited = min(answer.deadline for answer in answers) - acquired.late_deadline
    return acquired.late_until_ms > 0 and waited < _MAX_WAIT and all(map(is_version, acquired.versions))


def store_at_once(
    index: IndexEntries, fills: list[PlannedFill], payloads: dict[bytes, bytes], acquired: LeaseResult
) -> Plan[None]:
    """Stores the fills of an index and, without leases, the rows that it leads to. Counts those that were stored."""
    rows, counters = index.rows, index.counters
    epoch, stamp = cast("list[bytes]", acquired.versions)
    token, until_ms = new_token(), acquired.late_until_ms  # a token of its own, as if each row had a lease
    late = [
        LateFill(key, b"", rows.entry(token, epoch, payload), rows.lifetimes.of(VALUE), rows.stamp_key, stamp, until_ms)
        for key, payload in payloads.items()
    ]
    answer: list[bool | bytes | None] = yield Store(fills, late)
    stored = [accepted for fill, accepted in zip(fills, answer, strict=False) if fill[2]]
    held = cast("list[bytes | None]", answer[len(fills) :])
    pairs = zip(late, held, strict=True)
    outdated = [
        each._replace(replacing=replaceable_prefix(old)) for each, old in pairs if is_outdated(rows, old, epoch)
    ]
    if outdated:
        held += yield Store([], outdated)
    counters.fills += sum(map(bool, stored)) + held.count(None)
    counters.refused += stored.count(False)


def is_outdated(rows: RowEntries, entry: bytes | None, epoch: bytes) -> bool:
    """Returns True if an entry blocks a better one, because it is stale or of an earlier epoch or version."""
    if not entry or not replaceable_prefix(entry):
        return False
    return entry[:1] == STALE or rows.read(entry, epoch) is NoValue.MISS
