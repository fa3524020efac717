"""Where index keys led last time, so that a lookup reads an index entry and its rows in one round trip.

A prediction never decides an answer: the index entry that is fetched beside the predicted rows does.
"""

from collections import OrderedDict
from typing import Any, Final

from aiomodelcache.entries.rows import Rows


class Guess:
    """Where an index key pointed last time: primary keys, and the keys of these rows."""

    __slots__ = ("entry", "keys", "pks")

    def __init__(self, pks: list[Any], keys: list[bytes]) -> None:
        self.pks = pks
        self.keys = keys
        self.entry = b""
        """The last entry that was found to say so; the very same one need not be decoded again."""


class Guesses(OrderedDict[bytes, Guess]):
    """Where index keys pointed last time. A guess never decides an answer; it saves a round trip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def recall(self, key: bytes) -> Guess:
        """Where ``key`` led last time; nowhere if that is not known."""
        guess = self.get(key)
        if guess is None:
            return _NO_GUESS
        self.move_to_end(key)
        return guess

    def remember(self, key: bytes, pks: list[Any], rows: "Rows") -> None:
        """Notes where ``key`` leads now and forgets what was used least recently."""
        known = self.get(key)
        if known is None or known.pks != pks:
            self[key] = Guess(pks, [rows.key(pk) for pk in pks])
        self._used(key)

    def forget(self, key: bytes) -> None:
        """Notes that ``key`` leads nowhere now, so that no rows are read with it in vain."""
        self.pop(key, None)

    def note(self, key: bytes, guess: Guess) -> None:
        """Like ``remember``, of what leads to rows of several models."""
        self[key] = guess
        self._used(key)

    def _used(self, key: bytes) -> None:
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)


_NO_GUESS: Final = Guess([], [])
