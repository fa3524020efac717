"""Late leases: of rows that a statement returned before their keys could be leased, because the keys were not known.

The model's stamp shows that no writer came in between.
"""

from aiomodelcache.encoding.layout import LEASE, STALE
from aiomodelcache.entries.base import NoValue, is_version
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.plans.requests import AcquireLeases, Attempt, LeaseResult, Plan
from aiomodelcache.plans.steps import replaceable_prefix


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
            elif not replaced and _is_outdated(rows, value, epoch):
                outdated.append((key, replaceable_prefix(value)))
        attempts = outdated
    return late


def _is_outdated(rows: RowEntries, entry: bytes | None, epoch: bytes) -> bool:
    """Returns True if an entry blocks a better one, because it is stale or of an earlier epoch or version."""
    if not entry or not replaceable_prefix(entry):
        return False
    return entry[:1] == STALE or rows.read(entry, epoch) is NoValue.MISS
