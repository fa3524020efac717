"""A survey of the store: every key of the application, with the state of its entry."""

import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

from aiomodelcache.entries.base import is_version
from aiomodelcache.inspection.keyspace import KeyMap, Place
from aiomodelcache.inspection.store import SCAN_COUNT, Store
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.explain import state_of

Placed = tuple[bytes, Place | None]
"""A key and its place, None if no declaration has the key."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """One key in the store. ``place`` is None if no declaration has the key."""

    key: bytes
    place: Place | None
    state: str
    size: int
    """The number of bytes of key and value."""
    age: float | None
    entry: bytes = b""
    epoch: bytes | None = None


@dataclass(slots=True)
class Total:
    """The keys of one cache, counted."""

    label: str
    kind: str
    keys: int = 0
    size: int = 0
    oldest: float | None = None
    states: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, found: FoundKey) -> None:
        """Counts a key."""
        self.keys += 1
        self.size += found.size
        self.states[found.state] = self.states.get(found.state, 0) + 1
        if found.age is not None:
            self.oldest = found.age if self.oldest is None else max(self.oldest, found.age)


async def survey_keys(
    cache: OpenCache, store: Store, key_map: KeyMap, owner: str | None = None
) -> AsyncGenerator[list[FoundKey], None]:
    """Yields all keys of the namespace in chunks, or those of one declaration. Keys that expire meanwhile are left out.

    Looks at each key of the server once, in steps that do not hold up other clients.
    """
    async for placed in _placed(store, key_map, owner):
        if placed:
            yield await _read(cache, placed)


async def sample_keys(
    cache: OpenCache, store: Store, key_map: KeyMap, number: int, owner: str | None = None
) -> AsyncGenerator[list[FoundKey], None]:
    """Yields at most ``number`` keys of entries in chunks, chosen at random among all of them, and reads no others.

    Looks at each key of the server once, as ``survey_keys`` does.
    """
    chosen: list[Placed] = []
    seen = 0
    async for placed in _placed(store, key_map, owner):
        for each in placed:
            if each[1] is None or each[1].entry_set is None:
                continue
            seen += 1
            if len(chosen) < number:
                chosen.append(each)
            elif (at := random.randrange(seen)) < number:
                chosen[at] = each
    for at in range(0, len(chosen), SCAN_COUNT):
        yield await _read(cache, chosen[at : at + SCAN_COUNT])


async def _placed(store: Store, key_map: KeyMap, owner: str | None) -> AsyncGenerator[list[Placed], None]:
    """Yields all keys with their places in chunks, or those of one declaration."""
    async for chunk in store.scan(key_map.beginning + b":"):
        placed = [(key, key_map.place(key)) for key in chunk]
        yield [each for each in placed if owner is None or (each[1] is not None and each[1].owner == owner)]


async def _read(cache: OpenCache, placed: Sequence[Placed]) -> list[FoundKey]:
    """Reads the entries of keys, with the epochs that they belong to."""
    epoch_keys = list(
        {place.epoch_of(key) for key, place in placed if place is not None and place.entry_set is not None}
    )
    entries = await cache.guarded.backend.read([*epoch_keys, *[key for key, _ in placed]])
    epochs = dict(zip(epoch_keys, entries, strict=False))
    return [
        _found(key, place, entry, epochs)
        for (key, place), entry in zip(placed, entries[len(epoch_keys) :], strict=True)
        if entry is not None
    ]


def _found(key: bytes, place: Place | None, entry: bytes, epochs: dict[bytes, bytes | None]) -> FoundKey:
    total = len(key) + len(entry)
    if place is None:
        return FoundKey(key, None, "unknown", total, None)
    if place.entry_set is None:
        held = "published" if place.kind == "counters" else "version" if is_version(entry) else "written"
        return FoundKey(key, place, held, total, None)
    epoch = epochs[place.epoch_of(key)]
    state = state_of(place.entry_set, key, entry, epoch)
    return FoundKey(key, place, state.state, total, state.age, entry, epoch)


def count_keys(found: Iterable[FoundKey], into: dict[str, Total]) -> None:
    """Counts keys by their cache, in ``into``. Keys that no declaration has are counted together."""
    for each in found:
        label = each.place.label if each.place is not None else "(not declared here)"
        kind = each.place.kind if each.place is not None else "unknown"
        into.setdefault(label, Total(label, kind)).add(each)
