"""The values that a row has before a write, where they determine keys that the write affects."""

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.orm.meta import RowValues, is_saved, pk_of
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.write.affected import ChangedColumns, affected_entries, result_columns
from aiomodelcache.write.calls import current_write
from aiomodelcache.write.invalidated import Affected, caches_cascading_from, caches_hiding_rows


async def lock_row(instance: Model, client: BaseDBAsyncClient, wanted: list[str]) -> list[RowValues]:
    """Locks the row, and returns its values before the write.

    The instance may hold other values than the row. While the row is locked, references to it cannot be added or
    removed.
    """
    model = type(instance)
    return [*await lock_by_pk(model, client, [instance.pk], [pk_of(model), *wanted])]


def columns_before(instance: Model, affected: Affected, changed: ChangedColumns, *, deleting: bool) -> list[str]:
    """Returns the attributes whose old values determine affected keys. Empty for a row that cannot exist yet."""
    columns, write = unread_columns(instance, affected, changed, deleting=deleting), current_write(instance)
    exists = deleting or is_saved(instance) or changed is not None or (write is not None and write.updating)
    return columns if exists else []


def unread_columns(instance: Model, affected: Affected, changed: ChangedColumns, *, deleting: bool) -> list[str]:
    """Returns the attributes whose old values determine affected keys, for a row that exists before the write.

    The database may hold another primary key than the instance's own to be equal to it.
    """
    question, write = (deleting, changed, [cache for cache, _ in affected]), current_write(instance)
    if write is not None and write.needs_no_values == question:
        return []
    columns = _unread_columns(type(instance), affected, changed, deleting=deleting)
    if write is not None and not columns:
        write.needs_no_values = question
    return columns


def _unread_columns(model: type[Model], affected: Affected, changed: ChangedColumns, *, deleting: bool) -> list[str]:
    exact = [entries for _, written in affected for entries in written.exact]
    loose_keys = [entries.schema.pk for entries in exact if entries.rows.compares_loosely]
    if not deleting:
        wanted = [name for entries in exact for name in affected_entries(entries, changed).old_value_columns]
        return wanted + loose_keys + [pk_of(model) for _ in caches_hiding_rows(model, affected)]
    cascade_columns = [name for cache in caches_cascading_from(model) for name in cache.cascades.columns_needed(model)]
    return cascade_columns + loose_keys + [name for entries in exact for name in result_columns(entries)]
