"""The declarations that a command names: a model, a relation, a cache class, a cached function; and their queries."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.declare.classes import DeclaredQuery
from aiomodelcache.declare.registry import path_of
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.inspection.arguments import Argument, field_value, function_arguments, hints_of, model_values
from aiomodelcache.inspection.declarations import DeclaredValue, values_derived_from
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import full_name, pk_of
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.lookups import FilterQuery, GetQuery
from aiomodelcache.query.many_to_many import ManyToManyQuery


@dataclass(frozen=True, slots=True)
class FoundDeclaration:
    """A declaration: exactly one of the other attributes is set."""

    name: str
    model: type[Model] | None = None
    through: ManyToManyEntries | None = None
    cls: type[DeclaredQuery[Any]] | None = None
    value: DeclaredValue | None = None


def find_target(cache: OpenCache, name: str) -> FoundDeclaration:
    """Returns the declaration of this name. Raises ``CommandError``."""
    by_name: dict[str, list[FoundDeclaration]] = {}
    for target, names in _targets(cache):
        for each in names:
            by_name.setdefault(each, []).append(target)
    found = by_name.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(sorted(each for each, targets in by_name.items() if "." in each and targets[0] in found))
        raise CommandError(f"Several declarations are called {name}: name one of {listed}.")
    owner, _, relation = name.rpartition(".")
    if owner in by_name and by_name[owner][0].model is not None:
        model = by_name[owner][0].model
        raise CommandError(f"{name} has no cached list: name {relation} in cached_manytomany of {model.__name__}.")  # type: ignore[union-attr]
    short = sorted(each for each in by_name if each.count(".") == 0)
    close = difflib.get_close_matches(name, by_name, n=3) or short
    raise CommandError(
        f"Nothing cached is called {name}. There are: {', '.join(close) or 'no caches at all'}. "
        "For a cached function, name its module in imports, or pass --import."
    )


def all_targets(cache: OpenCache) -> list[FoundDeclaration]:
    """Returns all declarations of a cache."""
    return [target for target, _ in _targets(cache)]


def _targets(cache: OpenCache) -> Iterable[tuple[FoundDeclaration, set[str]]]:
    for model in cache.models:
        yield (
            FoundDeclaration(model.__name__, model=model),
            {model.__name__, full_name(model), f"{model.__module__}.{model.__name__}"},
        )
    for through in cache.many_to_many:
        owner = through.owner
        if cache.list_of(owner.model, through.relation.name) is through:
            relation = through.relation.name
            name = f"{owner.name}.{relation}"
            yield FoundDeclaration(name, through=through), {name, f"{full_name(owner.model)}.{relation}"}
    for cls in cache.classes:
        query = cast("type[DeclaredQuery[Any]]", cls)
        yield FoundDeclaration(cls.__name__, cls=query), {cls.__name__, path_of(cls)}
    for value in values_derived_from(cache.models):
        yield FoundDeclaration(value.short, value=value), value.names


def query_of(
    cache: OpenCache, target: FoundDeclaration, arguments: Sequence[Argument], *, as_list: bool = False
) -> CacheQuery[Any]:
    """Returns the query of a declaration for these arguments. ``as_list``: of a model, ``filter`` rather than ``get``.

    Raises ``CommandError``, and ``CacheNotRegistered`` for fields without a cache.
    """
    if target.model is not None:
        values = model_values(target.model, arguments)
        entries = cache.entries_of(target.model)
        kind: Any = GetQuery if not as_list and entries.kind(values) == "get" else FilterQuery
        return cast("CacheQuery[Any]", kind(target.model, values, cache))
    if target.through is not None:
        return ManyToManyQuery(target.through, _owner(target.through, arguments), cache)
    if target.cls is not None:
        model, fields = target.cls.model, tuple(target.cls.key_fields)
        if sum(not argument.name for argument in arguments) > len(fields):
            raise CommandError(f"{target.name} takes its key ({', '.join(fields)}), each once, by position or by name.")
        named = [
            argument if argument.name else argument._replace(name=fields[at] if at < len(fields) else "")
            for at, argument in enumerate(arguments)
        ]
        try:
            query = target.cls(**model_values(model, named))
        except TypeError as error:
            raise CommandError(str(error)) from None
        query.explicit_cache = cache
        return query
    value = target.value
    assert value is not None, "a target is one of four things"
    signature = value.declaration.signature
    args, kwargs = function_arguments(target.name, signature, hints_of(value.function), arguments)
    try:
        query = value.make(*args, **kwargs)
    except TypeError as error:
        raise CommandError(str(error)) from None
    query.explicit_cache = cache
    return cast("CacheQuery[Any]", query)


def _owner(through: ManyToManyEntries, arguments: Sequence[Argument]) -> Any:
    model = through.owner.model
    pk = pk_of(model)
    if len(arguments) != 1 or arguments[0].name not in ("", "pk", pk):
        name = f"{through.owner.name}.{through.relation.name}"
        raise CommandError(f"{name} takes the primary key of one {through.owner.name}, like {pk}=7.")
    return field_value(model, arguments[0]._replace(name=pk))
