"""Captures ``save()`` and ``delete()``: collects the affected keys, marks them before the statement, then clears them.

A ``CachedModel`` calls these functions itself. Of other models they are listeners of Tortoise's signals, which runs
listeners as separate tasks, beside others that may raise. Tortoise keys listeners by exact class and cannot remove
them. So one set of functions serves all models, and looks up the open caches at each call.
"""

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.changes import forget_changes
from aiomodelcache.orm.connections import outermost, write_client
from aiomodelcache.orm.meta import RowValues, is_saved, pk_of
from aiomodelcache.orm.outcomes import may_survive_rollback
from aiomodelcache.orm.select import select_values
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.orm.transactions import settled, transaction
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import (
    ChangedColumns,
    affected_entries,
    collect_affected_keys,
    collect_model_keys,
    collect_result_keys,
    collect_stored_key,
    key_snapshot,
    result_columns,
    same_keys,
    unknown_columns,
    written_columns,
)
from aiomodelcache.write.calls import Write, current_write
from aiomodelcache.write.cascades import collect_cascade, collect_list_keys
from aiomodelcache.write.invalidated import (
    Affected,
    affected_caches,
    caches_cascading_from,
    caches_hiding_rows,
    is_affecting,
    writing_on,
    written_caches,
)
from aiomodelcache.write.many_to_many import install_unopened
from aiomodelcache.write.sent import recording
from aiomodelcache.write.through import expect_rows, offer_row
from aiomodelcache.write.transactions import finish_intents, transaction_intent
from aiomodelcache.write.unchanged import comparing, drop_local_copies, expect_unchanged, only_if_comparing
from aiomodelcache.write.unmoved import checking, confirmed, expect_unmoved, prepare, without_unmoved
from aiomodelcache.write.unopened import warn_if_unopened

_WAIT_FOR_LISTENERS: Final[Any] = cast("Any", Model)._wait_for_listeners


def listen(model: type[Model]) -> None:
    """Registers the listeners for the signals of a model that is no ``CachedModel``. Idempotent."""
    register = cast("Any", model).register_listener
    register(Signals.pre_save, _before_save)
    register(Signals.post_save, _after_save)
    register(Signals.pre_delete, _before_delete)
    register(Signals.post_delete, _after_delete)


async def _before_save(model: type[Model], instance: Model, *arguments: Any) -> None:
    await before_save(instance, *arguments)


async def _after_save(model: type[Model], instance: Model, *arguments: Any) -> None:
    await after_save(instance, *arguments)


async def _before_delete(model: type[Model], instance: Model, client: Any) -> None:
    await before_delete(instance, client)


async def _after_delete(model: type[Model], instance: Model, client: Any) -> None:
    await after_delete(instance, client)


def has_listeners(instance: Model, signal: Signals) -> bool:
    """Returns True if Tortoise has listeners to call for an instance, or the model looks for them in its own way."""
    model: Any = type(instance)
    return bool(model._listeners.get(signal, {}).get(model)) or model._wait_for_listeners is not _WAIT_FOR_LISTENERS


async def before_save(instance: Model, client: Any, update_fields: Iterable[str] | None) -> None:
    """Collects and marks the keys of a save, as far as they are known before its statement."""

    async def collect() -> None:
        with writing_on(client):
            await _before(instance, client, written_columns(update_fields), deleting=False)

    prepare(instance, client, collect)
    only_if_comparing(instance, client)
    await collect()


async def after_save(instance: Model, created: bool, client: Any, update_fields: Iterable[str] | None) -> None:
    """Collects the other keys of a save, and clears all of them."""
    with writing_on(client):
        await _after(instance, client, None if created else written_columns(update_fields), created=created)


async def before_delete(instance: Model, client: Any) -> None:
    """Collects and marks the keys of a delete."""
    with writing_on(client):
        await _before(instance, client, None, deleting=True)


async def after_delete(instance: Model, client: Any) -> None:
    """Clears the keys of a delete."""
    with writing_on(client):
        await _after(instance, client, None, deleting=True)


async def run(call: Callable[[], Coroutine[Any, Any, None]], instance: Model, client: BaseDBAsyncClient | None) -> None:
    """Awaits a ``save`` or ``delete``, and in autocommit mode its outcome, even if the caller is cancelled.

    A web server cancels a request whose client has gone. A cancelled statement would leave its row uncached for long.
    """
    model = type(instance)
    is_captured = is_affecting(model)
    if not is_captured:
        warn_if_unopened(model)
        install_unopened(model)
    if is_captured and outermost(client or write_client(model)) is None:
        await settled(call())
    else:
        await call()


# Before and after ------------------------------------------------------------------------------------


async def _before(instance: Model, client: BaseDBAsyncClient, changed: ChangedColumns, *, deleting: bool) -> None:
    """Collects the keys known before the statement. In autocommit mode, marks them; a transaction marks at COMMIT.

    The rows that a delete cascades to are selected now, because they are gone afterwards.
    """
    write, transaction = current_write(instance), outermost(client)
    if write.may_be_unchanged if write is not None else transaction is None:
        return
    changed, model = without_unmoved(write, changed), type(instance)
    affected = affected_caches(model, deleting=deleting)
    wanted = _columns_before(instance, affected, changed, deleting=deleting)
    rows = await _lock_row(instance, client, wanted) if wanted and transaction is not None else []
    for cache, written in affected:
        if transaction is not None:
            intent = transaction_intent(transaction, cache)
        else:
            intent = _new_intent(cast("Write", write), cache, written.exact, changed, deleting=deleting)
            expect_rows(intent, cache, () if deleting else written.exact, instance, client, changed)
        collect_model_keys(intent, written.whole)
        if wanted and transaction is None:  # the row has moved
            collect_model_keys(intent, written.exact)
        if deleting:
            intent.add_tables(cache.versions.deleted_with(model))
        for entries in written.exact if transaction is not None else ():
            for row in rows:
                collect_stored_key(intent, entries, row, deleted=deleting)
                collect_result_keys(intent, entries, row, None if deleting else changed)
            if may_survive_rollback(client):  # the statement may give no answer
                collect_affected_keys(intent, entries, vars(instance), changed, exists=not deleting, final=False)
        if deleting and rows:
            await collect_cascade(intent, cache.cascades, model, rows, client)
        elif rows and written.hides_rows:
            await collect_list_keys(intent, cache.cascades, model, rows, client)
    if write is not None:
        for cache, intent in list(write.intents.items()):
            if not write.failed:  # another listener may raise while this one waits
                await cache.writer.mark(intent)


def _new_intent(
    write: Write, cache: OpenCache, written: Iterable[ModelEntries], changed: ChangedColumns, *, deleting: bool
) -> Intent:
    """Returns the intent in autocommit mode, with the keys that are known before the statement."""
    intent = write.intents.setdefault(cache, Intent())
    intent.discard_hints()  # discards the hints of a refused ``save`` that the model's own ``save`` tries again
    row = vars(write.instance)
    for entries in written:
        write.snapshots.pop(entries.rows, None)
        all_known = collect_affected_keys(intent, entries, row, changed, exists=not deleting, final=False)
        if all_known and not unknown_columns(entries, row, changed):
            write.snapshots[entries.rows] = key_snapshot(entries, row, changed)
    return intent


async def _lock_row(instance: Model, client: BaseDBAsyncClient, wanted: list[str]) -> list[RowValues]:
    """Locks the row, and returns its values before the write.

    The instance may hold other values than the row. While the row is locked, references to it cannot be added or
    removed.
    """
    model = type(instance)
    return [*await lock_by_pk(model, client, [instance.pk], [pk_of(model), *wanted])]


def _columns_before(instance: Model, affected: Affected, changed: ChangedColumns, *, deleting: bool) -> list[str]:
    """Returns the attributes whose old values determine affected keys. Empty for a row that cannot exist yet."""
    if not (deleting or is_saved(instance) or changed is not None):
        write = current_write(instance)
        if write is None or not write.updating:
            return []
    return _old_value_columns(type(instance), affected, changed, deleting=deleting)


def _old_value_columns(model: type[Model], affected: Affected, changed: ChangedColumns, *, deleting: bool) -> list[str]:
    """Returns the attributes whose old values determine affected keys, for a row that exists before the write.

    The database may hold another primary key than the instance's own to be equal to it.
    """
    exact = [entries for _, written in affected for entries in written.exact]
    loose_keys = [entries.schema.pk for entries in exact if entries.rows.compares_loosely]
    if not deleting:
        wanted = [name for entries in exact for name in affected_entries(entries, changed).old_value_columns]
        return wanted + loose_keys + [pk_of(model) for _ in caches_hiding_rows(model, affected)]
    cascade_columns = [name for cache in caches_cascading_from(model) for name in cache.cascades.columns_needed(model)]
    return cascade_columns + loose_keys + [name for entries in exact for name in result_columns(entries)]


async def _after(
    instance: Model,
    client: BaseDBAsyncClient,
    changed: ChangedColumns,
    *,
    deleting: bool = False,
    created: bool = False,
) -> None:
    """Adds the keys of the values as written. In autocommit mode, clears them: the row is committed."""
    model = type(instance)
    affected = affected_caches(model, deleting=deleting)
    write = current_write(instance)
    if write is not None and write.is_unchanged and not created:
        drop_local_copies(instance, affected, changed)
        return
    marked, before = (write.take_intents(), write.snapshots) if write is not None else ({}, {})
    changed = changed if created else confirmed(write, changed)
    transaction = outermost(client)
    intents = {
        cache: transaction_intent(transaction, cache) if transaction is not None else marked.get(cache) or Intent()
        for cache, _ in affected
    }
    exact = [(cache, entries) for cache, written in affected for entries in written.exact]
    for cache, written in affected:
        collect_model_keys(intents[cache], written.whole)
        if deleting:
            intents[cache].add_tables(cache.versions.deleted_with(model))
    is_unread = transaction is None and not created
    old_columns = _old_value_columns(model, affected, changed, deleting=deleting) if is_unread else []
    try:
        for cache, entries in exact:
            snapshot = key_snapshot(entries, vars(instance), changed)
            if cache not in marked or not same_keys(before.get(entries.rows), snapshot):
                if cache in marked:
                    intents[cache].discard_hints()  # the hints are for other values
                row = vars(instance) if deleting else await _written_values(entries, instance, client, changed)
                collect_affected_keys(intents[cache], entries, row, changed, exists=not deleting)
            if not deleting:
                offer_row(intents[cache], cache, entries, instance, client, write.sent if write is not None else None)
            if old_columns:
                collect_model_keys(intents[cache], [entries])  # unread, as the model's own ``save`` was bypassed
    except BaseException:
        for cache, entries in exact:  # the row is written nevertheless
            collect_model_keys(intents[cache], [entries])
        raise
    finally:
        forget_changes(instance)
        for intent in intents.values():
            intent.drop_from(current_scope())
        if transaction is None:
            await finish_intents(intents, committed=True)


async def _written_values(
    entries: ModelEntries, instance: Model, client: BaseDBAsyncClient, changed: ChangedColumns
) -> RowValues:
    """Returns the values in the row: those of the instance, and from the database those that it does not know."""
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
    inserting: bool = False,
) -> AbstractAsyncContextManager[BaseDBAsyncClient]:
    """Returns the connection for a save or delete, in a transaction if the affected keys can be read only there.

    These are the rows that a delete cascades to, results under old values, and keys with values not known yet.
    """
    model = type(instance)
    client = client or write_client(model)
    affected = written_caches(model)
    exact = [] if deleting else [entries for _, written in affected for entries in written.exact]
    keeps = not inserting and any(entries.rows.unchanged is not None for entries in exact)
    is_unchanged = keeps and expect_unchanged(instance, exact, update_fields)
    is_whole = update_fields is None and not (deleting or inserting or is_unchanged)
    changed = expect_unmoved(instance, exact) if is_whole else written_columns(update_fields)
    needed = bool(_columns_before(instance, affected, changed, deleting=deleting)) or (
        bool(caches_cascading_from(model)) if deleting else _has_unknown_keys(exact, instance, changed)
    )
    connection: Any = transaction(client) if needed else nullcontext(client)
    if any(entries.rows.stored is not None for entries in exact):
        connection = recording(connection)
    return comparing(connection) if is_unchanged else checking(connection, changed)


def _has_unknown_keys(exact: Iterable[ModelEntries], instance: Model, changed: ChangedColumns) -> bool:
    return any(unknown_columns(entries, vars(instance), changed) for entries in exact)
