"""Captures ``save()`` and ``delete()``: collects the affected keys, marks them before the statement, then clears them.

A ``CachedModel`` calls these functions itself, and ``listeners`` for other models. The open caches are looked up at
each call, as models outlive them.
"""

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.engine.begun import Begun
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.changes import clear_changes
from aiomodelcache.orm.connections import outermost, write_client
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.orm.outcomes import may_survive_rollback
from aiomodelcache.orm.select import select_values
from aiomodelcache.orm.transactions import settled, transaction
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import (
    AllBut,
    ChangedColumns,
    collect_affected_keys,
    collect_model_keys,
    collect_result_keys,
    collect_stored_key,
    key_snapshot,
    same_keys,
    unknown_columns,
    written_columns,
)
from aiomodelcache.write.calls import WriteCall, current_write
from aiomodelcache.write.cascades import collect_cascade, collect_list_keys
from aiomodelcache.write.executors import extend, extended
from aiomodelcache.write.gated import gate_connection, is_gated
from aiomodelcache.write.invalidated import (
    affected_caches,
    caches_cascading_from,
    is_affecting,
    writing_on,
    written_caches,
)
from aiomodelcache.write.many_to_many import install_unopened
from aiomodelcache.write.old_values import columns_before, lock_row, unread_columns
from aiomodelcache.write.sent import RecordingExecutor
from aiomodelcache.write.through import expect_rows, offer_row
from aiomodelcache.write.transactions import Intents, finish_intents, transaction_intent
from aiomodelcache.write.unchanged import ComparingExecutor, drop_local_copies, expect_unchanged, only_if_comparing
from aiomodelcache.write.unmoved import (
    CheckingExecutor,
    confirmed_columns,
    expect_unmoved,
    prepare_update,
    without_unmoved,
)
from aiomodelcache.write.unopened import warn_if_unopened

_WAIT_FOR_LISTENERS: Final[Any] = cast("Any", Model)._wait_for_listeners


def has_listeners(instance: Model, signal: Signals) -> bool:
    """Returns True if Tortoise has listeners to call for an instance, or the model looks for them in its own way."""
    model: Any = type(instance)
    return bool(model._listeners.get(signal, {}).get(model)) or model._wait_for_listeners is not _WAIT_FOR_LISTENERS


async def before_save(
    instance: Model, client: Any, update_fields: Iterable[str] | None, *, in_task: bool = False
) -> None:
    """Collects the keys of a save that are known before its statement, and marks them, or begins to.

    ``in_task``: the caller is another task than that of the save, so the marks must end here.
    """
    columns = written_columns(update_fields)

    async def collect() -> None:
        with writing_on(client):
            await _before(instance, client, columns, deleting=False)
        await _mark(instance)

    prepare_update(instance, client, collect)
    only_if_comparing(instance, client)
    with writing_on(client):
        await _before(instance, client, columns, deleting=False)
    await _mark(instance, None if in_task else client, partial(_finish, instance, client, columns))


async def after_save(instance: Model, created: bool, client: Any, update_fields: Iterable[str] | None) -> None:
    """Collects the other keys of a save, and clears all of them, or waits until that is done."""
    if not await _finished(instance):
        await _finish(instance, client, None if created else written_columns(update_fields), created=created)


async def before_delete(instance: Model, client: Any, *, in_task: bool = False) -> None:
    """Collects the keys of a delete, and marks them, or begins to. See ``before_save``."""
    with writing_on(client):
        await _before(instance, client, None, deleting=True)
    await _mark(instance, None if in_task else client, partial(_finish, instance, client, None, deleting=True))


async def after_delete(instance: Model, client: Any) -> None:
    """Clears the keys of a delete, or waits until that is done."""
    if not await _finished(instance):
        await _finish(instance, client, None, deleting=True)


async def _mark(
    instance: Model, client: Any = None, finish: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> None:
    """Marks the keys of the current write. If a gated client is given, begins to: the statement waits for the marks."""
    write = current_write(instance)
    if write is None:
        return
    if client is not None and is_gated(client):
        write.marking += [Begun(cache.writer.mark(intent)) for cache, intent in write.intents.items()]
        write.finish = finish
        return
    await write.marked()
    for cache, intent in list(write.intents.items()):
        if not write.failed:  # another listener may raise while this one waits
            await cache.writer.mark(intent)


async def _finished(instance: Model) -> bool:
    """Waits for the clear of the current write, if it has begun. Returns True if so."""
    write = current_write(instance)
    if write is None:
        return False
    await write.marked()  # the model's own ``save`` may have sent another statement
    begun, write.finishing = write.finishing, None
    if begun is not None:
        await begun
    return begun is not None


async def run_write(
    call: Callable[[], Coroutine[Any, Any, None]], instance: Model, client: BaseDBAsyncClient | None
) -> None:
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
    """Collects the keys known before the statement: in autocommit mode to be marked now, in a transaction at COMMIT.

    The rows that a delete cascades to are selected now, because they are gone afterwards.
    """
    write, transaction = current_write(instance), outermost(client)
    if write.may_be_unchanged if write is not None else transaction is None:
        return
    changed, model = without_unmoved(write, changed), type(instance)
    affected = affected_caches(model, deleting=deleting)
    wanted = columns_before(instance, affected, changed, deleting=deleting)
    rows = await lock_row(instance, client, wanted) if wanted and transaction is not None else []
    for cache, written in affected:
        if transaction is not None:
            intent = transaction_intent(transaction, cache)
        else:
            intent = _new_intent(cast("WriteCall", write), cache, written.exact, changed, deleting=deleting)
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


def _new_intent(
    write: WriteCall, cache: OpenCache, written: Iterable[ModelEntries], changed: ChangedColumns, *, deleting: bool
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


async def _finish(
    instance: Model,
    client: BaseDBAsyncClient,
    changed: ChangedColumns,
    *,
    deleting: bool = False,
    created: bool = False,
) -> None:
    """Adds the keys of the values as written. In autocommit mode, clears them: the row is committed."""
    intents: Intents = {}
    try:
        with writing_on(client):
            await _after(intents, instance, client, changed, deleting=deleting, created=created)
    finally:
        if intents and outermost(client) is None:
            await finish_intents(intents, committed=True)


async def _after(
    intents: Intents,
    instance: Model,
    client: BaseDBAsyncClient,
    changed: ChangedColumns,
    *,
    deleting: bool,
    created: bool,
) -> None:
    """Adds the keys of the values as written to ``intents``, which it fills with those of the write."""
    model = type(instance)
    affected = affected_caches(model, deleting=deleting)
    write = current_write(instance)
    if write is not None and write.is_unchanged and not created:
        drop_local_copies(instance, affected, changed)
        return
    marked, before = (write.take_intents(), write.snapshots) if write is not None else ({}, {})
    changed = changed if created else confirmed_columns(write, changed)
    transaction = outermost(client)
    for cache, _ in affected:
        if transaction is not None:
            intents[cache] = transaction_intent(transaction, cache)
        else:
            intents[cache] = marked.get(cache) or Intent()
    exact = [(cache, entries) for cache, written in affected for entries in written.exact]
    for cache, written in affected:
        collect_model_keys(intents[cache], written.whole)
        if deleting:
            intents[cache].add_tables(cache.versions.deleted_with(model))
    is_unread = transaction is None and not created
    old_columns = unread_columns(instance, affected, changed, deleting=deleting) if is_unread else []
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
        clear_changes(instance)
        for intent in intents.values():
            intent.drop_from(current_scope())


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
    needed = bool(columns_before(instance, affected, changed, deleting=deleting)) or (
        bool(caches_cascading_from(model)) if deleting else _has_unknown_keys(exact, instance, changed)
    )
    extensions: list[type[Any]] = []
    if any(entries.rows.stored is not None for entries in exact):
        extensions.append(RecordingExecutor)
    if is_unchanged or isinstance(changed, AllBut):
        extensions.append(ComparingExecutor if is_unchanged else CheckingExecutor)
    if needed:
        return extended(transaction(client), extensions)
    for extension in extensions:
        extend(client, extension)
    if not isinstance(client, TransactionalDBClient):
        gate_connection(client)
    return nullcontext(client)


def _has_unknown_keys(exact: Iterable[ModelEntries], instance: Model, changed: ChangedColumns) -> bool:
    return any(unknown_columns(entries, vars(instance), changed) for entries in exact)
