"""A survey of the store: every key of the application, with the state of its entry."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

from aiomodelcache.entries.base import is_version
from aiomodelcache.inspection.keyspace import KeyMap, Place
from aiomodelcache.inspection.store import Store
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.explain import state_of


@dataclass(frozen=True, slots=True)
class Found:
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

    def add(self, found: Found) -> None:
        """Counts a key."""
        self.keys += 1
        self.size += found.size
        self.states[found.state] = self.states.get(found.state, 0) + 1
        if found.age is not None:
            self.oldest = found.age if self.oldest is None else max(self.oldest, found.age)


async def survey(
    cache: OpenCache, store: Store, key_map: KeyMap, owner: str | None = None
) -> AsyncGenerator[list[Found], None]:
    """Yields all keys of the namespace in chunks, or those of one declaration. Keys that expire meanwhile are left out.

    Looks at each key of the server once, in steps that do not hold up other clients.
    """
    read = cache.guarded.backend.read
    async for chunk in store.scan(key_map.beginning + b":"):
        placed = [(key, key_map.place(key)) for key in chunk]
        if owner is not None:
            placed = [(key, place) for key, place in placed if place is not None and place.owner == owner]
        epoch_keys = list({place.epoch_key for _, place in placed if place is not None and place.entry_set is not None})
        if not placed:
            continue
        entries = await read([*epoch_keys, *[key for key, _ in placed]])
        epochs = dict(zip(epoch_keys, entries, strict=False))
        yield [
            _found(key, place, entry, epochs)
            for (key, place), entry in zip(placed, entries[len(epoch_keys) :], strict=True)
            if entry is not None
        ]


def _found(key: bytes, place: Place | None, entry: bytes, epochs: dict[bytes, bytes | None]) -> Found:
    total = len(key) + len(entry)
    if place is None:
        return Found(key, None, "unknown", total, None)
    if place.entry_set is None:
        held = "published" if place.kind == "counters" else "version" if is_version(entry) else "written"
        return Found(key, place, held, total, None)
    epoch = epochs[place.epoch_key]
    state = state_of(place.entry_set, key, entry, epoch)
    return Found(key, place, state.state, total, state.age, entry, epoch)


def totals(found: Iterable[Found], into: dict[str, Total]) -> None:
    """Counts keys by their cache, in ``into``. Keys that no declaration has are counted together."""
    for each in found:
        label = each.place.label if each.place is not None else "(not declared here)"
        kind = each.place.kind if each.place is not None else "unknown"
        into.setdefault(label, Total(label, kind)).add(each)
