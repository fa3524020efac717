"""Manual invalidation, for writes that Tortoise did not make: raw SQL, other programs.

The rows' key values are read from the database. So index entries are invalidated, too, under values that only the other
program knows.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.encoding.messages import described
from aiomodelcache.engine.intent import Intent, Versioned
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import DependentEntries, ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import outermost
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.orm.select import rows_matching, select_values
from aiomodelcache.orm.snapshots import newest_values, sees_newest
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import affected_columns, collect_affected_keys
from aiomodelcache.write.transactions import finish_intents, pending_keys, transaction_intent


async def invalidate_rows(cache: OpenCache, entries: ModelEntries, target: Any) -> int:
    """Invalidates rows, given as an instance, a primary key, a collection of these, or a queryset.

    Returns how many of the rows exist in the database. Inside a transaction, the invalidation takes effect at COMMIT.
    """
    schema = entries.schema
    wanted = _columns(cache, entries)
    client = schema.transaction() or schema.client
    if isinstance(target, QuerySet):
        query = cast("Any", target)
        if not issubclass(query.model, schema.model):
            raise TypeError(
                f"{schema.name}.cache.invalidate takes rows of {schema.name}; got those of {query.model!r}."
            )
        if query._db is None:  # a router could choose a replica, which may not have the rows yet
            query = query.using_db(client)
        found: list[RowValues] = [*await newest_values(query, wanted)]
        return await _invalidate(cache, entries, found, [], client=query._db)
    items: list[Any] = [*target] if type(target) in (list, tuple, set, frozenset) else [target]
    for item in items:
        if isinstance(item, Model) and not isinstance(item, schema.model):
            raise TypeError(f"{schema.name}.cache.invalidate takes rows of {schema.name}; got {described(item)}.")
    pks = [schema.normalise(schema.pk, item.pk if isinstance(item, Model) else item) for item in items]
    possible = [pk for pk in pks if schema.can_hold((schema.pk,), (pk,))]
    rows: list[RowValues] = [*await select_values(schema.model, client, schema.pk, possible, wanted)]
    missing = {entries.rows.key(pk): pk for pk in pks}
    for row in rows:
        missing.pop(entries.rows.key(row[schema.pk]), None)
    await _invalidate(cache, entries, [*rows, *({schema.pk: pk} for pk in missing.values())], [], client=client)
    return len(rows)


async def invalidate_key(cache: OpenCache, entries: ModelEntries, key: Mapping[str, Any]) -> int:
    """Invalidates the entries under the values of a key, and the rows that have these values now.

    Returns how many rows have them. Raises ``CacheNotRegistered`` for fields without a cache.
    """
    entry_set, names, _ = entries.match_key("either", key)
    values = tuple(map(entries.schema.normalise, entry_set.attributes, [key[name] for name in names]))
    return await invalidate_values(cache, entries, entry_set.attributes, values)


async def invalidate_values(
    cache: OpenCache, entries: ModelEntries, attributes: tuple[str, ...], values: tuple[Any, ...]
) -> int:
    """Invalidates like ``invalidate_key``, given columns and their normalised values."""
    schema = entries.schema
    if not attributes:  # the key of all rows
        await clear_models(cache, [schema.model])
        return 0
    if attributes == (schema.pk,):
        return await invalidate_rows(cache, entries, values[0])
    client = schema.transaction() or schema.client
    rows = await rows_matching(schema, client, attributes, values, _columns(cache, entries))
    entry_sets: list[IndexEntries | DependentEntries] = [*entries.indexes, *entries.results]
    matching = [entry_set for entry_set in entry_sets if set(entry_set.attributes) == set(attributes)]
    by_name = dict(zip(attributes, values, strict=True))
    clears = [Clear(entry_set.key(tuple([by_name[name] for name in entry_set.attributes]))) for entry_set in matching]
    return await _invalidate(cache, entries, rows, clears, client=client)


async def invalidate_entries(
    cache: OpenCache,
    versioned: Versioned,
    clears: Sequence[Clear],
    clients: Sequence[BaseDBAsyncClient],
    *,
    allow_ms: int = 0,
) -> None:
    """Invalidates entries by their keys, at once or at COMMIT of the given transactions.

    ``allow_ms``: for how many milliseconds stale copies of the entries may still be answered.
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
            except asyncio.CancelledError:  # the mark may have arrived, and would keep readers from filling the keys
                cache.writer.finish(intent, committed=True)
                raise
            await finish_intents({cache: intent}, committed=True)


async def invalidate_tags(cache: OpenCache, tags: Iterable[str]) -> None:
    """Invalidates the values that have one of these tags, at once or at COMMIT of the caller's transactions."""
    keys = [cache.space.tag_key(tag) for tag in tags]
    outer = [found for client in transactions(cache) if (found := outermost(client)) is not None]
    for intent in [transaction_intent(client, cache) for client in outer]:
        intent.add_tables(keys)
    if not outer:
        intent = Intent()
        intent.add_tables(keys)
        await finish_intents({cache: intent}, committed=True)


async def clear_models(cache: OpenCache, models: Iterable[type[Model]]) -> None:
    """Invalidates everything about models, each at COMMIT of its connection's transaction if there is one.

    Raises ``BackendError`` like ``clear``.
    """
    bound = [cache.entries_of(model) for model in models]
    await clear_declarations(cache, [(entries.rows, [entries.schema.transaction()]) for entries in bound])


async def clear_declarations(
    cache: OpenCache, targets: Iterable[tuple[Versioned, Sequence[BaseDBAsyncClient | None]]]
) -> None:
    """Invalidates everything about models or classes of values, each at COMMIT of its transactions or else at once.

    Raises ``BackendError`` if the store could not be told of an invalidation that is due at once.
    """
    immediate: list[Versioned] = []
    for versioned, clients in targets:
        outer = [found for client in clients if client is not None and (found := outermost(client)) is not None]
        for client in outer:
            intent = transaction_intent(client, cache)
            intent.add_model(versioned)
            intent.drop_from(current_scope())
        if not outer:
            immediate.append(versioned)
    await cache.writer.clear_models(immediate)


def transactions(cache: OpenCache) -> list[BaseDBAsyncClient]:
    """Returns the caller's open transactions on the connections of the cache's models."""
    return [client for schema in cache.connections if (client := schema.transaction()) is not None]


def is_invalidated_in(client: BaseDBAsyncClient, cache: OpenCache, versioned: Versioned, key: bytes) -> bool:
    """Returns True if this transaction has invalidated a key, or everything about its model or class of values."""
    outer = outermost(client)
    return outer is not None and not {key, versioned.partitions.epoch_of(key)}.isdisjoint(pending_keys(outer, cache))


async def _invalidate(
    cache: OpenCache,
    entries: ModelEntries,
    rows: Sequence[RowValues],
    clears: Sequence[Clear],
    *,
    client: BaseDBAsyncClient,
) -> int:
    """Invalidates rows that were read on ``client``: everything about the model if newer rows may exist."""
    is_newest = await sees_newest(entries.schema.model, client)
    transaction = entries.schema.transaction()
    outer = outermost(transaction) if transaction is not None else None
    intent = Intent() if outer is None else transaction_intent(outer, cache)
    if not is_newest or len(rows) > cache.config.bulk_limit:
        intent.add_model(entries.rows)
    else:
        intent.add(entries.rows, clears)
        intent.add_tables_of(entries.rows)
        written = cache.written[entries.schema.model]
        for other in written.whole:
            intent.add_model(other.rows)
        for row in rows:
            for other in written.exact:
                collect_affected_keys(intent, other, row, None, exists=False, manual=True)
    intent.drop_from(current_scope())
    if outer is None:
        await finish_intents({cache: intent}, committed=True)
    return len(rows)


def _columns(cache: OpenCache, entries: ModelEntries) -> list[str]:
    """Returns the attributes that determine the keys of all cached models of the table."""
    exact = cache.written[entries.schema.model].exact
    return list(dict.fromkeys(name for other in exact for name in affected_columns(other, None, manual=True)))
