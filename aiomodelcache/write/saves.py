"""``save()`` and ``delete()``, captured by Tortoise's signals: which keys they touch, and when to say so.

Tortoise keys listeners by exact class and cannot remove them, so there is one set of functions for all
models, registered once for each; they look up the open caches each time. It runs listeners in tasks of
their own, beside others that may raise. What belongs to one call of ``save`` or ``delete`` is a ``Write``.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from types import TracebackType
from typing import Any, Final, cast
from weakref import WeakSet

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache, bound_caches, caches_cascading_from, caches_hiding_rows
from aiomodelcache.orm.connections import outermost, transaction, write_client
from aiomodelcache.orm.meta import RowValues, is_saved, pk_of
from aiomodelcache.orm.outcomes import is_settled
from aiomodelcache.orm.select import select_values
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import (
    Changed,
    Naming,
    affected,
    collect_affected_keys,
    collect_model_key,
    collect_result_keys,
    naming,
    result_attributes,
    same_names,
    unknown_columns,
)
from aiomodelcache.write.cascades import collect_cascade, collect_list_keys
from aiomodelcache.write.transactions import Intents, abandon, finish_intents, transaction_intent


def listen(model: type[Model]) -> None:
    """Registers for a model's signals; a second time does nothing."""
    register = cast("Any", model).register_listener
    register(Signals.pre_save, _before_save)
    register(Signals.post_save, _after_save)
    register(Signals.pre_delete, _before_delete)
    register(Signals.post_delete, _after_delete)


async def _before_save(
    model: type[Model], instance: Model, using_db: BaseDBAsyncClient, update_fields: Iterable[str] | None
) -> None:
    await _before(model, instance, using_db, _columns(update_fields), deleting=False)


async def _after_save(
    model: type[Model],
    instance: Model,
    created: bool,
    using_db: BaseDBAsyncClient,
    update_fields: Iterable[str] | None,
) -> None:
    columns = None if created else _columns(update_fields)
    await _after(model, instance, using_db, columns, deleting=False, created=created)


async def _before_delete(model: type[Model], instance: Model, using_db: BaseDBAsyncClient) -> None:
    await _before(model, instance, using_db, None, deleting=True)


async def _after_delete(model: type[Model], instance: Model, using_db: BaseDBAsyncClient) -> None:
    await _after(model, instance, using_db, None, deleting=True)


# One call ----------------------------------------------------------------------------------------------


class Write:
    """One call of ``save`` or ``delete``, until it returns or raises."""

    __slots__ = ("instance", "intents", "named", "over", "updating")

    def __init__(self, instance: Model, updating: bool) -> None:
        self.instance = instance
        self.updating = updating
        """Whether the row must exist, also if the instance was not loaded from it."""
        self.intents: Intents = {}
        """What was announced before the statement, until somebody takes it to settle it. Empty in a transaction."""
        self.named: dict[OpenCache, Naming] = {}
        """By what all keys of an intent were named, and what to leave under them, if all could be."""
        self.over = False

    def take(self) -> Intents:
        """Hands over what was announced."""
        intents, self.intents = self.intents, {}
        return intents

    async def fail(self, error: BaseException) -> None:
        """Withdraws what was announced, or leaves it to expire if the row may yet be written."""
        self.over = True
        for intent in self.intents.values():
            intent.drop_from(current_scope())  # the scope's instance may be the one that holds refused values
        if is_settled(error):
            await finish_intents(self.take(), committed=False)
        else:
            abandon(self.take())


_current: Final[ContextVar[Write | None]] = ContextVar("aiomodelcache_write", default=None)


class intent_scope:
    """Goes around ``save`` and ``delete``: one that fails leaves nothing behind in the cache."""

    __slots__ = ("_token", "_write")

    def __init__(self, instance: Model, *, updating: bool = False) -> None:
        self._write = Write(instance, updating)

    async def __aenter__(self) -> None:
        self._token = _current.set(self._write)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                await self._write.fail(error)
        finally:
            _current.reset(self._token)


_wrapped: Final[WeakSet[Callable[..., Any]]] = WeakSet()


def wrap_methods(model: type[Model]) -> None:
    """Does for a user's model that is no ``CachedModel`` what that class does; a second time nothing."""
    for name in ("save", "delete"):
        method = getattr(model, name)
        if method not in _wrapped:
            method = _wrap(method, deleting=name == "delete")
            _wrapped.add(method)
            setattr(model, name, method)


def _wrap(
    method: Callable[..., Coroutine[Any, Any, None]], *, deleting: bool
) -> Callable[..., Coroutine[Any, Any, None]]:
    parameters = signature(method)

    @wraps(method)
    async def call(self: Model, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(self, *args, **kwargs)
        named = given.arguments if "using_db" in parameters.parameters else kwargs
        client, fields = named.get("using_db"), named.get("update_fields")
        updating = bool(named.get("force_update"))
        async with (
            intent_scope(self, updating=updating),
            connection_for(self, client, fields, deleting=deleting) as chosen,
        ):
            if named is kwargs and client is None:  # the method finds the transaction by itself
                await method(self, *args, **kwargs)
            else:
                named["using_db"] = chosen
                await (method(self, *args, **kwargs) if named is kwargs else method(*given.args, **given.kwargs))

    return call


def _write_of(instance: Model) -> Write | None:
    """The call in which a listener runs. None if the instance is saved around its model's own ``save``."""
    write = _current.get()
    return write if write is not None and write.instance is instance else None


# Before and after ------------------------------------------------------------------------------------


async def _before(
    model: type[Model], instance: Model, client: BaseDBAsyncClient, changed: Changed, *, deleting: bool
) -> None:
    """In autocommit mode: marks the keys known before the statement. In a transaction: nothing is marked yet.

    What a delete will cascade to is looked up now, in either: afterwards it is gone.
    """
    write = _write_of(instance)
    transaction = outermost(client)
    if write is None and transaction is None:
        return
    rows = await _locked(instance, client, changed, deleting=deleting) if transaction is not None else []
    for cache, entries in _affected_caches(model, deleting=deleting):
        if transaction is not None:
            intent = transaction_intent(transaction, cache)
        else:
            intent = _begin(cast("Write", write), cache, entries, changed, deleting=deleting)
        if entries is not None:
            for row in rows:
                collect_result_keys(intent, entries, row, None if deleting else changed)
        if deleting and rows:
            await collect_cascade(intent, cache.cascades, model, rows, client)
        elif rows and entries is not None and entries.schema.hides_rows:
            await collect_list_keys(intent, cache.cascades, model, rows, client)
    if write is not None:
        for cache, intent in list(write.intents.items()):
            if not write.over:  # another listener may raise while this one waits
                await cache.writer.mark(intent)


def _begin(write: Write, cache: OpenCache, entries: ModelEntries | None, changed: Changed, *, deleting: bool) -> Intent:
    """The intent with the keys that are known before the statement."""
    intent = write.intents.setdefault(cache, Intent())
    intent.discard_hints()  # as a ``save`` that was refused, and is tried again by its model's own, had said
    write.named.pop(cache, None)
    if entries is not None:
        row = vars(write.instance)
        all_known = collect_affected_keys(intent, entries, row, changed, exists=not deleting, final=False)
        if all_known and not unknown_columns(entries, row, changed):
            write.named[cache] = naming(entries, row, changed)
    return intent


async def _locked(instance: Model, client: BaseDBAsyncClient, changed: Changed, *, deleting: bool) -> list[RowValues]:
    """The row as it is before the write, as far as results and cascades need it; nothing if they do not.

    The instance may not tell its values. What refers to it can neither be added to nor taken away from then on.
    """
    model = type(instance)
    wanted = _wanted_before(instance, changed, deleting=deleting)
    return [*await lock_by_pk(model, client, [instance.pk], [pk_of(model), *wanted])] if wanted else []


def _wanted_before(instance: Model, changed: Changed, *, deleting: bool) -> list[str]:
    """The attributes whose values before the write must be known, to name what it touches."""
    left, write = _old_value_columns(type(instance), changed, deleting=deleting), _write_of(instance)
    exists = deleting or is_saved(instance) or changed is not None or (write is not None and write.updating)
    return left if exists else []


def _old_value_columns(model: type[Model], changed: Changed, *, deleting: bool) -> list[str]:
    """The same for any row that was there before."""
    bound = bound_caches(model)
    if not deleting:
        wanted = [name for _, entries in bound for name in affected(entries, changed).old_value_columns]
        return wanted + [pk_of(model) for _ in caches_hiding_rows(model, bound)]
    followed = [name for cache in caches_cascading_from(model) for name in cache.cascades.columns_needed(model)]
    return followed + [name for _, entries in bound for name in result_attributes(entries)]


async def _after(
    model: type[Model],
    instance: Model,
    client: BaseDBAsyncClient,
    changed: Changed,
    *,
    deleting: bool,
    created: bool = False,
) -> None:
    """Adds the keys of the values as written. In autocommit mode: clears; the row is committed."""
    concerned = _affected_caches(model, deleting=deleting)
    write = _write_of(instance)
    begun, named = (write.take(), write.named) if write is not None else ({}, {})
    transaction = outermost(client)
    intents = {
        cache: transaction_intent(transaction, cache) if transaction is not None else begun.get(cache) or Intent()
        for cache, _ in concerned
    }
    bound = [(cache, entries) for cache, entries in concerned if entries is not None]
    left = _old_value_columns(model, changed, deleting=deleting) if transaction is None and not created else []
    try:
        for cache, entries in bound:
            if cache not in begun or not same_names(named.get(cache), naming(entries, vars(instance), changed)):
                if cache in begun:
                    intents[cache].discard_hints()  # what was to be left is for other values
                row = vars(instance) if deleting else await _as_written(entries, instance, client, changed)
                collect_affected_keys(intents[cache], entries, row, changed, exists=not deleting)
            if left:
                collect_model_key(intents[cache], entries)  # saved around its model's own ``save``
    except BaseException:
        for cache, entries in bound:  # it is written all the same
            collect_model_key(intents[cache], entries)
        raise
    finally:
        for intent in intents.values():
            intent.drop_from(current_scope())
        if transaction is None:
            await finish_intents(intents, committed=True)


async def _as_written(entries: ModelEntries, instance: Model, client: BaseDBAsyncClient, changed: Changed) -> RowValues:
    """The values in the row: the instance's, and from the database those that it does not tell."""
    wanted = unknown_columns(entries, vars(instance), changed)
    if not wanted:
        return vars(instance)
    rows = await select_values(type(instance), client, entries.schema.pk, [instance.pk], wanted)
    return {**vars(instance), **rows[0]} if rows else vars(instance)


def connection_for(
    instance: Model,
    client: BaseDBAsyncClient | None,
    update_fields: Iterable[str] | None = None,
    *,
    deleting: bool = False,
) -> AbstractAsyncContextManager[BaseDBAsyncClient]:
    """The connection for a save or delete: in a transaction if it touches keys that only this can name.

    Such are the rows that a delete cascades to, and keys with values that the instance does not tell.
    """
    model = type(instance)
    client = client or write_client(model)
    changed = _columns(update_fields)
    needed = bool(_wanted_before(instance, changed, deleting=deleting))
    if deleting:
        needed = needed or bool(caches_cascading_from(model))
    elif not needed:
        needed = any(unknown_columns(entries, vars(instance), changed) for _, entries in bound_caches(model))
    return transaction(client) if needed else nullcontext(client)


def _affected_caches(model: type[Model], *, deleting: bool) -> list[tuple[OpenCache, ModelEntries | None]]:
    """The open caches in which the write touches something. The model itself need not be cached."""
    others = caches_cascading_from(model) if deleting else []
    unbound: list[tuple[OpenCache, ModelEntries | None]] = [
        (cache, None) for cache in others if model not in cache.models
    ]
    return [*bound_caches(model), *unbound]


def _columns(update_fields: Iterable[str] | None) -> Collection[str] | None:
    """What a save writes; None: everything. An iterator is left to the statement, which needs it."""
    return set(update_fields) if isinstance(update_fields, Collection) else None
