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
from aiomodelcache.entries.indexes import Index
from aiomodelcache.entries.many_to_many import Links
from aiomodelcache.entries.model import Binding
from aiomodelcache.entries.results import Result
from aiomodelcache.open_cache import Session
from aiomodelcache.orm.connections import outermost
from aiomodelcache.orm.select import rows_matching, select_values
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import Row, key_attributes, touch
from aiomodelcache.write.transactions import enlist, gathered, settle


async def invalidate_rows(session: Session, binding: Binding, given: Any) -> int:
    """Forgets rows, given as an instance, a primary key, a collection of these, or a queryset.

    Returns how many of them the database has now. Inside a transaction it takes effect at COMMIT.
    """
    schema = binding.schema
    wanted = key_attributes(binding, None, by_hand=True)
    client = schema.transaction() or schema.client
    if isinstance(given, QuerySet):
        query = cast("Any", given)
        if not issubclass(query.model, schema.model):
            raise TypeError(
                f"{schema.name}.cache.invalidate takes rows of {schema.name}; got those of {query.model!r}."
            )
        if query._db is None:  # a router would have it ask a replica, which may not know of the rows
            query = query.using_db(client)
        found: list[Row] = list(await query.values(*wanted))
        return await _forget(session, binding, found, [])
    several: list[Any] = [*given] if type(given) in (list, tuple, set, frozenset) else [given]
    for each in several:
        if isinstance(each, Model) and not isinstance(each, schema.model):
            raise TypeError(f"{schema.name}.cache.invalidate takes rows of {schema.name}; got {each!r}.")
    pks = [schema.normalise(schema.pk, each.pk if isinstance(each, Model) else each) for each in several]
    found = [*await select_values(schema.model, client, schema.pk, pks, wanted)]
    gone = set(pks) - {row[schema.pk] for row in found}
    await _forget(session, binding, [*found, *({schema.pk: pk} for pk in gone)], [])
    return len(found)


async def invalidate_key(session: Session, binding: Binding, key: Mapping[str, Any]) -> int:
    """Forgets what is cached under the values of a key, and the rows that have these values now.

    Returns how many rows have. Raises ``CacheNotRegistered`` for fields without a cache.
    """
    source, names, _ = binding.find("either", key)
    values = tuple(map(binding.schema.normalise, source.attributes, [key[name] for name in names]))
    return await invalidate_values(session, binding, source.attributes, values)


async def invalidate_values(
    session: Session, binding: Binding, attributes: tuple[str, ...], values: tuple[Any, ...]
) -> int:
    """Like ``invalidate_key``, for the (normalised) values of some columns."""
    schema = binding.schema
    if attributes == (schema.pk,):
        return await invalidate_rows(session, binding, values[0])
    client = schema.transaction() or schema.client
    found = await rows_matching(schema, client, attributes, values, key_attributes(binding, None, by_hand=True))
    entries: list[Index | Result | Links] = [*binding.indexes, *binding.results]
    same = [each for each in entries if set(each.attributes) == set(attributes)]
    by_name = dict(zip(attributes, values, strict=True))
    clears = [Clear(each.key(tuple([by_name[name] for name in each.attributes]))) for each in same]
    return await _forget(session, binding, found, clears)


async def forget(
    session: Session,
    source: Versioned,
    clears: Sequence[Clear],
    clients: Sequence[BaseDBAsyncClient],
    *,
    allow_ms: int = 0,
) -> None:
    """Forgets entries by their keys; inside these transactions at COMMIT.

    ``allow_ms``: how long what they hold may be answered all the same.
    """
    outer = [found for client in clients if (found := outermost(client)) is not None]
    for intent in [enlist(client, session) for client in outer] or [Intent()]:
        intent.add(source, clears)
        intent.drop_from(current_scope())
        if allow_ms:
            intent.allowed.update({clear.key: allow_ms for clear in clears})
        if not outer:
            try:
                if allow_ms:
                    await session.writer.mark(intent)
            except asyncio.CancelledError:  # the mark may have arrived, and would keep the entries uncached
                session.writer.settle(intent, committed=True)
                raise
            await settle({session: intent}, committed=True)


async def clear_models(session: Session, models: Iterable[type[Model]]) -> None:
    """Forgets everything about models, each inside its connection's transaction at COMMIT. See ``clear``."""
    bindings = [session.binding(model) for model in models]
    await clear(session, [(binding.rows, [binding.schema.transaction()]) for binding in bindings])


async def clear(session: Session, sources: Iterable[tuple[Versioned, Sequence[BaseDBAsyncClient | None]]]) -> None:
    """Forgets everything about each source; inside its transactions at COMMIT.

    Raises ``BackendError`` if what is to be forgotten at once is not.
    """
    at_once: list[Versioned] = []
    for source, clients in sources:
        outer = [found for client in clients if client is not None and (found := outermost(client)) is not None]
        for client in outer:
            intent = enlist(client, session)
            intent.add_model(source)
            intent.drop_from(current_scope())
        if not outer:
            at_once.append(source)
    await session.writer.clear_models(at_once)


def transactions(session: Session) -> list[BaseDBAsyncClient]:
    """The open transactions of the caller, on whatever connection the cache's models use."""
    return [client for schema in session.connections if (client := schema.transaction()) is not None]


def forgotten_in(client: BaseDBAsyncClient, session: Session, source: Versioned, key: bytes) -> bool:
    """Whether this transaction has invalidated a key, or cleared all of its source."""
    outer = outermost(client)
    return outer is not None and not {key, source.epoch_key}.isdisjoint(gathered(outer, session))


async def _forget(session: Session, binding: Binding, rows: Sequence[Row], clears: Sequence[Clear]) -> int:
    transaction = binding.schema.transaction()
    outer = outermost(transaction) if transaction is not None else None
    intent = Intent() if outer is None else enlist(outer, session)
    if len(rows) > session.config.bulk_limit:
        intent.add_model(binding.rows)
    else:
        intent.add(binding.rows, clears)
        for row in rows:
            touch(intent, binding, row, None, exists=False, by_hand=True)
    intent.drop_from(current_scope())
    if outer is None:
        await settle({session: intent}, committed=True)
    return len(rows)
