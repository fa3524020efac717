"""Counts of how often keys are used, by which a full cache decides what to keep, and of drops of unused ones.

A count-min sketch with four rows in one array, as in TinyLFU (Einziger, Friedman and Manes, 2017). Keys that share a
place with others may be counted too often, never too rarely. Must not know what the keys stand for.
"""

from typing import Final

MAX_UNUSED: Final = 3
"""Number of times in a row that a key may be dropped before it has answered. Then it is not kept for a while."""
COOLDOWN: Final = 10.0
"""Seconds for which such a key is not kept. After that it is tried once."""
_MAX_DROPPED: Final = 10_000
"""Maximum number of remembered keys that were dropped unused. Beyond it, all are forgotten."""
_NEVER: Final = float("-inf")
_MAX_COUNT: Final = 255
"""Maximum count of one place. Beyond it, uses are not counted."""
_SHIFTS: Final = (0, 15, 30, 45)
"""The bits of a key's hash at which the place in each row begins."""
_HALVES: Final = bytes(count >> 1 for count in range(256))


class FrequencySketch:
    """The approximate number of uses of each key. ``places``: about as many as there may be keys of interest."""

    __slots__ = ("_counts", "_mask", "added")

    def __init__(self, places: int) -> None:
        self._counts = bytearray(1 << max(4, (places - 1).bit_length()))
        self._mask = len(self._counts) - 1
        self.added = 0
        """The number of uses that were added, halved like the counts."""

    def add(self, key: bytes, uses: int = 1) -> None:
        """Counts uses of a key."""
        counts, places = self._counts, self._places(key)
        count = min(min([counts[place] for place in places]) + uses, _MAX_COUNT)
        for place in places:
            if counts[place] < count:
                counts[place] = count
        self.added += uses

    def count(self, key: bytes) -> int:
        """Returns the number of uses of a key, or more."""
        counts = self._counts
        return min([counts[place] for place in self._places(key)])

    def halve(self) -> None:
        """Halves all counts, so that old uses count for less."""
        self._counts = self._counts.translate(_HALVES)
        self.added //= 2

    def _places(self, key: bytes) -> list[int]:
        digest, mask = hash(key), self._mask
        return [digest >> shift & mask for shift in _SHIFTS]


class UnusedDrops:
    """The keys that were dropped unused: how often in a row, and the time until which each is not kept."""

    __slots__ = ("_drops",)

    def __init__(self) -> None:
        self._drops: dict[bytes, tuple[int, float]] = {}

    def note(self, key: bytes, now: float, *, used: bool) -> None:
        """Notes whether a key has answered before it was dropped."""
        if used:
            self._drops.pop(key, None)
            return
        if len(self._drops) >= _MAX_DROPPED:
            self._drops.clear()
        unused = self._drops.get(key, (0, _NEVER))[0] + 1
        self._drops[key] = unused, now + COOLDOWN if unused >= MAX_UNUSED else _NEVER

    def paused(self, key: bytes, now: float) -> bool:
        """Returns True if a key is not to be kept now."""
        return bool(self._drops) and now < self._drops.get(key, (0, _NEVER))[1]
