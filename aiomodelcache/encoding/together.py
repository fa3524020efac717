"""Keys that are read together, and what one read of them has found.

Without them, each such read would make a dict of its keys, pack its request and make a dict of its answer anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

MAX_PAIRS: Final = 128
"""Maximum number of pairs that are read as they are. Beyond it, a partner is read once for all keys that have it."""


class KeysTogether(list[bytes]):
    """Keys in the order in which they are read."""

    __slots__ = ()

    def found(self, values_read: Sequence[bytes | None]) -> "ReadTogether":
        """Returns the values that were read under these keys."""
        return ReadTogether(self, values_read)


class KnownKeys(KeysTogether):
    """Keys in the order in which they are read. Empty if one of them was given twice: they are then read otherwise."""

    __slots__ = ("doubtful", "request", "wanted")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.wanted: dict[bytes, None] = dict.fromkeys(keys)
        """The keys as what a lookup wants."""
        super().__init__(keys if len(self.wanted) == len(keys) else ())
        self.request = b""
        """The request for these keys, if the backend has kept it."""
        self.doubtful: Sequence[int] = range(len(self))
        """The places of the keys under which no entry has been read yet: versions, among others."""

    def keep(self, request: bytes) -> bytes:
        """Keeps the request for these keys, and returns it."""
        self.request = request
        return request


class ReadTogether(Mapping[bytes, bytes | None]):
    """The values that were read under keys, in their order. A dict is made of them when it is needed."""

    __slots__ = ("_by_key", "known", "values_read")

    def __init__(self, known: KeysTogether, values_read: Sequence[bytes | None]) -> None:
        self.known = known
        self.values_read = values_read
        self._by_key: dict[bytes, bytes | None] | None = None

    @property
    def by_key(self) -> dict[bytes, bytes | None]:
        """The values by key."""
        if self._by_key is None:
            self._by_key = dict(zip(self.known, self.values_read, strict=True))
        return self._by_key

    def __getitem__(self, key: bytes) -> bytes | None:
        return self.by_key[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


class KeyPairs(NamedTuple):
    """Keys that one lookup reads, each with a partner that shares its node."""

    keys: Sequence[bytes]
    partners: Sequence[bytes]

    def by_key(self) -> dict[bytes, bytes | None]:
        """Returns the partners by key, and None for each partner."""
        return {**dict(zip(self.keys, self.partners, strict=True)), **dict.fromkeys(self.partners)}


class WantedKeys(dict[bytes, Any]):
    """The keys of one read of a divided store, and their partners. KeyPairs stay apart while nothing else is wanted."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        super().__init__()
        self._pairs: KeyPairs | None = None

    def add_pairs(self, pairs: KeyPairs) -> None:
        """Adds the keys of a lookup and their partners."""
        if self or self._pairs is not None or len(pairs.keys) > MAX_PAIRS:
            self.update(pairs.by_key())
        else:
            self._pairs = pairs

    def only_pairs(self) -> KeyPairs | None:
        """Returns the pairs if nothing else is wanted, else None. They are among the keys then."""
        if self and self._pairs is not None:
            self.update(self._pairs.by_key())
            self._pairs = None
        return self._pairs


class ArrangedPairs(KeysTogether):
    """The keys of pairs in the order in which they are read: partners, and after each one its key."""

    __slots__ = ("nodes", "order", "pairs")

    def __init__(self, pairs: KeyPairs, order: Sequence[int], nodes: Mapping[Any, Any], keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        self.pairs = pairs
        self.order = order
        """The positions of the pairs."""
        self.nodes = nodes
        """The same keys as the backend sends them."""

    def found(self, values_read: Sequence[bytes | None]) -> "ReadPairs":
        """See ``KeysTogether``."""
        return ReadPairs(self, values_read)


class ReadPairs(ReadTogether):
    """The values that were read under pairs of keys.

    By key, a partner that was read several times has its last value. An entry that was read before it is compared with
    a later version then, so it is a miss at worst.
    """

    __slots__ = ("order", "pairs")

    def __init__(self, known: ArrangedPairs, values_read: Sequence[bytes | None]) -> None:
        super().__init__(known, values_read)
        self.order, self.pairs = known.order, known.pairs
