"""``model_from_cache``: the schemas of Tortoise's ``pydantic_model_creator``, with relations from the cache."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.query.prefetch import prefetch, prefetch_relation

if TYPE_CHECKING:
    from tortoise.contrib.pydantic import PydanticModel

S = TypeVar("S", bound="PydanticModel")


async def model_from_cache(schema: type[S], instance: Model) -> S:
    """Returns the schema's object for an instance, whose relations the cache fills first.

    In place of Tortoise's ``from_tortoise_orm``, which sends a statement for each relation. Relations that the cache
    cannot fill are loaded by Tortoise, and relations that the instance has loaded already are kept.

    Raises ``TypeError`` if the schema is not one of ``pydantic_model_creator``, or the instance is of another model.
    Raises ``CacheNotOpen`` if no cache is open.

    >>> from tortoise.contrib.pydantic import pydantic_model_creator
    >>> from aiomodelcache.contrib.pydantic import model_from_cache
    >>> EventOut = pydantic_model_creator(Event)
    >>> out = await model_from_cache(EventOut, await Event.cache.get(slug="pycon"))
    """
    [found] = await models_from_cache(schema, [instance])
    return found


async def models_from_cache(schema: type[S], instances: Iterable[Model]) -> list[S]:
    """Returns the schema's objects for instances, in their order, with one round trip for each level of relations.

    See ``model_from_cache``.
    """
    model = _model_of(schema)
    rows = list(instances)
    for row in rows:
        if not isinstance(row, model):
            raise TypeError(f"{schema.__name__} is a schema of {model.__name__}; got {described(row)}.")
    await _fill(default_cache().usable(), model, rows, _paths(schema, model))
    return [schema.model_validate(row) for row in rows]


def _model_of(schema: Any) -> type[Model]:
    config: dict[str, Any] = getattr(schema, "model_config", {})
    model = config.get("orig_model")
    if not isinstance(model, type) or not issubclass(model, Model):
        raise TypeError(
            f"{described(schema)} is no schema of a model: make it by pydantic_model_creator of "
            "tortoise.contrib.pydantic."
        )
    return model


def _paths(schema: Any, model: type[Model]) -> list[str]:
    """Returns the paths of the relations that the schema has, as Tortoise fetches them."""
    from tortoise.contrib.pydantic.base import (
        _get_fetch_fields,  # pyright: ignore[reportPrivateUsage]  # part of what from_tortoise_orm does
    )

    return _get_fetch_fields(schema, model)


async def _fill(cache: OpenCache, model: type[Model], rows: Sequence[Model], paths: Iterable[str]) -> None:
    """Fills the paths: as far as the cache can by its lookups, and their remainders by Tortoise."""
    cached: set[str] = set()
    remainders: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        names = path.split("__")
        length = _cached_length(cache, model, names)
        beginning = "__".join(names[:length])
        if beginning:
            cached.add(beginning)
        if length < len(names):
            remainders[beginning].append("__".join(names[length:]))
    if cached and rows:
        await prefetch(cache, model, rows, sorted(cached))
    for beginning, rest in remainders.items():
        ends = _ends(rows, beginning.split("__") if beginning else [])
        if ends:
            await type(ends[0]).fetch_for_list(ends, *rest)


def _cached_length(cache: OpenCache, model: type[Model], names: Sequence[str]) -> int:
    """Returns the number of relations at the beginning of a path that the cache can fill."""
    for length, name in enumerate(names):
        try:
            model = prefetch_relation(cache, model, name).related
        except CacheNotRegistered:
            return length
    return len(names)


def _ends(rows: Sequence[Model], names: Sequence[str]) -> list[Model]:
    """Returns the rows at the end of loaded relations, without repetition."""
    ends = list(rows)
    for name in names:
        found: dict[int, Model] = {}
        for row in ends:
            value = vars(row).get(f"_{name}")
            related = [value] if isinstance(value, Model) else list(getattr(value, "related_objects", ()))
            found.update({id(each): each for each in related})
        ends = list(found.values())
    return ends
