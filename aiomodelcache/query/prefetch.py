"""``Event.cache.prefetch``: fills relations of many instances from the cache, in one round for each level.

What a relation asks for and how it is attached is said by a ``PrefetchRelation``; here are those that lead to one row.
Other kinds need only the same two methods, and a line in ``prefetch_relation``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tortoise.models import Model

from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import field_names, is_relation
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.batch import BatchCacheQuery
from aiomodelcache.query.bulk import BulkQuery
from aiomodelcache.query.many_to_many import ListsQuery


class PrefetchRelation(Protocol):
    """One relation of one model, to be filled on any number of its instances."""

    related: type[Model]

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        """What to ask the cache, for all of them at once; nothing for those that have it already."""
        ...

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        """Gives each instance its share of the answer. Returns all related rows, each once, for the next level."""
        ...


class SingleRelation:
    """A foreign key, or a one-to-one relation, which may have its column in the other model's table."""

    def __init__(self, cache: OpenCache, model: type[Model], name: str, related: type[Model], columns: tuple[str, str]):
        self.related = related
        self._cache = cache
        self._model = model
        self._name = name
        self._attribute, self._to_field = columns

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        wanted = {self._key(each): None for each in instances if not self._is_loaded(each)}
        wanted.pop(None, None)
        return BulkQuery(self.related, wanted, self._to_field, self._cache)

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        found: dict[int, Model] = {}
        for instance in instances:
            if not self._is_loaded(instance):
                vars(instance)[f"_{self._name}"] = answer.get(self._key(instance))
            row = vars(instance)[f"_{self._name}"]
            if row is not None:
                found[id(row)] = row
        return list(found.values())

    def _key(self, instance: Model) -> Any:
        value = vars(instance).get(self._attribute, instance)
        if value is instance:
            raise ValueError(
                f"{self._model.__name__}.{self._name} cannot be prefetched for an instance that was loaded without "
                f"{self._attribute}: load that column too."
            )
        return self._cache.entries_of(self.related).schema.normalise(self._to_field, value)

    def _is_loaded(self, instance: Model) -> bool:
        row = vars(instance).get(f"_{self._name}")
        return isinstance(row, Model) and vars(row).get(self._to_field) == self._key(instance)


class ListRelation:
    """A many-to-many relation whose lists are cached."""

    def __init__(self, cache: OpenCache, through: ManyToManyEntries) -> None:
        self.related = through.schema.model
        self._cache = cache
        self._through = through

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        return ListsQuery(
            self._through, [each.pk for each in instances if not self._relation(each)._fetched], self._cache
        )

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        found: dict[int, Model] = {}
        for instance in instances:
            relation = self._relation(instance)
            if not relation._fetched:
                relation._set_result_for_query(answer[instance.pk])
            found.update({id(row): row for row in relation.related_objects})
        return list(found.values())

    def _relation(self, instance: Model) -> Any:
        return getattr(instance, self._through.relation.name)


def prefetch_relation(cache: OpenCache, model: type[Model], name: str) -> PrefetchRelation:
    """How to fill a relation. Raises ``ValueError`` if it is none, ``CacheNotRegistered`` if the cache has no way."""
    schema = cache.entries_of(model).schema
    relation = schema.relation(name)
    if relation is not None and relation.single:
        related, attribute, to_field, _ = relation
        entries = cache.models.get(related)
        if entries is None or not entries.has_unique(to_field):
            remedy = "make it a CachedModel or give it a ModelCacheManager"
            if entries is not None:
                remedy = f'add ("{to_field}",) to get_key_fields_list of {related.__name__}'
            raise CacheNotRegistered(
                f"{model.__name__}.{name} cannot be prefetched: {related.__name__} has no cache by {to_field}: "
                f"{remedy}."
            )
        return SingleRelation(cache, model, name, related, (attribute, to_field))
    through = cache.list_of(model, name)
    if through is not None:
        return ListRelation(cache, through)
    if is_relation(model, name):
        raise CacheNotRegistered(
            f"{model.__name__}.{name} cannot be prefetched, because it leads to several rows, and is no many-to-many "
            "relation that cached_manytomany names: use fetch_related."
        )
    known = ", ".join(sorted(each for each in field_names(model) if is_relation(model, each))) or "none"
    raise ValueError(f"{model.__name__}.{name} is no relation, so it cannot be prefetched. Its relations: {known}.")


async def prefetch(cache: OpenCache, model: type[Model], instances: Iterable[Any], paths: Iterable[str]) -> None:
    """Fills relations, given as paths like ``venue__city``. See ``ModelCacheManager.prefetch``."""
    roots = list(instances)
    for each in roots:
        if not isinstance(each, model):
            raise TypeError(f"{model.__name__}.cache.prefetch takes instances of {model.__name__}; got {each!r}.")
    tree = _PrefetchNode(cache, model)
    for path in paths:
        step = tree
        for name in path.split("__"):
            step = step.child(name)
    level: list[tuple[list[Any], PrefetchRelation, _PrefetchNode]]
    level = [(roots, relation, step) for relation, step in tree.next.values()]
    while level:
        # One batch, so that all that this level needs is asked for in one tick.
        batch = BatchCacheQuery({at: relation.query(some) for at, (some, relation, _) in enumerate(level)})
        answers = await batch
        reached = [(relation.attach(some, answers[at]), step) for at, (some, relation, step) in enumerate(level)]
        level = [(some, relation, after) for some, step in reached if some for relation, after in step.next.values()]


class _PrefetchNode:
    """A place in the tree of relations to fill: a model, and where to go from there."""

    def __init__(self, cache: OpenCache, model: type[Model]) -> None:
        self._cache = cache
        self._model = model
        self.next: dict[str, tuple[PrefetchRelation, _PrefetchNode]] = {}

    def child(self, name: str) -> "_PrefetchNode":
        if name not in self.next:
            relation = prefetch_relation(self._cache, self._model, name)
            self.next[name] = relation, _PrefetchNode(self._cache, relation.related)
        return self.next[name][1]


def set_related(cache: OpenCache, model: type[Model], instance: Any, name: str, row: Any) -> None:
    """Attaches a row to a relation of an instance. See ``ModelCacheManager.set_related``."""
    schema = cache.entries_of(model).schema
    relation = schema.foreign_key(name)
    where = f"{model.__name__}.cache.set_related"
    if not isinstance(instance, model):
        raise TypeError(f"{where} takes an instance of {model.__name__}; got {instance!r}.")
    if relation is None:
        raise ValueError(
            f"{where}: {name!r} is no foreign key of {model.__name__}. "
            f"Its foreign keys: {', '.join(schema.foreign_keys()) or 'none'}."
        )
    related, attribute, to_field = relation
    if row is not None and not isinstance(row, related):
        raise TypeError(f"{where}: {model.__name__}.{name} refers to {related.__name__}; got {row!r}.")
    wanted = vars(instance).get(attribute)
    given = None if row is None else vars(row).get(to_field)
    if wanted != given:
        raise ValueError(
            f"{where}: this {model.__name__} refers to the {related.__name__} whose {to_field} is {wanted!r}, "
            f"but got that of {given!r}. To refer to another one, assign it, or use update()."
        )
    vars(instance)[f"_{name}"] = row
