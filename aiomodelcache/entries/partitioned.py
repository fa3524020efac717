"""Row entries in partitions (see ``encoding.partitions``): each row has the epoch of its own partition."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues


class PartitionedRows(RowEntries):
    """The row entries of one model in a store of several nodes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._guards: dict[bytes, bytes] = {}
        """The fingerprint and epoch of current entries, by their epoch. No other rows hold these objects."""
        self._most_guards = 2 * len(self.partitions.epochs)

    def hit(self, entry: bytes | None, epoch: bytes | None, pk: Any) -> RowValues | None:
        """See ``RowEntries``."""
        if epoch is not None:
            self._guard_of(epoch)
        return super().hit(entry, epoch, pk)

    def _guard_of(self, epoch: bytes) -> bytes:
        guard = self._guards.get(epoch)
        if guard is None:
            if len(self._guards) >= self._most_guards:  # those of earlier epochs are not needed
                self._guards.clear()
            guard = self._guards[epoch] = self.fingerprint + epoch[1:]
        self._guard, self._epoch = guard, epoch
        return guard

    def hits(
        self, found: Mapping[bytes, bytes | None], keys: Iterable[bytes], epoch: bytes | None, pks: Iterable[Any]
    ) -> list[RowValues] | None:
        """See ``RowEntries``."""
        rows: list[RowValues] = []
        for key, pk in zip(keys, pks, strict=True):
            row = self.hit(found.get(key), found.get(self.epoch_of(key)), pk)
            if row is None:
                return None
            rows.append(row)
        return rows
