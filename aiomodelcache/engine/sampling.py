"""Samples of the entries that lookups read, for caches that verify a fraction of them."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiomodelcache.encoding.layout import ABSENT, VALUE
from aiomodelcache.engine.batch_read import ReadBatcher, Unread


class Sampler:
    """A choice of each entry with the same probability, which costs nothing for those that are not chosen."""

    def __init__(self, fraction: float, chosen: Callable[[bytes], None]) -> None:
        self._fraction = fraction
        self._chosen = chosen
        """A callback for the key of each chosen entry. It must not raise."""
        self._next = self._draw()
        """The number of values to pass over before the next choice."""

    def add(self, keys: Sequence[bytes], read: Sequence[bytes | None]) -> None:
        """Chooses among the entries that were read. Passes over keys that hold neither a value nor an absence."""
        at = self._next
        while at < len(keys):
            entry = read[at]
            if entry is not None and entry[:1] in (VALUE, ABSENT):
                self._chosen(keys[at])
            at += 1 + self._draw()
        self._next = at - len(keys)

    def _draw(self) -> int:
        """Returns a number of failures before a success, geometrically distributed."""
        if self._fraction >= 1:
            return 0
        return int(math.log(1.0 - random.random()) / math.log1p(-self._fraction))


class SampledReads(ReadBatcher):
    """A ``ReadBatcher`` that shows what it has read to a sampler."""

    __slots__ = ("sampler",)
    sampler: Sampler

    def _slices(
        self, requests: Any, keys: Sequence[bytes], ticket: Any, read: Sequence[bytes | None] | None, unread: Unread
    ) -> Iterator[None]:
        if read is not None:
            self.sampler.add(keys, read)
        return super()._slices(requests, keys, ticket, read, unread)
