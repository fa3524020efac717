"""Row entries in partitions (see ``encoding.partitions``): each row has the epoch of its own partition."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues


class PartitionedRows(RowEntries):
    """The row entries of one model in a store of several nodes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._guards: dict[bytes | None, bytes] = {}
        """The fingerprint and epoch of current entries, by their epoch. No other rows hold these objects."""
        self._most_guards = 2 * len(self.partitions.epochs)

    def hit(self, entry: bytes | None, epoch: bytes | None, pk: Any) -> RowValues | None:
        """See ``RowEntries``."""
        if epoch is not None:
            self._guard, self._epoch = self._guards.get(epoch) or self._guard_of(epoch), epoch
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
        return self.hits_at(found, keys, map(self.epoch_of, keys), pks)

    def hits_at(
        self,
        found: Mapping[bytes, bytes | None],
        keys: Iterable[bytes],
        epoch_keys: Iterable[bytes],
        pks: Iterable[Any],
    ) -> list[RowValues] | None:
        """Does the same as ``hits``. ``epoch_keys``: the key of the epoch of each of the rows."""
        decoded, guards, get = self.decoded, self._guards, found.get
        due, find, name, by_value = self.lifetimes.due, decoded.find, self._pk, self.compares_by_value
        rows: list[RowValues] = []
        number = 0
        epochs = list(map(get, epoch_keys))
        try:
            for entry, epoch, guard, pk in zip(map(get, keys), epochs, map(guards.get, epochs), pks, strict=True):
                kept = find(entry)
                if kept is None or kept.guard is not guard:
                    if entry is None or epoch is None:
                        return None
                    self._guard_of(epoch)
                    row = self._decoded_now(entry)
                    if row is None:
                        return None
                elif kept.created <= due:
                    return None
                else:
                    row = kept.content.copy()
                    kept.used = True
                    number += 1
                if not (row[name] == pk if by_value else self.is_row(row, pk)):
                    return None
                rows.append(row)
        except Exception:  # a user's own class
            return None
        decoded.counters.hits += number
        return rows
