"""A cold start as a fluid: rows flow from missing to waiting to cached, through a database of fixed capacity.

Each row has one loader while its lease lives. Others wait for it for ``LEASE_WAIT``, and then ask the database, once
for each process. A row whose statement took longer than its lease is answered, and not stored.
"""

import math
from collections import deque
from dataclasses import dataclass

from benchmarks.fleet.costs import Fleet
from benchmarks.fleet.popularity import zipf

CLASSES = 120
"""Number of classes of ranks, which bounds the time of a simulation."""
STEP = 0.1
"""Seconds of a step."""
LEASE_WAIT = 0.4
"""Seconds that other processes wait for a lease."""
GIVE_UP = 30.0
"""Seconds after which clients take their statements back."""


@dataclass(slots=True)
class _Batch:
    """The rows asked of the database in one step: those that will be stored, by class, and repeated reads."""

    since: float
    share: list[float]
    rows: float
    repeated: float


def hit_shares(
    fleet: Fleet, capacity: float, *, lease: float, limit: float | None = None, seconds: float = 300.0
) -> list[tuple[float, float]]:
    """Returns the share of lookups that are hits, second by second, from an empty cache.

    ``capacity``: rows per second of the database, which serves in order. ``lease``: the seconds for which a lease can
    live; ``lease_ttl`` if nothing extends it. ``limit``: the maximum of rows per second that are asked for.
    """
    classes = zipf(fleet.entries, CLASSES)
    counts = [each.count for each in classes]
    rates = [fleet.lookups * each.each for each in classes]
    cached, waiting = [0.0] * len(classes), [0.0] * len(classes)
    queue: deque[_Batch] = deque()
    latency, found = 0.0, []
    for step in range(round(seconds / STEP)):
        now = step * STEP
        new = [
            max(0.0, 1 - has - waits) * -math.expm1(-rate * STEP)
            for has, waits, rate in zip(cached, waiting, rates, strict=True)
        ]
        rows = sum(map(float.__mul__, new, counts))
        repeated = 0.0
        if latency > LEASE_WAIT:
            most = fleet.processes * STEP / latency
            repeated = sum(
                min(rate * STEP, most) * count * waits
                for rate, count, waits in zip(rates, counts, waiting, strict=True)
            )
        if limit is not None and rows + repeated > limit * STEP:
            admitted = limit * STEP / (rows + repeated)
            new, rows, repeated = [share * admitted for share in new], rows * admitted, repeated * admitted
        queue.append(_Batch(now, new, rows, repeated))
        waiting = list(map(float.__add__, waiting, new))
        budget = capacity * STEP
        while queue and budget > 1e-9:
            batch = queue[0]
            total = batch.rows + batch.repeated
            part = min(1.0, budget / total) if total else 1.0
            budget -= part * total
            latency = now - batch.since
            done = [share * part for share in batch.share]
            waiting = [max(0.0, waits - share) for waits, share in zip(waiting, done, strict=True)]
            if latency < lease:
                cached = list(map(float.__add__, cached, done))
            if part == 1.0:
                queue.popleft()
            else:
                batch.share = [share * (1 - part) for share in batch.share]
                batch.rows, batch.repeated = batch.rows * (1 - part), batch.repeated * (1 - part)
        while queue and now - queue[0].since > GIVE_UP:
            given_up = queue.popleft()
            waiting = [max(0.0, waits - share) for waits, share in zip(waiting, given_up.share, strict=True)]
        if step % round(1 / STEP) == 0:
            found.append((now, sum(has * each.share for has, each in zip(cached, classes, strict=True))))
    return found
