"""Keys that are read together again and again, and what one read of them has found.

Without them, each such read would make a dict of its keys, pack its request and make a dict of its answer anew.
"""

from collections.abc import Iterator, Mapping, Sequence


class KnownKeys(list[bytes]):
    """Keys in the order in which they are read. Empty if one of them was given twice: they are then read otherwise."""

    __slots__ = ("request", "wanted")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.wanted: dict[bytes, None] = dict.fromkeys(keys)
        """The keys as what a lookup wants."""
        super().__init__(keys if len(self.wanted) == len(keys) else ())
        self.request = b""
        """The request for these keys, if the backend has kept it."""

    def keep(self, request: bytes) -> bytes:
        """Keeps the request for these keys, and returns it."""
        self.request = request
        return request


class ReadTogether(Mapping[bytes, bytes | None]):
    """The values that were read under known keys, in their order. A dict is made of them when it is needed."""

    __slots__ = ("_by_key", "known", "values_read")

    def __init__(self, known: KnownKeys, values_read: Sequence[bytes | None]) -> None:
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
