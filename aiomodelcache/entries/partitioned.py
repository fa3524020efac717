"""Row entries in partitions (see ``encoding.partitions``): each row has the epoch of its own partition."""

from binascii import crc32
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from aiomodelcache.encoding.keys import INT_LIMIT
from aiomodelcache.encoding.partitions import tag_in
from aiomodelcache.encoding.together import ReadPairs
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues


class PartitionedRows(RowEntries):
    """The row entries of one model in a store of several nodes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._guards: dict[bytes | None, bytes] = {}
        """The fingerprint and epoch of current entries, by their epoch. No other rows hold these objects."""
        self._most_guards = 2 * len(self.partitions.epochs)
        self._heads = [self.prefix + tag + b":" for tag in map(tag_in, self.partitions.epochs)]
        """The beginnings of the keys of each partition."""
        self._keeps_ints = self.keeps_ints

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

    def keys_of_ints(self, pks: Sequence[int]) -> tuple[list[bytes], list[bytes]] | None:
        """Returns the keys of rows and of their epochs, or None unless ``key`` takes all of them as they are."""
        if not self._keeps_ints or {*map(type, pks)} != {int} or not -INT_LIMIT < min(pks) <= max(pks) < INT_LIMIT:
            return None
        heads, epochs = self._heads, self.partitions.epochs
        number = len(epochs)
        texts = [b"i%d" % pk for pk in pks]
        places = [crc32(text) % number for text in texts]
        return [heads[at] + text for at, text in zip(places, texts, strict=True)], [epochs[at] for at in places]

    def hits(
        self, found: Mapping[bytes, bytes | None], keys: Iterable[bytes], epoch: bytes | None, pks: Iterable[Any]
    ) -> list[RowValues] | None:
        """See ``RowEntries``."""
        keys = list(keys)
        return self.hits_of(map(found.get, keys), map(found.get, map(self.epoch_of, keys)), pks)

    def hits_of_pairs(self, read: ReadPairs, pks: Sequence[Any]) -> list[RowValues] | None:
        """Does the same as ``hits`` with what was read under the keys of rows, each with that of its epoch."""
        order, values = read.order, read.values_read
        found = self.hits_of(values[1::2], values[::2], [pks[at] for at in order])
        if found is None:
            return None
        rows = found.copy()
        for at, row in zip(order, found, strict=True):
            rows[at] = row
        return rows

    def hits_of(
        self, entries: Iterable[bytes | None], epochs: Iterable[bytes | None], pks: Iterable[Any]
    ) -> list[RowValues] | None:
        """Does the same as ``hits`` with the entries of rows, and the epoch of each."""
        decoded, due = self.decoded, self.lifetimes.due
        entries, epochs, pks = list(entries), list(epochs), list(pks)
        name, by_value = self._pk, self.compares_by_value
        rows: list[RowValues] = []
        try:
            kept_rows, guards = map(decoded.find, entries), map(self._guards.get, epochs)
            for kept, guard, pk in zip(kept_rows, guards, pks, strict=True):
                if kept is None or kept.guard is not guard or kept.created <= due:
                    break
                row = kept.content.copy()
                if not (row[name] == pk if by_value else self.is_row(row, pk)):
                    return None
                kept.used = True
                rows.append(row)
        except Exception:  # a user's own class
            return None
        decoded.counters.hits += len(rows)
        for entry, epoch, pk in islice(zip(entries, epochs, pks, strict=True), len(rows), None):
            other = self.hit(entry, epoch, pk)
            if other is None:
                return None
            rows.append(other)
        return rows
