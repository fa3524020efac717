"""All entries of one model in one open cache: its rows, and the keys of its lookups."""

from binascii import crc32
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from aiomodelcache.encoding.keys import INT_LIMIT
from aiomodelcache.encoding.partitions import SlotPartitions
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency, IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries, ThroughModelDependency
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.orm.meta import Values
from aiomodelcache.orm.schema import ModelSchema

EntrySet = RowEntries | IndexEntries
DependentEntries = ResultEntries | ThroughModelDependency | ExactListDependency | GroupVersions
"""Entries that a row invalidates by its new and by its old values."""
Names = frozenset[str]
KeyLocator = Callable[[Mapping[str, Any]], tuple[Values, bytes, bytes]]


class KeyMatch(NamedTuple):
    """The key that the names of a lookup's arguments select: its entries, and the names in the key's order."""

    entry_set: EntrySet
    names: list[str]
    place: KeyLocator
    """A function of the arguments that returns the normalised values and the keys of their entry and its epoch.

    Raises ``ValueError`` for a bad value.
    """


def _make_place(entry_set: EntrySet, names: list[str]) -> KeyLocator:
    """Builds the ``place`` of a ``KeyMatch``, once for each key and kind of lookup, because every lookup calls it."""
    place = _make_undivided_place(entry_set, names)
    partitions = entry_set.partitions
    if not isinstance(partitions, SlotPartitions):
        return place
    name = names[0] if names else ""
    epoch_of, prefix, heads, epochs = entry_set.epoch_of, entry_set.prefix, partitions.heads, partitions.epochs
    number = len(epochs)

    def place_divided(arguments: Mapping[str, Any]) -> tuple[Values, bytes, bytes]:
        values, key, _ = place(arguments)
        return values, key, epoch_of(key)

    def place_divided_int(arguments: Mapping[str, Any]) -> tuple[Values, bytes, bytes]:
        value = arguments[name]
        if type(value) is int and -INT_LIMIT < value < INT_LIMIT:  # as ``place_divided``, written out
            text = b"i%d" % value
            at = crc32(text) % number
            return (value,), prefix + heads[at] + text, epochs[at]
        return place_divided(arguments)

    return place_divided_int if entry_set.keeps_ints else place_divided


def _make_undivided_place(entry_set: EntrySet, names: list[str]) -> KeyLocator:
    attributes, normalise, key_of = entry_set.attributes, entry_set.schema.normalise, entry_set.key_of
    epoch = entry_set.partitions.epochs[0]
    if len(names) == 1:
        [name], [attribute] = names, attributes
        (identity, max_length), key_of_one = entry_set.schema.identity_type(attribute), entry_set.key_of_one
        prefix = entry_set.prefix

        def place_int(arguments: Mapping[str, Any]) -> tuple[Values, bytes, bytes]:
            value = arguments[name]
            if type(value) is int and -INT_LIMIT < value < INT_LIMIT:  # as ``place_one``, written out
                return (value,), prefix + b"i%d" % value, epoch
            return place_one(arguments)

        def place_one(arguments: Mapping[str, Any]) -> tuple[Values, bytes, bytes]:
            value = arguments[name]
            if type(value) is not identity or (identity is str and len(value) > max_length):
                value = normalise(attribute, value)
            return (value,), key_of_one(value), epoch

        return place_int if entry_set.keeps_ints and not entry_set.partitions.divided else place_one

    def place(arguments: Mapping[str, Any]) -> tuple[Values, bytes, bytes]:
        values = tuple(map(normalise, attributes, map(arguments.__getitem__, names)))
        return values, key_of(values), epoch

    return place


class AffectedEntries(NamedTuple):
    """The entries that a write of certain columns may change, besides the row's own."""

    indexes: list[IndexEntries]
    """The indexes whose entries may gain the row or list it at another place."""
    results: list[DependentEntries]
    """The results, through table dependencies and exact lists that the write may change."""
    attributes: list[str]
    """The attributes whose values name the keys of all these entries, without the primary key."""
    old_value_columns: list[str]
    """The columns whose old values are needed to invalidate the results that the row no longer belongs to."""


class ModelEntries(msgspec.Struct, eq=False):
    """All entries of one model in one open cache: its rows, its indexes and its results.

    ``gets`` and ``filters`` map the names of a key's attributes to its entries. ``indexes`` are all indexes that writes
    to the model have to invalidate, those of stand-alone cache classes included.
    """

    schema: ModelSchema
    rows: RowEntries
    manager: type | None = None
    """The ``ModelCacheManager`` class that was declared for the model."""
    gets: dict[Names, EntrySet] = msgspec.field(default_factory=dict[Names, EntrySet])
    filters: dict[Names, EntrySet] = msgspec.field(default_factory=dict[Names, EntrySet])
    indexes: list[IndexEntries] = msgspec.field(default_factory=list[IndexEntries])
    results: list[DependentEntries] = msgspec.field(default_factory=list[DependentEntries])
    """The results that are computed from rows, and what else a row's new and old values invalidate."""
    groups: GroupVersions | None = None
    """The versions of groups of rows, if the model declares them. They are among ``results``."""
    owned: list[ManyToManyEntries] = msgspec.field(default_factory=list[ManyToManyEntries])
    """The many-to-many lists by this model's primary key."""
    names: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """The attribute that each name of a lookup's argument stands for."""
    affected: dict[tuple[Hashable, bool], AffectedEntries] = msgspec.field(
        default_factory=dict[tuple[Hashable, bool], AffectedEntries]
    )
    """The affected entries by written columns, computed on first use. They depend on the declarations only."""
    matches: dict[tuple[str, ...], KeyMatch] = msgspec.field(default_factory=dict[tuple[str, ...], KeyMatch])
    """The keys that lookups have named so far, by the kind of lookup and the names of its arguments."""

    @property
    def off(self) -> bool:
        """True if writes invalidate nothing of the model."""
        entry_sets: list[RowEntries | IndexEntries | DependentEntries] = [self.rows, *self.indexes, *self.results]
        return all(entry_set.policy.off for entry_set in entry_sets)

    def match_key(self, kind: str, names: Iterable[str]) -> KeyMatch:
        """Returns the key that these names of arguments select. Raises ``CacheNotRegistered``."""
        match = self.matches.get((kind, *names))
        if match is None:
            match = self.matches[kind, *names] = self._find(kind, list(names))
        return match

    def kind(self, names: Iterable[str]) -> str:
        """Returns the kind of the key that these names select: "get" if there is one, or else "filter".

        Raises ``CacheNotRegistered``.
        """
        entry_set = self.match_key("either", names).entry_set
        return "get" if frozenset(entry_set.attributes) in self.gets else "filter"

    def has_unique(self, attribute: str) -> bool:
        """Returns True if this column alone is a unique key."""
        entry_set = self.gets.get(frozenset([attribute]))
        return entry_set is not None and entry_set.unique

    def _find(self, kind: str, names: list[str]) -> KeyMatch:
        name_of: dict[str, str] = {}
        for name in names:
            attribute = self.names.get(name) or self.names.get(name.removesuffix("__exact"), name)
            if attribute in name_of:
                raise CacheNotRegistered(
                    f"{self.schema.name}: {attribute} is given twice, as {name_of[attribute]} and as {name}."
                )
            name_of[attribute] = name
        attributes = frozenset(name_of)
        entry_set = self.gets.get(attributes) if kind == "get" else self.filters.get(attributes)
        if entry_set is None and kind == "either":
            entry_set = self.gets.get(attributes)
        if entry_set is None:
            raise CacheNotRegistered(self._not_registered(kind, names, attributes))
        names = [name_of[attribute] for attribute in entry_set.attributes]
        return KeyMatch(entry_set, names, _make_place(entry_set, names))

    def _not_registered(self, kind: str, names: list[str], attributes: Names) -> str:
        """Returns the message of ``CacheNotRegistered`` for a lookup by these names."""
        model = self.schema.name
        setting = "filter_key_fields_list" if kind == "filter" else "get_key_fields_list"
        added = "the fields" if names else "the empty key ()"
        remedy = f"Use one of these, or add {added} to {setting} of its CacheMeta or ModelCacheManager."
        if attributes in self.gets or attributes in self.filters:
            other = "get" if kind == "filter" else "filter"
            remedy = f"Use {model}.cache.{other}, or add {added} to {setting} of its CacheMeta or ModelCacheManager."
        elif any("__" in name.removesuffix("__exact") for name in names):
            remedy = "A cache lookup compares for equality only; get_many takes several values of a unique key."
        return (
            f"{model} has no cache by ({', '.join(names)}){f' for {kind}' if kind != 'either' else ''}. "
            f"Keys that exist: {self.describe()}. {remedy}"
        )

    def describe(self) -> str:
        """Returns the keys that exist, as they were declared: ``get (id), (slug); filter (organizer)``."""
        kinds = {"get": self.gets, "filter": self.filters}
        listed = {kind: ", ".join(f"({', '.join(key.fields)})" for key in kinds[kind].values()) for kind in kinds}
        return "; ".join(f"{kind} {keys}" for kind, keys in listed.items() if keys)
