"""The meaning of the keys in the store: which declaration each belongs to, without the values in it.

A key holds the values that it was looked up by. ``KeyMap.shown`` replaces them by their types.
"""

from dataclasses import dataclass
from typing import Final

from aiomodelcache.encoding.keys import key_prefix, key_text
from aiomodelcache.encoding.partitions import Partitions
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.key_values import find_by_prefix
from aiomodelcache.entries.model import EntrySet, ModelEntries
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.inspection.declarations import values_derived_from
from aiomodelcache.open_cache import OpenCache

_TYPES: Final = {
    "i": "int", "s": "str", "n": "None", "b": "bool", "u": "UUID", "d": "Decimal", "f": "float", "x": "bytes",
    "t": "datetime", "T": "datetime", "D": "date", "h": "time", "p": "timedelta", "(": "tuple", "[": "list",
    "S": "set", "m": "dict", "e": "enum", "#": "digest", "@": "tenant",
}  # fmt: skip
"""The types of encoded values, by the letter that each begins with."""


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of key of one declaration. ``entry_set`` is None for versions, which hold no answer."""

    kind: str
    owner: str
    """The model, the cache class or the function that the key belongs to."""
    label: str
    prefix: bytes
    entry_set: EntrySet | ResultEntries | None = None

    def epoch_of(self, key: bytes) -> bytes:
        """Returns the key of the epoch that the entry under ``key`` carries."""
        assert self.entry_set is not None, f"{self.label} has no entries"
        return self.entry_set.epoch_of(key)


class KeyMap:
    """The places of all keys of one open cache, by their beginnings."""

    def __init__(self, cache: OpenCache) -> None:
        self._by_prefix: dict[bytes, Place] = {}
        self._versions: dict[bytes, Place] = {}
        for entries in cache.models.values():
            self._add_model(entries)
        for through in cache.many_to_many:
            name = f"{through.owner.name}.{through.relation.name}"
            self._add("many-to-many", through.owner.name, name, through)
        for cls, bound in cache.classes.items():
            if isinstance(bound, ResultEntries):
                model = bound.schema.name
                self._add("result", model, f"{cls.__name__} ({', '.join(bound.attributes)}) of {model}", bound)
        for declared in values_derived_from(cache.models):
            entries_of_value = declared.declaration.result(cache)
            self._add("value", declared.short, declared.short, entries_of_value)
            self._add_partitions(declared.short, entries_of_value.partitions)
        for key in cache.versions.all:
            self._add_version("table version", key.rpartition(b":")[2].decode(), key)
        tags = key_prefix(cache.space.namespace, "g")
        self._by_prefix.setdefault(tags, Place("tag version", "tags", "tags", tags))
        workers = key_prefix(cache.space.namespace, "f")
        self._by_prefix.setdefault(workers, Place("counters", "workers", "counters of workers", workers))
        shapes = key_prefix(cache.space.namespace, "c")
        self._by_prefix.setdefault(shapes, Place("columns", "releases", "columns of releases", shapes))
        relays = key_prefix(cache.space.namespace, "l")
        self._by_prefix.setdefault(relays, Place("claim", "relays", "claims of relays", relays))
        self.beginning = key_prefix(cache.space.namespace, "")[: -len(b"::")]
        """The beginning of all keys of the cache's namespace."""

    def _add_model(self, entries: ModelEntries) -> None:
        name = entries.schema.name
        self._add("row", name, name, entries.rows)
        for index in entries.indexes:
            self._add("index" if index.unique else "list", name, _label(name, index), index)
        for result in entries.results:
            if isinstance(result, GroupVersions):
                place = Place("group version", name, f"group of {name}", result.prefix)
                self._by_prefix.setdefault(result.prefix, place)
        self._add_partitions(name, entries.rows.partitions)

    def _add(self, kind: str, owner: str, label: str, entry_set: EntrySet | ResultEntries) -> None:
        self._by_prefix.setdefault(entry_set.prefix, Place(kind, owner, label, entry_set.prefix, entry_set))

    def _add_partitions(self, owner: str, partitions: Partitions) -> None:
        for kind, keys in (("epoch", partitions.epochs), ("stamp", partitions.stamps)):
            for key in keys:
                self._add_version(kind, owner, key)

    def _add_version(self, kind: str, owner: str, key: bytes) -> None:
        self._versions.setdefault(key, Place(kind, owner, f"{kind} of {owner}", key))

    @property
    def places(self) -> list[Place]:
        """All places that hold entries."""
        return [place for place in self._by_prefix.values() if place.entry_set is not None]

    def place(self, key: bytes) -> Place | None:
        """Returns the place that a key belongs to, or None if no declaration names it."""
        found = self._versions.get(key)
        if found is not None:
            return found
        place = find_by_prefix(self._by_prefix, key)
        foreign = place is not None and place.entry_set is not None and not place.entry_set.partitions.has(key)
        return None if foreign else place

    def shown(self, key: bytes, *, values: bool) -> str:
        """Returns a key as text, with the types of its values in their place unless ``values`` is set."""
        place = self.place(key)
        if values or (place is not None and place.prefix == key):
            return key_text(key)
        if place is None:
            return f"{key_text(self.beginning)}:<unknown>" if key.startswith(self.beginning) else "<unknown>"
        parts = key_text(key[len(place.prefix) :]).split(":")
        return key_text(place.prefix) + ":".join(map(_shown, parts))


def _shown(part: str) -> str:
    """Returns what stands for a part of a key: the type of its value, or the tag of its partition."""
    return part if part.startswith("{") else f"<{_TYPES.get(part[:1], 'value')}>"


def _label(name: str, index: IndexEntries) -> str:
    order = f" by {', '.join(index.order_by)}" if index.order_by and not index.unique else ""
    limit = f", first {index.limit}" if index.limit is not None else ""
    return f"{name} ({', '.join(index.fields)}){order}{limit}"
