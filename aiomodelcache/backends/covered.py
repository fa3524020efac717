"""The keys that are kept near, for how long, and the tickets of reads that may keep them."""

from typing import Final

NEAR_TTL_FRACTION: Final = 0.1
"""Maximum lifetime of a near entry, as a fraction of its lifetime in the store. Beyond it, the entry is read again.

A near entry may outlive the store's entry by this fraction.
"""
_FOR_EVER: Final = float("inf")

Ticket = list[bytes]
"""The keys that one read expects. Compared by identity: it must be the list that ``Near.expect`` returned."""


class MixedTicket(Ticket):
    """The ticket of a read of other keys, too."""

    __slots__ = ("kept",)
    kept: set[bytes]
    """Covered keys that are kept already. They are read with the other keys, whose changes nothing reports."""

    def __bool__(self) -> bool:
        return True


class Coverage:
    """The prefixes of keys that are kept, with their lifetimes."""

    __slots__ = ("_policies", "_prefixes")

    def __init__(self) -> None:
        self._policies: list[tuple[bytes, float, float]] = []
        self._prefixes: tuple[bytes, ...] = ()

    def cover(self, prefix: bytes, ttl: float, absence_ttl: float) -> None:
        """Keeps the values of keys with this prefix, unless a longer prefix applies.

        Keeps none if both lifetimes are zero.

        ``ttl`` and ``absence_ttl``: the lifetimes of values and of absences in the store, in seconds.
        """
        self._policies = sorted(
            {*self._policies, (prefix, ttl * NEAR_TTL_FRACTION, absence_ttl * NEAR_TTL_FRACTION)}, key=_longest_first
        )
        self._prefixes = tuple([prefix for prefix, ttl, _ in self._policies if ttl])

    def cover_version(self, key: bytes) -> None:
        """Keeps a version, which lives until the server reports a change."""
        self.cover(key, _FOR_EVER, _FOR_EVER)

    def covers(self, key: bytes) -> bool:
        """Returns True if the key may be kept."""
        return key.startswith(self._prefixes)

    @property
    def wanted(self) -> bool:
        """True if any key is covered."""
        return bool(self._prefixes)


def _longest_first(policy: tuple[bytes, float, float]) -> int:
    return -len(policy[0])
