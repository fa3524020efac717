"""The columns of each release's row entries, in the store, so that releases read each other's rows (``adopt_rows``).

A process adds its own columns when its cache opens. It reads those of others then, and when it finds an entry whose
columns it does not know.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import LEASE, PREFIX_SIZE, new_token
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.entries.shapes import StoredShapes, stored_shapes
from aiomodelcache.exceptions import BackendError

ASK_INTERVAL: Final = 1.0
"""Minimum seconds between two reads of the shapes in the store."""
SHAPES_TTL: Final = 30 * 24 * 3600.0
"""Seconds for which the store keeps the shapes of a table after the last release has added its own."""
_LEASE_TTL: Final = 5.0


def share_shapes(guarded: GuardedBackend, tasks: BackgroundTasks, every: Iterable[RowEntries], space: KeySpace) -> None:
    """Lets rows of other releases answer, except where a manager of another release may show other rows."""
    shapes: list[StoredShapes] = []
    for rows in every:
        if not rows.schema.hides_rows:
            key = space.shapes_key(rows.schema.connection, rows.schema.table)
            rows.shapes = StoredShapes(rows.schema, rows.version, key)
            shapes.append(rows.shapes)
    if shapes:
        ShapeSharing(guarded, tasks, shapes).ask()


class ShapeSharing:
    """The shapes of the rows of one view."""

    def __init__(self, guarded: GuardedBackend, tasks: BackgroundTasks, shapes: Sequence[StoredShapes]) -> None:
        self._guarded = guarded
        self._tasks = tasks
        self._shapes = shapes
        self._asked_at = -ASK_INTERVAL
        for each in shapes:
            each.ask = self.ask

    def ask(self) -> None:
        """Reads the shapes of all tables, unless that was done just now."""
        now = time.monotonic()
        if now >= self._asked_at + ASK_INTERVAL and not self._tasks.ended:
            self._asked_at = now
            self._tasks.start(self._share())

    async def _share(self) -> None:
        guarded, backend = self._guarded, self._guarded.backend
        keys = [each.key for each in self._shapes]
        try:
            held = await guarded.call(backend.read(keys), len(keys))
            wanted = {
                each.key: (value, shapes)
                for each, value in zip(self._shapes, held, strict=True)
                if (shapes := each.learn(value)) is not None
            }
            if not wanted:
                return
            token = new_token()
            leases = [Lease(key, (value or b"")[:PREFIX_SIZE]) for key, (value, _) in wanted.items()]
            leased = await guarded.call(backend.lease(leases, token, int(_LEASE_TTL * 1000)), len(leases))
            fills = [
                Fill(key, LEASE + token, stored_shapes(new_token(), shapes), int(SHAPES_TTL * 1000))
                for (key, (_, shapes)), value in zip(wanted.items(), leased.values, strict=True)
                if value == LEASE + token
            ]
            if fills:
                await guarded.call(backend.fill(fills), len(fills))
        except BackendError:  # counted and logged: entries of other releases are misses
            pass
