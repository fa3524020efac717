"""The open caches that a write invalidates in: those of its event loop and of others, and their views.

The context says on which connection a write is made, and in which tenant.
"""

from asyncio import get_running_loop
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.tables import NOTHING, WrittenEntries
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.open_cache import OpenCache, open_caches
from aiomodelcache.orm.connections import root_client, write_client
from aiomodelcache.orm.relations import through_table
from aiomodelcache.write.uninvalidated import skips_invalidation

Affected = Sequence[tuple[OpenCache, WrittenEntries]]
"""Open caches, each with the entries that a write affects in it."""

_written_on: Final[ContextVar[BaseDBAsyncClient | None]] = ContextVar("aiomodelcache_written_on", default=None)


class writing_on:
    """A block in which writes are made on this connection. It decides which entries they affect."""

    __slots__ = ("_client", "_token")

    def __init__(self, client: BaseDBAsyncClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._token = _written_on.set(self._client)

    def __exit__(self, *error: object) -> None:
        _written_on.reset(self._token)


def invalidated_caches() -> list[OpenCache]:
    """Returns the open caches that a write of this event loop must invalidate in.

    Another loop's cache is left out if one of this loop covers it, as another process's would be. A program may end its
    loop and leave a cache open. Returns none in a ``no_invalidation`` block.
    """
    if skips_invalidation():
        return []
    here, caches = get_running_loop(), open_caches.copy()
    if len(caches) == 1 and caches[0].loop is here:
        return caches
    own = [cache for cache in caches if cache.loop is here]
    if len(own) == len(caches):
        return own
    return own + [
        other
        for other in caches
        if not (other.loop is here or other.loop.is_closed() or any(cache.covers(other) for cache in own))
    ]


def bound_caches(model: type[Model]) -> list[tuple[OpenCache, ModelEntries]]:
    """Returns the caches to invalidate in that the model is bound to, with its entries."""
    return [
        (written, written.models[model])
        for cache in invalidated_caches()
        if model in cache.models
        for written in _written(cache, model)
    ]


def written_caches(model: type[Model]) -> list[tuple[OpenCache, WrittenEntries]]:
    """Returns the caches to invalidate in for a write through the model, each with the entries that it affects.

    They are the entries of all cached models of its table.
    """
    return [
        (written, written.written[model])
        for cache in invalidated_caches()
        if model in cache.written
        for written in _written(cache, model)
        if model in written.written
    ]


def written_entries(model: type[Model]) -> list[tuple[OpenCache, ModelEntries]]:
    """Returns the entries whose keys the rows name that are written through the model, each with its open cache."""
    return [(cache, entries) for cache, written in written_caches(model) for entries in written.exact]


def caches_cascading_from(model: type[Model]) -> list[OpenCache]:
    """Returns the caches to invalidate in where deleting rows of the model changes cached rows of other models."""
    return [
        written for cache in invalidated_caches() if cache.cascades.affects(model) for written in _written(cache, model)
    ]


def affected_caches(model: type[Model], *, deleting: bool) -> list[tuple[OpenCache, WrittenEntries]]:
    """Returns the caches of ``written_caches``, and when rows are deleted those that the delete cascades to, too."""
    others = [
        written
        for cache in (invalidated_caches() if deleting else ())
        if cache.cascades.affects(model) or cache.versions.deleted_with(model)
        for written in _written(cache, model)
    ]
    return [*written_caches(model), *((cache, NOTHING) for cache in others if model not in cache.written)]


def is_affecting(model: type[Model]) -> bool:
    """Returns True if a write or a delete through the model affects entries of any open cache."""
    return any(
        model in cache.written or cache.cascades.affects(model) or cache.versions.deleted_with(model)
        for cache in invalidated_caches()
    )


def caches_hiding_rows(model: type[Model], written: Affected | None = None) -> list[OpenCache]:
    """Returns the open caches in which changing a row may bring it back into lists that do not hold it.

    These are the caches in which a manager hides rows of the table, which is at an end of many-to-many lists.
    """
    if written is None:
        written = written_caches(model)
    return [cache for cache, affected in written if affected.hides_rows and cache.cascades.lists_of(model)]


def lists_over(cache: OpenCache, relation: Any) -> list[tuple[ManyToManyEntries, bool]]:
    """Returns the lists over a relation (Tortoise's field), each with True if the relation's own side owns it."""
    lists = [through for through in cache.many_to_many if through.relation.table == through_table(relation)]
    return [(through, through.relation.own_column == relation.backward_key) for through in lists]


def caches_with_links(relation: Any) -> list[OpenCache]:
    """Returns the caches to invalidate in that writes to the relation's through table affect."""
    caches = [cache for cache in invalidated_caches() if cache.watches_table(through_table(relation))]
    return [written for cache in caches for written in _written(cache, relation.model)]


def _written(cache: OpenCache, model: type[Model]) -> list[OpenCache]:
    """Returns the views of a cache whose entries a write of the model affects.

    A write on another connection than the model's own affects the entries of both. Only the event loop that opened the
    cache opens its views, so a write of another loop is taken to be outside of any tenant.
    """
    client, found = _written_on.get(), cache
    if cache.find_tenant is not None and cache.loop is get_running_loop():
        found = cache.writable()
    if client is None:
        return [found]
    bound = found.models.get(model)
    own = bound.schema.connection if bound is not None else write_client(model).connection_name
    if client.connection_name == own:
        return [found]
    view = found.views.get(client.connection_name)
    if view is None and cache.loop is get_running_loop():
        with suppress(CacheConfigurationError):  # no model can be bound to it, so no lookup uses it
            view = found.using(root_client(client))
    return [found] if view is None else [found, view]
