"""The targets of blocks of a cache: models, cache classes and cached functions."""

from collections.abc import Iterable
from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.declare.cached import CachedFunction
from aiomodelcache.declare.classes import DeclaredQuery
from aiomodelcache.declare.values import ValueCache
from aiomodelcache.encoding.messages import described

Target = type[Model] | type[DeclaredQuery[Any]] | type[ValueCache[Any]] | CachedFunction[..., Any]
"""A model, a cache class, a ``ValueCache`` class or a cached function."""


def targets_of(name: str, targets: Iterable[Target]) -> frozenset[object]:
    """Returns what queries know the targets by. ``name``: the method, for the ``TypeError`` of any other object."""
    found: set[object] = set()
    given: Iterable[Any] = targets
    for target in given:
        if isinstance(target, CachedFunction):
            found.add(target.declaration)
        elif issubclass(type(target), type) and issubclass(target, Model | DeclaredQuery | ValueCache):
            found.add(cast("object", target))
        else:
            raise TypeError(
                f"ModelCache.{name} takes models, cache classes and cached functions; got {described(target)}."
            )
    return frozenset(found)
