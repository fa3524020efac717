"""Entries of ad-hoc queries: the derived entries of one model's querysets, by a digest of each queryset's state."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any, Final, Self

from aiomodelcache.entries.by_value import ByValueEntries
from aiomodelcache.entries.policy import Lifetimes

_DIGEST_SIZE: Final = 20
MAX_TIMEOUTS: Final = 64
"""Number of timeouts of one model's queries whose entries are refreshed ahead of their expiry. Others just expire."""


class QueryEntries(ByValueEntries):
    """The entries of the ad-hoc queries of one model. ``lifetimes_for`` returns the lifetimes for a timeout."""

    limited = True

    def __init__(self, *args: Any, lifetimes_for: Callable[[float], Lifetimes], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lifetimes_for = lifetimes_for
        self.digest_key = self._divided_key if self.partitions.divided else self._undivided_key
        """Returns the key of the query with this digest."""
        self._by_timeout: dict[float, Self] = {}

    def with_timeout(self, timeout: float | None, watch: Callable[[Lifetimes], None]) -> Self:
        """Returns the entries with another timeout, in seconds. ``watch`` is called with lifetimes that are kept."""
        if timeout is None:
            return self
        entries = self._by_timeout.get(timeout)
        if entries is None:
            entries = copy.copy(self)
            entries.lifetimes = self._lifetimes_for(timeout)
            if len(self._by_timeout) < MAX_TIMEOUTS:
                self._by_timeout[timeout] = entries
                watch(entries.lifetimes)
        return entries

    def _undivided_key(self, digest: bytes) -> bytes:
        return self.prefix + b"#" + digest

    def _divided_key(self, digest: bytes) -> bytes:
        return self.prefix + self.partitions.tagged(b"#" + digest)


def digest_of(state: object) -> bytes:
    """Returns the digest of a queryset's state. Raises ``ValueError`` for an integer of thousands of digits."""
    return hashlib.blake2b(repr(state).encode(), digest_size=_DIGEST_SIZE).hexdigest().encode()
