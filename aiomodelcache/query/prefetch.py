"""``Event.cache.prefetch``: fills relations of many instances from the cache, in one round trip for each level.

A ``PrefetchRelation`` makes the query for a relation and attaches the answer. Another kind of relation needs only these
two methods, and a branch in ``prefetch_relation``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.key_values import same_value
from aiomodelcache.orm.meta import field_names, is_relation
from aiomodelcache.orm.relations import RelationInfo, foreign_key_by
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.batch import BatchCacheQuery
from aiomodelcache.query.bulk import ListsByKeyQuery, RowsByKeyQuery
from aiomodelcache.query.many_to_many import ManyToManyBatchQuery


class PrefetchRelation(Protocol):
    """One relation of one model, to be filled on any number of its instances."""

    related: type[Model]

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        """Returns one query for all instances that do not have the relation loaded."""
        ...

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        """Attaches the answer to each instance. Returns all related rows, without repetition, for the next level."""
        ...


class SingleRelation:
    """A foreign key, or a one-to-one relation, which may have its column in the other model's table."""

    def __init__(self, cache: OpenCache, model: type[Model], name: str, related: type[Model], columns: tuple[str, str]):
        self.related = related
        self._cache = cache
        self._model = model
        self._name = name
        self._attribute, self._to_field = columns
        self._key_of_one = cache.entries_of(related).match_key("get", [self._to_field]).entry_set.key_of_one

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        values = [self._value(instance) for instance in instances if not self._is_loaded(instance)]
        wanted = [value for value in values if value is not None]
        return RowsByKeyQuery(self.related, wanted, self._to_field, self._cache)

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        rows: dict[int, Model] = {}
        for instance in instances:
            if not self._is_loaded(instance):
                vars(instance)[f"_{self._name}"] = answer.get(self._key_of_one(self._value(instance)))
            row = vars(instance)[f"_{self._name}"]
            if row is not None:
                rows[id(row)] = row
        return list(rows.values())

    def _value(self, instance: Model) -> Any:
        value = vars(instance).get(self._attribute, instance)
        if value is instance:
            raise ValueError(
                f"{self._model.__name__}.{self._name} cannot be prefetched for an instance that was loaded without "
                f"{self._attribute}: load that column too."
            )
        return self._cache.entries_of(self.related).schema.normalise(self._to_field, value)

    def _is_loaded(self, instance: Model) -> bool:
        row = vars(instance).get(f"_{self._name}")
        if not isinstance(row, Model):
            return False
        return self._key_of_one(vars(row).get(self._to_field)) == self._key_of_one(self._value(instance))


class ReverseRelation:
    """The reverse of a foreign key: the rows of another model that refer to an instance."""

    def __init__(self, cache: OpenCache, model: type[Model], name: str, related: type[Model], columns: tuple[str, str]):
        self.related = related
        self._cache = cache
        self._model = model
        self._name = name
        self._attribute, self._to_field = columns
        match = cache.entries_of(related).match_key("filter", [self._to_field])
        self._normalise, self._key_of_one = match.entry_set.schema.normalise, match.entry_set.key_of_one

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        values = [self._value(instance) for instance in instances if not self._relation(instance)._fetched]
        return ListsByKeyQuery(self.related, values, self._to_field, self._cache)

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        rows: dict[int, Model] = {}
        for instance in instances:
            relation = self._relation(instance)
            if not relation._fetched:
                relation._set_result_for_query(list(answer.get(self._key_of_one(self._value(instance)), ())))
            rows.update({id(row): row for row in relation.related_objects})
        return list(rows.values())

    def _value(self, instance: Model) -> Any:
        value = vars(instance).get(self._attribute)
        if value is None:
            raise ValueError(
                f"{self._model.__name__}.{self._name} cannot be prefetched for an instance without {self._attribute}: "
                "save it first, or load that column too."
            )
        return self._normalise(self._to_field, value)

    def _relation(self, instance: Model) -> Any:
        return getattr(instance, self._name)


class ListRelation:
    """A many-to-many relation whose lists are cached."""

    def __init__(self, cache: OpenCache, through: ManyToManyEntries) -> None:
        self.related = through.schema.model
        self._cache = cache
        self._through = through

    def query(self, instances: Sequence[Model]) -> CacheQuery[Any]:
        pks = [instance.pk for instance in instances if not self._relation(instance)._fetched]
        return ManyToManyBatchQuery(self._through, pks, self._cache)

    def attach(self, instances: Sequence[Model], answer: Any) -> list[Model]:
        rows: dict[int, Model] = {}
        for instance in instances:
            relation = self._relation(instance)
            if not relation._fetched:
                relation._set_result_for_query(answer[self._through.key((self._through.owner_value(instance.pk),))])
            rows.update({id(row): row for row in relation.related_objects})
        return list(rows.values())

    def _relation(self, instance: Model) -> Any:
        return getattr(instance, self._through.relation.name)


def prefetch_relation(cache: OpenCache, model: type[Model], name: str) -> PrefetchRelation:
    """Returns the relation with a name.

    Raises ``ValueError`` if the model has no such relation, and ``CacheNotRegistered`` if no cache can fill it.
    """
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
    if relation is not None:
        return _reverse_relation(cache, model, name, relation)
    through = cache.list_of(model, name)
    if through is not None:
        return ListRelation(cache, through)
    if is_relation(model, name):
        raise CacheNotRegistered(
            f"{model.__name__}.{name} cannot be prefetched, because it is a many-to-many relation that no "
            "cached_manytomany names: name it there, or use fetch_related."
        )
    known = ", ".join(sorted(field for field in field_names(model) if is_relation(model, field))) or "none"
    raise ValueError(f"{model.__name__}.{name} is no relation, so it cannot be prefetched. Its relations: {known}.")


def _reverse_relation(cache: OpenCache, model: type[Model], name: str, relation: RelationInfo) -> ReverseRelation:
    """Returns the reverse of a foreign key. Raises ``CacheNotRegistered`` if the other model has no list by it."""
    related, attribute, to_attribute, _ = relation
    entries = cache.models.get(related)
    if entries is None or frozenset([to_attribute]) not in entries.filters:
        field = foreign_key_by(related, to_attribute)
        remedy = f'add ("{field}",) to filter_key_fields_list of {related.__name__}'
        if entries is None:
            remedy = f"make {related.__name__} a CachedModel or give it a ModelCacheManager, and {remedy}"
        raise CacheNotRegistered(
            f"{model.__name__}.{name} cannot be prefetched: {related.__name__} has no list by {to_attribute}: {remedy}."
        )
    return ReverseRelation(cache, model, name, related, (attribute, to_attribute))


async def prefetch(cache: OpenCache, model: type[Model], instances: Iterable[Any], paths: Iterable[str]) -> None:
    """Fills relations, given as paths like ``venue__city``. See ``ModelCacheManager.prefetch``."""
    if not issubclass(type(instances), Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
        raise TypeError(f"{model.__name__}.cache.prefetch takes a list of instances; got {described(instances)}.")
    roots = list(instances)
    for root in roots:
        if not isinstance(root, model):
            raise TypeError(
                f"{model.__name__}.cache.prefetch takes instances of {model.__name__}; got {described(root)}."
            )
    tree = _PrefetchNode(cache, model)
    for path in paths:
        if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise TypeError(f"{model.__name__}.cache.prefetch takes names of relations; got {described(path)}.")
        node = tree
        for name in path.split("__"):
            node = node.child(name)
    level: list[tuple[list[Any], PrefetchRelation, _PrefetchNode]]
    level = [(roots, relation, node) for relation, node in tree.children.values()]
    while level:
        # One batch, so that all queries of the level are sent in one tick.
        batch = BatchCacheQuery({at: relation.query(parents) for at, (parents, relation, _) in enumerate(level)})
        answers = await batch
        attached = [(relation.attach(rows, answers[at]), node) for at, (rows, relation, node) in enumerate(level)]
        level = [(rows, *child) for rows, node in attached if rows for child in node.children.values()]


class _PrefetchNode:
    """A node in the tree of relations to fill: a model, and the relations to follow from its rows."""

    def __init__(self, cache: OpenCache, model: type[Model]) -> None:
        self._cache = cache
        self._model = model
        self.children: dict[str, tuple[PrefetchRelation, _PrefetchNode]] = {}

    def child(self, name: str) -> "_PrefetchNode":
        if name not in self.children:
            relation = prefetch_relation(self._cache, self._model, name)
            self.children[name] = relation, _PrefetchNode(self._cache, relation.related)
        return self.children[name][1]


def set_related(cache: OpenCache, model: type[Model], instance: Any, name: str, row: Any) -> None:
    """Attaches a row to a relation of an instance. See ``ModelCacheManager.set_related``."""
    schema = cache.entries_of(model).schema
    where = f"{model.__name__}.cache.set_related"
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
        raise TypeError(f"{where} takes the name of a foreign key; got {described(name)}.")
    relation = schema.foreign_key(name)
    if not isinstance(instance, model):
        raise TypeError(f"{where} takes an instance of {model.__name__}; got {described(instance)}.")
    if relation is None:
        raise ValueError(
            f"{where}: {name!r} is no foreign key of {model.__name__}. "
            f"Its foreign keys: {', '.join(schema.foreign_keys()) or 'none'}."
        )
    related, attribute, to_field = relation
    if row is not None and not isinstance(row, related):
        raise TypeError(f"{where}: {model.__name__}.{name} refers to {related.__name__}; got {described(row)}.")
    expected = vars(instance).get(attribute)
    actual = None if row is None else vars(row).get(to_field)
    if not same_value(expected, actual):
        raise ValueError(
            f"{where}: this {model.__name__} refers to another {related.__name__}, or to none: its {attribute} differs "
            f"from the {to_field} of the one given. "
            "To refer to another one, assign it, or use update()."
        )
    vars(instance)[f"_{name}"] = row
