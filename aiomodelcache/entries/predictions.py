"""Where index keys led last time, so that a lookup reads an index entry and its rows in one round trip.

A prediction never decides an answer: the index entry that is fetched beside the predicted rows does.
"""

from collections import OrderedDict
from typing import Any, Final

from aiomodelcache.entries.rows import RowEntries


class Prediction:
    """Where an index key pointed last time: primary keys, and the keys of these rows."""

    __slots__ = ("entry", "keys", "pks")

    def __init__(self, pks: list[Any], keys: list[bytes]) -> None:
        self.pks = pks
        self.keys = keys
        self.entry = b""
        """The last entry that was found to say so; the very same one need not be decoded again."""


class Predictions(OrderedDict[bytes, Prediction]):
    """Where index keys pointed last time. A guess never decides an answer; it saves a round trip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def predict(self, key: bytes) -> Prediction:
        """Where ``key`` led last time; nowhere if that is not known."""
        prediction = self.get(key)
        if prediction is None:
            return NO_PREDICTION
        self.move_to_end(key)
        return prediction

    def learn(self, key: bytes, pks: list[Any], rows: "RowEntries") -> None:
        """Notes where ``key`` leads now and forgets what was used least recently."""
        known = self.get(key)
        if known is None or known.pks != pks:
            self[key] = Prediction(pks, [rows.key(pk) for pk in pks])
        self._used(key)

    def forget(self, key: bytes) -> None:
        """Notes that ``key`` leads nowhere now, so that no rows are read with it in vain."""
        self.pop(key, None)

    def learn_keys(self, key: bytes, prediction: Prediction) -> None:
        """Like ``learn``, of what leads to rows of several models."""
        self[key] = prediction
        self._used(key)

    def _used(self, key: bytes) -> None:
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)


NO_PREDICTION: Final = Prediction([], [])
