"""Relations in declarations, resolved against bound models: cached foreign keys, and paths over relations.

A path finds the rows of each model by a declared key. If the model declares none, the resolver creates an index as if
the model's ``CacheMeta`` had declared it.
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
"""Creates an index with the settings of the model's ``CacheMeta``: (model, fields, attributes, unique)."""
MakeList = Callable[[ModelEntries, str, str], ManyToManyEntries]
"""Creates the list of a many-to-many relation: (model, relation, the declaration's name for errors)."""


def check_foreign_keys(models: Models, foreign_keys: Iterable[tuple[type[Model], str]]) -> None:
    """Checks ``cached_foreignkeys``. Raises ``CacheConfigurationError``."""
    for model, name in foreign_keys:
        where = f"{model.__name__}: cached_foreignkeys"
        schema = models[model].schema
        relation = schema.foreign_key(name)
        if relation is None:
            raise CacheConfigurationError(
                f"{where} names {name!r}, which is not a foreign key of "
                f"{model.__name__}. Its foreign keys: {', '.join(schema.foreign_keys()) or 'none'}."
            )
        related, _, to_field = relation
        if frozenset([to_field]) not in bound_model(models, related, f"{where} names {name!r}").gets:
            raise CacheConfigurationError(
                f"{where} names {name!r}, which refers to {related.__name__}.{to_field}: "
                f'add ("{to_field}",) to get_key_fields_list of {related.__name__}.'
            )


class RelationPathResolver:
    """Resolves the relation paths of one cache while the cache opens."""

    def __init__(self, models: Models, make_index: MakeIndex, make_list: MakeList) -> None:
        self._models = models
        self._make_list = make_list
        self._make_index = make_index
        self._indexes: dict[tuple[type[Model], tuple[str, ...], bool], IndexEntries] = {}

    def base(self, entries: ModelEntries, fields: tuple[str, ...], attributes: tuple[str, ...]) -> EntrySet:
        """Returns the entries of the key at which a path begins."""
        return self._entry_set(entries, fields, attributes, unique=entries.schema.unique(attributes))

    def path(self, entries: ModelEntries, path: str, where: str) -> tuple[Hop, ...]:
        """Returns the hops of a path such as ``venue__city``. ``where`` names the declaration in errors.

        Raises ``CacheConfigurationError``.
        """
        hops: list[Hop] = []
        for name in path.split("__"):
            hops.append(self._hop(entries, name, f"{where} names {path!r}"))
            entries = self._models[hops[-1].entry_set.schema.model]
        return tuple(hops)

    def branches(self, entries: ModelEntries, paths: Sequence[str], where: str) -> tuple[Branch, ...]:
        """Returns the relations to attach for paths such as ``("organizer", "venue__city")``.

        Raises ``CacheConfigurationError``, also for a relation that may lead to several rows.
        """
        continuations: dict[str, list[str]] = {}
        for path in paths:
            name, _, rest = path.partition("__")
            continuations.setdefault(name, []).extend([rest] if rest else [])
        branches: list[Branch] = []
        for name, further_paths in continuations.items():
            [hop] = self.path(entries, name, where)
            if not hop.single:
                raise CacheConfigurationError(
                    f"{where} names {name!r}, which may lead to several rows: declare a RelatedQuerysetCache for them."
                )
            next_entries = self._models[hop.entry_set.schema.model]
            branches.append(Branch(hop, self.branches(next_entries, further_paths, where)))
        return tuple(branches)

    def _hop(self, entries: ModelEntries, name: str, where: str) -> Hop:
        model = entries.schema.model
        relation = entries.schema.relation(name)
        if relation is None:
            if is_relation(model, name):
                return Hop(name, entries.schema.pk, self._make_list(entries, name, where), False)
            relations = ", ".join(sorted(field for field in field_names(model) if is_relation(model, field))) or "none"
            raise CacheConfigurationError(
                f"{where}, but {model.__name__} has no relation {name!r}. Its relations: {relations}."
            )
        other = bound_model(self._models, relation.related, where)
        if other.schema.connection != entries.schema.connection:
            raise CacheConfigurationError(
                f"{where}, but {relation.related.__name__} is in another database than {model.__name__}: "
                "look it up by itself."
            )
        to = relation.to_attribute
        [field] = [candidate for candidate in other.schema.field_names() if other.schema.attribute(candidate) == to]
        return Hop(name, relation.attribute, self._entry_set(other, (field,), (to,), relation.single), relation.single)

    def _entry_set(
        self, entries: ModelEntries, fields: tuple[str, ...], attributes: tuple[str, ...], unique: bool
    ) -> EntrySet:
        """Returns the declared entries for these attributes, or else an index created for them."""
        declared = (entries.gets if unique else entries.filters).get(frozenset(attributes))
        if declared is not None and declared.attributes == attributes:
            return declared
        key = entries.schema.model, attributes, unique
        if key not in self._indexes:
            self._indexes[key] = self._make_index(entries, fields, attributes, unique)
        return self._indexes[key]


def bound_model(models: Models, related: type[Model], where: str) -> ModelEntries:
    """Returns the entries of a model that a declaration leads to.

    Raises ``CacheConfigurationError`` if the model has no cache.
    """
    if related not in models:
        raise CacheConfigurationError(
            f"{where}, but {related.__name__} has no cache: "
            f"make {related.__name__} a CachedModel or give it a ModelCacheManager."
        )
    return models[related]
