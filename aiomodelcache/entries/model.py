"""One model in one open cache: its rows, and the keys that they can be looked up by."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries, ThroughModelDependency
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.orm.meta import Values
from aiomodelcache.orm.schema import ModelSchema

EntrySet = RowEntries | IndexEntries
Names = frozenset[str]


class KeyMatch(NamedTuple):
    """The key that some fields name: its source, these names in the key's order, and where given values are."""

    entry_set: EntrySet
    names: list[str]
    place: Callable[[Mapping[str, Any]], tuple[Values, bytes]]
    """The normalised values, and the cache key of their entry. Raises ``ValueError`` for a bad value."""


def _placing(entry_set: EntrySet, names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Values, bytes]]:
    """Made once for each key and kind of lookup, because every lookup takes this way."""
    attributes, normalise, key_of = entry_set.attributes, entry_set.schema.normalise, entry_set.key_of
    if len(names) == 1:
        [name], [attribute] = names, attributes
        (plain, longest), key_of_one = entry_set.schema.identity_type(attribute), entry_set.key_of_one

        def place_one(given: Mapping[str, Any]) -> tuple[Values, bytes]:
            value = given[name]
            if type(value) is not plain or (plain is str and len(value) > longest):
                value = normalise(attribute, value)
            return (value,), key_of_one(value)

        return place_one

    def place(given: Mapping[str, Any]) -> tuple[Values, bytes]:
        values = tuple(map(normalise, attributes, map(given.__getitem__, names)))
        return values, key_of(values)

    return place


class AffectedEntries(NamedTuple):
    """What a write of certain columns may change, besides the row itself."""

    indexes: list[IndexEntries]
    """Those that it may put a row into, or move it in."""
    results: list[ResultEntries | ThroughModelDependency]
    attributes: list[str]
    """What names the keys of all these, without the primary key."""
    old_value_columns: list[str]
    """What names the results that a row leaves, by its old values. Empty if it leaves none."""


@dataclass(slots=True)
class ModelEntries:
    """One model in one open cache: its rows and the keys that they can be looked up by.

    ``gets`` and ``filters`` are by the names of the key's attributes; ``indexes`` are all that a write has to
    think of, those of stand-alone cache classes included.
    """

    schema: ModelSchema
    rows: RowEntries
    manager: type | None = None
    """The class declared as the model's manager."""
    gets: dict[Names, EntrySet] = field(default_factory=dict[Names, EntrySet])
    filters: dict[Names, EntrySet] = field(default_factory=dict[Names, EntrySet])
    indexes: list[IndexEntries] = field(default_factory=list[IndexEntries])
    results: list[ResultEntries | ThroughModelDependency] = field(
        default_factory=list[ResultEntries | ThroughModelDependency]
    )
    """What is computed from rows with given values: a write has to think of their old values, too."""
    owned: list[ManyToManyEntries] = field(default_factory=list[ManyToManyEntries])
    """Lists over many-to-many relations by this model's primary key."""
    names: dict[str, str] = field(default_factory=dict[str, str])
    """What a lookup may call a field -> the attribute that holds it."""
    affected: dict[tuple[frozenset[str] | None, bool], AffectedEntries] = field(
        default_factory=dict[tuple[frozenset[str] | None, bool], AffectedEntries]
    )
    """What writes may change, by columns, as far as it was asked for: it depends on the declarations only."""
    _found: dict[tuple[str, ...], KeyMatch] = field(default_factory=dict[tuple[str, ...], KeyMatch])

    @property
    def off(self) -> bool:
        """Whether writes touch nothing of the model."""
        classes: list[RowEntries | IndexEntries | ResultEntries | ThroughModelDependency] = [
            self.rows,
            *self.indexes,
            *self.results,
        ]
        return all(each.policy.off for each in classes)

    def find(self, kind: str, given: Iterable[str]) -> KeyMatch:
        """Returns the key for these fields. Raises ``CacheNotRegistered``."""
        known = self._found.get((kind, *given))
        if known is None:
            known = self._found[kind, *given] = self._find(kind, list(given))
        return known

    def kind(self, given: Iterable[str]) -> str:
        """Which lookup these fields are for, "get" or "filter"; "get" if both. Raises ``CacheNotRegistered``."""
        entry_set = self.find("either", given).entry_set
        return "get" if frozenset(entry_set.attributes) in self.gets else "filter"

    def has_unique(self, attribute: str) -> bool:
        """Whether single rows are looked up by this column alone."""
        entry_set = self.gets.get(frozenset([attribute]))
        return entry_set is not None and entry_set.unique

    def _find(self, kind: str, given: list[str]) -> KeyMatch:
        named: dict[str, str] = {}
        for name in given:
            attribute = self.names.get(name) or self.names.get(name.removesuffix("__exact"), name)
            if attribute in named:
                raise CacheNotRegistered(
                    f"{self.schema.name}: {attribute} is given twice, as {named[attribute]} and as {name}."
                )
            named[attribute] = name
        wanted = frozenset(named)
        entry_set = self.gets.get(wanted) if kind == "get" else self.filters.get(wanted)
        if entry_set is None and kind == "either":
            entry_set = self.gets.get(wanted)
        if entry_set is None:
            raise CacheNotRegistered(self._unknown(kind, given, wanted))
        names = [named[attribute] for attribute in entry_set.attributes]
        return KeyMatch(entry_set, names, _placing(entry_set, names))

    def _unknown(self, kind: str, given: list[str], wanted: Names) -> str:
        name = self.schema.name
        attribute = "filter_key_fields_list" if kind == "filter" else "get_key_fields_list"
        remedy = f"Use one of these, or add the fields to {attribute} of its CacheMeta or ModelCacheManager."
        if wanted in self.gets or wanted in self.filters:
            other = "get" if kind == "filter" else "filter"
            remedy = (
                f"Use {name}.cache.{other}, or add the fields to {attribute} of its CacheMeta or ModelCacheManager."
            )
        elif any("__" in each.removesuffix("__exact") for each in given):
            remedy = "A cache is asked for equal values only; get_many takes several values of a unique key."
        return (
            f"{name} has no cache by ({', '.join(given)}){f' for {kind}' if kind != 'either' else ''}. "
            f"Keys that exist: {self.describe()}. {remedy}"
        )

    def describe(self) -> str:
        """The keys that exist, as they were declared: ``get (id), (slug); filter (organizer)``."""
        kinds = {"get": self.gets, "filter": self.filters}
        listed = {kind: ", ".join(f"({', '.join(key.fields)})" for key in kinds[kind].values()) for kind in kinds}
        return "; ".join(f"{kind} {keys}" for kind, keys in listed.items() if keys)
