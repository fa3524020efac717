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

from aiomodelcache.durations import Duration
from aiomodelcache.open_cache import default_cache
from aiomodelcache.orm.meta import managers_of
from aiomodelcache.query.querysets import QuerysetQuery
from aiomodelcache.write.bulk_queries import TrackedBulkCreate, TrackedBulkUpdate, TrackedDelete, TrackedUpdate
from aiomodelcache.write.invalidated import bound_caches, writing_on
from aiomodelcache.write.manual import invalidate_rows
from aiomodelcache.write.many_to_many import install_unopened


def track_querysets(model: type[Model]) -> None:
    """Makes the model's managers return querysets whose writes are captured. Idempotent."""
    for manager in managers_of(model):
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


class CachedForm:
    """The short form of ``Event.cache.query``, of querysets and of all that Tortoise makes of them to read."""

    __slots__ = ()

    def cached(self, timeout: Duration | None = None) -> QuerysetQuery[Any]:
        """Returns the query ``Event.cache.query(queryset, timeout=timeout)``, for models that have a cache.

        >>> events = await Event.filter(state="open").order_by("slug").cached("5m")
        >>> number = await Event.filter(state="open").count().cached()
        """
        queryset: Any = self
        return QuerysetQuery(queryset.model, queryset, timeout)


class TrackedQuerySet(CachedForm, QuerySet[Any]):
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

    def count(self) -> Any:
        """See ``QuerySet.count``."""
        return _with_cached_form(super().count())

    def exists(self) -> Any:
        """See ``QuerySet.exists``."""
        return _with_cached_form(super().exists())

    def values(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.values``."""
        return _with_cached_form(super().values(*args, **kwargs))

    def values_list(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.values_list``."""
        return _with_cached_form(super().values_list(*args, **kwargs))

    def union(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.union``."""
        return _with_cached_form(super().union(*args, **kwargs))

    async def invalidate_cache(self) -> int:
        """Invalidates the rows of this queryset in every open cache. Returns how many rows there are.

        Raises ``CacheNotOpen`` if no cache is open.
        """
        client = cast("BaseDBAsyncClient | None", self._db)
        with writing_on(client) if client is not None else nullcontext():
            bound = bound_caches(self.model)
        if not bound:
            default_cache()
        counts = [await invalidate_rows(cache, entries, self) for cache, entries in bound]
        return max(counts, default=0)


def _with_cached_form(query: Any) -> Any:
    return _retype(query, _cached_form(query.__class__))


@functools.cache
def _cached_form(cls: Any) -> Any:
    """Returns a subclass of a class of queries, with the same name, that has ``cached``."""
    return type(cls.__name__, (CachedForm, cls), {"__slots__": (), "__module__": cls.__module__})


def _retype(query: Any, tracked: type) -> Any:
    query.__class__ = tracked
    return query
