"""Saves that change nothing, so that all entries stay: by choice (``keep_unchanged``).

That the instance was not changed is not enough. Another writer may have changed the row since it was loaded, and the
save changes it back. So the executor asks the database, under the lock that the UPDATE would take, whether the row has
all values that the save writes. If it has, the UPDATE would change nothing, and is not sent. If it has not, the writer
marks every key and sends Tortoise's own UPDATE.
"""

from asyncio import get_running_loop
from collections.abc import Collection, Iterable
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.tables import WrittenEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.changes import changed_attributes, clear_changes
from aiomodelcache.orm.meta import is_partial, is_saved
from aiomodelcache.orm.unchanged_rows import has_values
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import ChangedColumns, collect_affected_keys, collect_model_keys
from aiomodelcache.write.calls import current_write
from aiomodelcache.write.invalidated import written_entries


def _seemingly_unchanged(
    instance: Model, written: Iterable[ModelEntries], update_fields: Iterable[str] | None
) -> list[str]:
    """Returns the attributes that a save writes, if none was changed and all can be compared; else nothing."""
    if not is_saved(instance) or is_partial(instance) or instance.pk is None:
        return []
    if not isinstance(update_fields, Collection | None):  # an iterator, which the statement needs
        return []
    for entries in written:
        rows = entries.rows.unchanged
        if rows is not None and entries.schema.model is type(instance):
            names = rows.compared(instance, update_fields)
            return names if changed_attributes(instance).isdisjoint(names) else []
    return []


def expect_unchanged(instance: Model, written: Iterable[ModelEntries], update_fields: Iterable[str] | None) -> bool:
    """Makes the current write of an instance mark nothing beforehand, if it seems to change nothing."""
    write = current_write(instance)
    if write is not None:
        write.may_be_unchanged = bool(_seemingly_unchanged(instance, written, update_fields))
    return write is not None and write.may_be_unchanged


def only_if_comparing(instance: Model, client: BaseDBAsyncClient) -> None:
    """Makes the current write mark its keys, if the model's own ``save`` has taken another connection."""
    write = current_write(instance)
    if write is not None and write.may_be_unchanged:
        write.is_unchanged = False  # the model's own ``save`` may save repeatedly
        write.may_be_unchanged = issubclass(client.executor_class, ComparingExecutor)


async def _is_unchanged(instance: Model, executor: Any, update_fields: Iterable[str] | None) -> bool:
    """Returns True if the row has all values that the current write is to give it. If not, marks the keys."""
    write = current_write(instance)
    if write is None or not write.may_be_unchanged:
        return False
    written = [entries for _, entries in written_entries(type(instance))]
    names = _seemingly_unchanged(instance, written, update_fields)  # a listener may just have changed the instance
    write.is_unchanged = bool(names) and await has_values(instance, executor, names)
    if not write.is_unchanged:
        await write.expect_a_move()
    return write.is_unchanged


class ComparingExecutor:
    """An executor of Tortoise's that sends an UPDATE of an instance only if it may change the row."""

    async def execute_update(self: Any, instance: Any, update_fields: Iterable[str] | None) -> int:
        """See ``BaseExecutor.execute_update``."""
        if await _is_unchanged(instance, self, update_fields):
            return 1
        return cast("int", await cast("Any", super()).execute_update(instance, update_fields))

    async def execute_insert(self: Any, instance: Any) -> None:
        """See ``BaseExecutor.execute_insert``. The model's own ``save`` may insert what was loaded."""
        write = current_write(instance)
        if write is not None and write.may_be_unchanged:
            await write.expect_a_move()
        await cast("Any", super()).execute_insert(instance)


def drop_local_copies(
    instance: Model, affected: Iterable[tuple[OpenCache, WrittenEntries]], changed: ChangedColumns
) -> None:
    """Drops what this process holds of an unchanged row: it may be older than the row, unlike entries of the store.

    The writers that have changed the row have marked its entries in the store, but no copies in this process.
    """
    clear_changes(instance)
    scope = current_scope()
    for cache, written in affected:
        if scope is None and not cache.guarded.near.wanted:
            continue
        intent = Intent()
        collect_model_keys(intent, written.whole)
        for entries in written.exact:
            collect_affected_keys(intent, entries, vars(instance), changed, exists=True)
        intent.drop_from(scope)
        if cache.loop is get_running_loop():
            cache.writer.drop_near(intent.clears)
