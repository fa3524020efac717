"""Speculative reads: predicts the rows that an index entry lists, to read the entry and its rows in one round trip.

A prediction never decides an answer: the index entry that is fetched beside the predicted rows does.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

from aiomodelcache.encoding.together import KnownKeys
from aiomodelcache.entries.rows import RowEntries


class Prediction:
    """The rows that an index entry listed last time: their primary keys and their cache keys."""

    __slots__ = ("_rows", "entry", "index", "keys", "paired", "pks", "to_read", "together")

    def __init__(self, pks: list[Any], keys: list[bytes] | None, rows: RowEntries | None = None) -> None:
        self.pks = pks
        if keys is not None:
            self.keys = self.to_read = keys
        self._rows = rows
        self.together: KnownKeys | None = None
        """The keys, after those of an entry and its epoch, once they have been read together."""
        self.entry = b""
        """The last entry that matched the prediction. An identical entry need not be decoded again."""
        self.index: object = None
        """The index that matched ``entry``. Another model of the table may have an index with the same key."""

    def __getattr__(self, name: str) -> Any:
        """Makes ``keys`` when they are first needed: who reads a part of a long list needs few of them.

        ``to_read`` are these keys, and those of their epochs if the rows are divided. ``paired`` are the same, each key
        of a divided row with that of its epoch.
        """
        if self._rows is not None and name == "keys":
            self.keys = self.keys_of(self.pks)
            return self.keys
        if self._rows is not None and name == "to_read":
            self.to_read = self._rows.partitions.with_epochs(self.keys)
            return self.to_read
        if name == "paired":
            epochs = list(map(self._rows.epoch_of, self.keys)) if self._rows is not None else []
            self.paired = {**dict.fromkeys([*epochs, *self.keys]), **dict(zip(self.keys, epochs, strict=False))}
            return self.paired
        raise AttributeError(name)

    def collect_keys(self, epoch_key: bytes, key: bytes, wanted: dict[bytes, None]) -> KnownKeys | None:
        """Adds the keys of an entry and its epoch, and the predicted ones. Returns them if nothing else was wanted."""
        if not self.keys:
            wanted[epoch_key] = wanted[key] = None
            return None
        known = self.together
        if known is None:
            known = self.together = KnownKeys([epoch_key, key, *self.keys])
        alone = not wanted
        wanted.update(known.wanted)
        return known if alone else None

    def keys_of(self, pks: Iterable[Any]) -> list[bytes]:
        """Returns the cache keys of these rows, which are some of the prediction's."""
        return list(map(self._rows.key, pks)) if self._rows is not None else []


class Predictions(OrderedDict[bytes, Prediction]):
    """The predictions by index key, least recently used first. Beyond ``size``, the first is removed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def predict(self, key: bytes) -> Prediction:
        """Returns the prediction for ``key``, an empty one if there is none."""
        prediction = self.get(key)
        if prediction is None:
            return NO_PREDICTION
        self.move_to_end(key)
        return prediction

    def learn(self, key: bytes, pks: list[Any], rows: RowEntries) -> None:
        """Predicts from now on that the entry of ``key`` lists these primary keys."""
        prediction = self.get(key)
        if prediction is not None and rows.same_pks(prediction.pks, pks):
            self.move_to_end(key)
        else:
            self.learn_keys(key, Prediction(pks, None, rows))

    def discard(self, key: bytes) -> None:
        """Removes the prediction for ``key``, whose entry lists no rows now, so that none are read with it."""
        self.pop(key, None)

    def learn_keys(self, key: bytes, prediction: Prediction) -> None:
        """Stores a prediction as ``learn`` does, for a key whose rows are of several models."""
        self[key] = prediction
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)


NO_PREDICTION: Final = Prediction([], [])
