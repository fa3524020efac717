"""Querysets whose writes are captured, returned by the managers of bound models.

Tortoise fires no signal for ``QuerySet.update`` and ``.delete``, ``bulk_create`` and ``bulk_update``.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.orm.meta import managers
from aiomodelcache.write.bulk_queries import TrackedBulkCreate, TrackedBulkUpdate, TrackedDelete, TrackedUpdate
from aiomodelcache.write.invalidated import bound_caches, writing_on
from aiomodelcache.write.manual import invalidate_rows
from aiomodelcache.write.many_to_many import install_unopened


def track(model: type[Model]) -> None:
    """Makes the model's managers return querysets whose writes are captured. Idempotent."""
    for manager in managers(model):
        if "get_queryset" not in vars(manager):
            manager.get_queryset = partial(_tracked_queryset, manager.get_queryset)


def _tracked_queryset(original: Callable[[], Any]) -> Any:
    queryset = original()
    queryset.__class__ = _tracked_class(queryset.__class__)
    install_unopened(queryset.model)
    return queryset


@functools.cache
def _tracked_class(cls: Any) -> Any:
    """Returns a subclass of a queryset class, with the same name, that captures writes of the class's own methods."""
    if cls is QuerySet:
        return TrackedQuerySet
    if QuerySet not in cls.__mro__ or TrackedQuerySet in cls.__mro__:
        return cls
    return type(cls.__name__, (cls, TrackedQuerySet), {"__slots__": (), "__module__": cls.__module__})


class TrackedQuerySet(QuerySet[Any]):
    """A queryset whose writes are captured."""

    __slots__ = ()

    def update(self, **kwargs: Any) -> Any:
        """See ``QuerySet.update``."""
        return _retype(super().update(**kwargs), TrackedUpdate)

    def delete(self) -> Any:
        """See ``QuerySet.delete``."""
        return _retype(super().delete(), TrackedDelete)

    def bulk_create(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.bulk_create``."""
        query = _retype(super().bulk_create(*args, **kwargs), TrackedBulkCreate)
        query._objects = list(query._objects)
        return query

    def bulk_update(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.bulk_update``."""
        query = _retype(super().bulk_update(*args, **kwargs), TrackedBulkUpdate)
        query._objects, query.fields = list(query._objects), list(query.fields)
        return query

    async def invalidate_cache(self) -> int:
        """Invalidates the rows of this queryset in every open cache. Returns how many rows there are."""
        client = cast("BaseDBAsyncClient | None", self._db)
        with writing_on(client) if client is not None else nullcontext():
            bound = bound_caches(self.model)
        counts = [await invalidate_rows(cache, entries, self) for cache, entries in bound]
        return max(counts, default=0)


def _retype(query: Any, tracked: type) -> Any:
    query.__class__ = tracked
    return query
