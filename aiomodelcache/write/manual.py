"""Invalidation by hand, for writes that no part of Tortoise made: raw SQL, other programs.

The rows' key values are read from the database, so that index entries under values which only the other
program knows are found too.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent, Versioned
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ThroughModelDependency
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import outermost
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.orm.select import rows_matching, select_values
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import affected_columns, collect_affected_keys
from aiomodelcache.write.transactions import finish_intents, pending_keys, transaction_intent


async def invalidate_rows(cache: OpenCache, entries: ModelEntries, given: Any) -> int:
    """Forgets rows, given as an instance, a primary key, a collection of these, or a queryset.

    Returns how many of them the database has now. Inside a transaction it takes effect at COMMIT.
    """
    schema = entries.schema
    wanted = affected_columns(entries, None, manual=True)
    client = schema.transaction() or schema.client
    if isinstance(given, QuerySet):
        query = cast("Any", given)
        if not issubclass(query.model, schema.model):
            raise TypeError(
                f"{schema.name}.cache.invalidate takes rows of {schema.name}; got those of {query.model!r}."
            )
        if query._db is None:  # a router would have it ask a replica, which may not know of the rows
            query = query.using_db(client)
        found: list[RowValues] = list(await query.values(*wanted))
        return await _invalidate(cache, entries, found, [])
    several: list[Any] = [*given] if type(given) in (list, tuple, set, frozenset) else [given]
    for each in several:
        if isinstance(each, Model) and not isinstance(each, schema.model):
            raise TypeError(f"{schema.name}.cache.invalidate takes rows of {schema.name}; got {each!r}.")
    pks = [schema.normalise(schema.pk, each.pk if isinstance(each, Model) else each) for each in several]
    found = [*await select_values(schema.model, client, schema.pk, pks, wanted)]
    gone = set(pks) - {row[schema.pk] for row in found}
    await _invalidate(cache, entries, [*found, *({schema.pk: pk} for pk in gone)], [])
    return len(found)


async def invalidate_key(cache: OpenCache, entries: ModelEntries, key: Mapping[str, Any]) -> int:
    """Forgets what is cached under the values of a key, and the rows that have these values now.

    Returns how many rows have. Raises ``CacheNotRegistered`` for fields without a cache.
    """
    entry_set, names, _ = entries.find("either", key)
    values = tuple(map(entries.schema.normalise, entry_set.attributes, [key[name] for name in names]))
    return await invalidate_values(cache, entries, entry_set.attributes, values)


async def invalidate_values(
    cache: OpenCache, entries: ModelEntries, attributes: tuple[str, ...], values: tuple[Any, ...]
) -> int:
    """Like ``invalidate_key``, for the (normalised) values of some columns."""
    schema = entries.schema
    if attributes == (schema.pk,):
        return await invalidate_rows(cache, entries, values[0])
    client = schema.transaction() or schema.client
    found = await rows_matching(schema, client, attributes, values, affected_columns(entries, None, manual=True))
    found_by: list[IndexEntries | ResultEntries | ThroughModelDependency] = [*entries.indexes, *entries.results]
    same = [each for each in found_by if set(each.attributes) == set(attributes)]
    by_name = dict(zip(attributes, values, strict=True))
    clears = [Clear(each.key(tuple([by_name[name] for name in each.attributes]))) for each in same]
    return await _invalidate(cache, entries, found, clears)


async def invalidate_entries(
    cache: OpenCache,
    versioned: Versioned,
    clears: Sequence[Clear],
    clients: Sequence[BaseDBAsyncClient],
    *,
    allow_ms: int = 0,
) -> None:
    """Forgets entries by their keys; inside these transactions at COMMIT.

    ``allow_ms``: how long what they hold may be answered all the same.
    """
    outer = [found for client in clients if (found := outermost(client)) is not None]
    for intent in [transaction_intent(client, cache) for client in outer] or [Intent()]:
        intent.add(versioned, clears)
        intent.drop_from(current_scope())
        if allow_ms:
            intent.allowed.update({clear.key: allow_ms for clear in clears})
        if not outer:
            try:
                if allow_ms:
                    await cache.writer.mark(intent)
            except asyncio.CancelledError:  # the mark may have arrived, and would keep the entries uncached
                cache.writer.finish(intent, committed=True)
                raise
            await finish_intents({cache: intent}, committed=True)


async def clear_models(cache: OpenCache, models: Iterable[type[Model]]) -> None:
    """Forgets everything about models, each inside its connection's transaction at COMMIT. See ``clear``."""
    bound = [cache.entries_of(model) for model in models]
    await clear(cache, [(entries.rows, [entries.schema.transaction()]) for entries in bound])


async def clear(cache: OpenCache, what: Iterable[tuple[Versioned, Sequence[BaseDBAsyncClient | None]]]) -> None:
    """Forgets everything about each versioned; inside its transactions at COMMIT.

    Raises ``BackendError`` if what is to be forgotten at once is not.
    """
    at_once: list[Versioned] = []
    for versioned, clients in what:
        outer = [found for client in clients if client is not None and (found := outermost(client)) is not None]
        for client in outer:
            intent = transaction_intent(client, cache)
            intent.add_model(versioned)
            intent.drop_from(current_scope())
        if not outer:
            at_once.append(versioned)
    await cache.writer.clear_models(at_once)


def transactions(cache: OpenCache) -> list[BaseDBAsyncClient]:
    """The open transactions of the caller, on whatever connection the cache's models use."""
    return [client for schema in cache.connections if (client := schema.transaction()) is not None]


def is_invalidated_in(client: BaseDBAsyncClient, cache: OpenCache, versioned: Versioned, key: bytes) -> bool:
    """Whether this transaction has invalidated a key, or cleared all of its versioned."""
    outer = outermost(client)
    return outer is not None and not {key, versioned.epoch_key}.isdisjoint(pending_keys(outer, cache))


async def _invalidate(
    cache: OpenCache, entries: ModelEntries, rows: Sequence[RowValues], clears: Sequence[Clear]
) -> int:
    transaction = entries.schema.transaction()
    outer = outermost(transaction) if transaction is not None else None
    intent = Intent() if outer is None else transaction_intent(outer, cache)
    if len(rows) > cache.config.bulk_limit:
        intent.add_model(entries.rows)
    else:
        intent.add(entries.rows, clears)
        for row in rows:
            collect_affected_keys(intent, entries, row, None, exists=False, manual=True)
    intent.drop_from(current_scope())
    if outer is None:
        await finish_intents({cache: intent}, committed=True)
    return len(rows)
