"""Relations that declarations name, resolved against bound models: cached foreign keys, and the ways of walks.

A walk finds the rows of each model by a key that was declared for it or, where there is none, by one that is made
for the walk as if its ``CacheMeta`` had declared it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tortoise.models import Model

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet, ModelEntries
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.meta import field_names, is_relation
from aiomodelcache.plans.paths import Branch, Hop

Models = Mapping[type[Model], ModelEntries]
MakeIndex = Callable[[ModelEntries, tuple[str, ...], tuple[str, ...], bool], IndexEntries]
"""Makes an index of a model by fields, by their attributes, unique or not, with the settings of its ``CacheMeta``."""
MakeList = Callable[[ModelEntries, str, str], ManyToManyEntries]
"""Makes the list of a many-to-many relation of a model; the last is what to say of it in errors."""


def check_foreign_keys(models: Models, named: Iterable[tuple[type[Model], str]]) -> None:
    """Checks ``cached_foreignkeys``. Raises ``CacheConfigurationError``."""
    for model, name in named:
        where = f"{model.__name__}: cached_foreignkeys"
        schema = models[model].schema
        relation = schema.foreign_key(name)
        if relation is None:
            raise CacheConfigurationError(
                f"{where} names {name!r}, which is no foreign key of "
                f"{model.__name__}. Its foreign keys: {', '.join(schema.foreign_keys()) or 'none'}."
            )
        related, _, to_field = relation
        if frozenset([to_field]) not in bound_model(models, related, f"{where} names {name!r}").gets:
            raise CacheConfigurationError(
                f"{where} names {name!r}, which refers to {related.__name__}.{to_field}: "
                f'add ("{to_field}",) to get_key_fields_list of {related.__name__}.'
            )


class RelationPathResolver:
    """The ways of all walks of one cache that opens."""

    def __init__(self, models: Models, make_index: MakeIndex, make_list: MakeList) -> None:
        self._models = models
        self._make_list = make_list
        self._make_index = make_index
        self._made: dict[tuple[type[Model], tuple[str, ...], bool], IndexEntries] = {}

    def base(self, entries: ModelEntries, fields: tuple[str, ...], attributes: tuple[str, ...]) -> EntrySet:
        """The key that a walk begins at."""
        return self._entry_set(entries, fields, attributes, unique=entries.schema.unique(attributes))

    def path(self, entries: ModelEntries, path: str, where: str) -> tuple[Hop, ...]:
        """The hops of ``venue__city``. ``where`` names the declaration in errors."""
        hops: list[Hop] = []
        for name in path.split("__"):
            hops.append(self._hop(entries, name, f"{where} names {path!r}"))
            entries = self._models[hops[-1].entry_set.schema.model]
        return tuple(hops)

    def branches(self, entries: ModelEntries, paths: Sequence[str], where: str) -> tuple[Branch, ...]:
        """The relations of ``("organizer", "venue__city")``, to be attached."""
        after: dict[str, list[str]] = {}
        for path in paths:
            name, _, rest = path.partition("__")
            after.setdefault(name, []).extend([rest] if rest else [])
        found: list[Branch] = []
        for name, further in after.items():
            [hop] = self.path(entries, name, where)
            if not hop.single:
                raise CacheConfigurationError(
                    f"{where} names {name!r}, of which there may be several: declare a RelatedQuerysetCache for them."
                )
            found.append(Branch(hop, self.branches(self._models[hop.entry_set.schema.model], further, where)))
        return tuple(found)

    def _hop(self, entries: ModelEntries, name: str, where: str) -> Hop:
        model = entries.schema.model
        relation = entries.schema.relation(name)
        if relation is None:
            if is_relation(model, name):
                return Hop(name, entries.schema.pk, self._make_list(entries, name, where), False)
            known = ", ".join(sorted(each for each in field_names(model) if is_relation(model, each))) or "none"
            raise CacheConfigurationError(
                f"{where}, but {model.__name__} has no relation {name!r}. Its relations: {known}."
            )
        other = bound_model(self._models, relation.related, where)
        if other.schema.connection != entries.schema.connection:
            raise CacheConfigurationError(
                f"{where}, but {relation.related.__name__} is in another database than {model.__name__}: "
                "look it up by itself."
            )
        to = relation.to_attribute
        [field] = [each for each in other.schema.field_names() if other.schema.attribute(each) == to]
        return Hop(name, relation.attribute, self._entry_set(other, (field,), (to,), relation.single), relation.single)

    def _entry_set(
        self, entries: ModelEntries, fields: tuple[str, ...], attributes: tuple[str, ...], unique: bool
    ) -> EntrySet:
        """How rows are found by these attributes: as declared, or by an index that is made."""
        declared = (entries.gets if unique else entries.filters).get(frozenset(attributes))
        if declared is not None and declared.attributes == attributes:
            return declared
        key = entries.schema.model, attributes, unique
        if key not in self._made:
            self._made[key] = self._make_index(entries, fields, attributes, unique)
        return self._made[key]


def bound_model(models: Models, related: type[Model], where: str) -> ModelEntries:
    """What is known of a model that a declaration leads to. Raises ``CacheConfigurationError`` if it has no cache."""
    if related not in models:
        raise CacheConfigurationError(
            f"{where}, but {related.__name__} has no cache: "
            f"make {related.__name__} a CachedModel or give it a ModelCacheManager."
        )
    return models[related]
